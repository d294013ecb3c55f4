"""What the policy may know of an incident at the moment of a decision, as JSON-safe values.

It is stored whole with the decision, so that the decision can be computed again. Pure; built by the pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from oncall_agent.errors import PolicyError
from oncall_agent.models import (
    UNKNOWN_TARGET,
    History,
    Incident,
    JsonObject,
    Measurement,
    OutcomeStatus,
    Severity,
    Signals,
    Target,
)

MAX_TRIED: Final = 16
"""Actions kept of those already tried: far above any limit of attempts."""

_DAY_SECONDS: Final = 86_400.0
_THURSDAY: Final = 3  # 1970-01-01
_SEVERITIES: Final = frozenset(severity.value for severity in Severity)
_TEXTS: Final = ("alert_class", "severity")
_OPTIONAL: Final = frozenset(
    {"score", "up", "cpu", "memory", "response_seconds", "error_rate", "error_lines", "tier"}
)


@dataclass(frozen=True, slots=True)
class Context:
    """Inputs of one context vector; None where nothing could be read.

    Attributes:
        hour: of the day in UTC, 0 <= hour < 24.
        weekday: 0 is Monday, UTC.
        score: health score 0..100.
        attempt: number that the next attempt of the incident would have, from 1.
        tried: action ids already tried in this incident, sorted.
        last_failed: the newest attempt of this incident failed.
        tier: of the target, None when the target is unknown.
        recurrences: how often the same trouble was opened of late.
    """

    alert_class: str
    severity: str
    hour: float
    weekday: int
    open_incidents: int
    attempt: int
    recurrences: int
    flapping: bool
    last_failed: bool
    tried: tuple[str, ...] = ()
    tier: int | None = None
    score: float | None = None
    up: bool | None = None
    cpu: float | None = None
    memory: float | None = None
    response_seconds: float | None = None
    error_rate: float | None = None
    error_lines: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Give plain values that survive JSON."""
        return {**asdict(self), "tried": list(self.tried)}

    @classmethod
    def from_json(cls, stored: JsonObject) -> Self:
        """Give the context that `to_json` wrote.

        Raises:
            PolicyError: a field is missing, unknown, of another type or not finite.
        """
        names = {field.name for field in fields(cls)}
        if set(stored) != names:
            raise PolicyError(f"context: fields differ: {sorted(set(stored) ^ names)}")
        _check(stored)
        return cls(**{**stored, "tried": tuple(stored["tried"])})


def context(
    incident: Incident, target: Target | None, measurement: Measurement | None, history: History, now: float
) -> Context:
    """Give what the policy may know of this incident now.

    Args:
        incident: as claimed; the number of its attempts is the one so far.
        target: None or the entry named `unknown` when the configuration does not know it.
        measurement: None when nothing was measured; readings that are no finite number count as not read.
        history: as read with the claim; only attempts of this incident count as tried.
        now: epoch seconds; hour and weekday are taken from it in UTC.
    """
    signals = measurement.signals if measurement else Signals()
    known = target is not None and target.name != UNKNOWN_TARGET
    own = [attempt for attempt in history.attempts if attempt.incident_id == incident.id]
    last = own[0].outcome if own else None
    return Context(
        alert_class=incident.alert_class,
        severity=incident.severity.value,
        hour=(now % _DAY_SECONDS) / 3600.0,
        weekday=(int(now // _DAY_SECONDS) + _THURSDAY) % 7,
        open_incidents=history.open_incidents,
        attempt=incident.attempt_count + 1,
        recurrences=history.recurrences,
        flapping=incident.flapping,
        last_failed=last is not None and last.status is OutcomeStatus.FAILED,
        tried=tuple(sorted({attempt.action for attempt in own}))[:MAX_TRIED],
        tier=target.tier if known and target is not None else None,
        score=_finite(measurement.score) if measurement else None,
        up=signals.up,
        cpu=_finite(signals.cpu),
        memory=_finite(signals.memory),
        response_seconds=_finite(signals.response_seconds),
        error_rate=_finite(signals.error_rate),
        error_lines=signals.error_lines,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _check(stored: Mapping[str, Any]) -> None:
    """Refuse stored values that `encode` could not read."""
    for name, value in stored.items():
        if name in _TEXTS:
            good = isinstance(value, str)
        elif name == "tried":
            good = isinstance(value, (list, tuple)) and all(isinstance(action, str) for action in value)
        elif value is None:
            good = name in _OPTIONAL
        else:
            good = isinstance(value, (int, float)) and math.isfinite(value)
        if not good:
            raise PolicyError(f"context: {name}: not usable: {value!r:.80}")
    if stored["severity"] not in _SEVERITIES:
        raise PolicyError(f"context: severity: unknown: {stored['severity']!r:.80}")
