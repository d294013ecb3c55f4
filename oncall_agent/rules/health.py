"""Health as one number: 100 is well, 0 is down, None means that nothing could be read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from oncall_agent.models import Signals
from oncall_agent.settings.model import HealthSettings

_RESPONSE_FULL = 5.0
"""The full penalty for slow answers is reached at this multiple of what counts as slow."""


def score(signals: Signals, weights: HealthSettings) -> float | None:
    """Give the health 0..100; a target that is down has 0; None when there was no signal at all."""
    if signals.up is False:
        return 0.0
    penalties = _penalties(signals, weights)
    read = [penalty for penalty in penalties if penalty is not None]
    if not read and signals.up is None:
        return None
    return max(0.0, 100.0 - sum(read))


def _penalties(signals: Signals, weights: HealthSettings) -> tuple[float | None, ...]:
    slow = weights.response_high_seconds
    return (
        _ramp(signals.cpu, weights.cpu_high, 1.0, weights.cpu),
        _ramp(signals.memory, weights.memory_high, 1.0, weights.memory),
        _ramp(signals.response_seconds, slow, _RESPONSE_FULL * slow, weights.response),
        _ramp(signals.error_rate, 0.0, weights.error_rate_full, weights.errors),
        _ramp(signals.error_lines, 0.0, weights.error_lines_full, weights.error_lines),
    )


def _ramp(value: float | None, low: float, full: float, points: float) -> float | None:
    """Give 0 up to `low`, all points from `full` on, linear between; a value that is no number was not read."""
    if value is None or math.isnan(value):
        return None
    return points * min(1.0, max(0.0, (value - low) / (full - low)))


def merge(readings: Sequence[Signals]) -> Signals:
    """Give the worst of each signal over several probes of one target."""
    ups = [reading.up for reading in readings if reading.up is not None]
    return Signals(
        up=all(ups) if ups else None,
        cpu=_worst([reading.cpu for reading in readings]),
        memory=_worst([reading.memory for reading in readings]),
        response_seconds=_worst([reading.response_seconds for reading in readings]),
        error_rate=_worst([reading.error_rate for reading in readings]),
        error_lines=max((r.error_lines for r in readings if r.error_lines is not None), default=None),
    )


def _worst(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None and not math.isnan(value)), default=None)
