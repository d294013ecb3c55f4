"""The context vector: the only place that knows what its columns mean.

A change of the columns changes `SCHEMA` by itself; a change of how a value is computed must raise the version
in `LAYOUT`: a policy never reads columns that it did not learn. Pure; called before each decision.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import numpy as np
import numpy.typing as npt

from oncall_agent.errors import PolicyError
from oncall_agent.models import Severity
from oncall_agent.policy.context import Context, context
from oncall_agent.policy.layout import Group, Layout

FloatArray = npt.NDArray[np.float64]

__all__ = ["COLUMNS", "LAYOUT", "SCHEMA", "Context", "context", "encode"]

CLASS_BUCKETS: Final = 24
CLASS_CODES: Final = 3
"""Each class lights up this many of the buckets: 2024 codes, so that two classes are hardly ever the same,
whatever an operator names them."""
TRIED_BUCKETS: Final = 6


def _with_missing(label: str, scale: float) -> Group:
    """Give a value and the flag that says that it could not be read: a missing reading is not a zero."""
    column = label.replace(" ", "_")
    return Group(label, (column, f"{column}_missing"), scale)


LAYOUT: Final = Layout(
    version=1,
    groups=(
        Group("always", ("always",), 0.5),
        Group("class", tuple(f"class_{bucket}" for bucket in range(CLASS_BUCKETS)), 1.0),
        Group("severity", tuple(f"severity_{severity.value}" for severity in Severity), 0.3),
        Group("hour", ("hour_sin", "hour_cos"), 0.15),
        Group("weekday", ("weekday_sin", "weekday_cos"), 0.1),
        _with_missing("health", 0.3),
        _with_missing("down", 0.3),
        _with_missing("cpu", 0.3),
        _with_missing("memory", 0.3),
        _with_missing("error rate", 0.3),
        _with_missing("response time", 0.3),
        _with_missing("error lines", 0.2),
        Group("open incidents", ("open_incidents",), 0.2),
        Group("attempt", ("attempt",), 0.3),
        Group("tried before", tuple(f"tried_{bucket}" for bucket in range(TRIED_BUCKETS)), 0.5),
        Group("last attempt failed", ("last_failed",), 0.3),
        Group("flapping", ("flapping",), 0.2),
        _with_missing("tier", 0.2),
        Group("recurrences", ("recurrences",), 0.2),
    ),
)
COLUMNS: Final = LAYOUT.columns
SCHEMA: Final = LAYOUT.schema

_CODE_VALUE: Final = 1.0 / math.sqrt(CLASS_CODES)
_SEVERITIES: Final = tuple(severity.value for severity in Severity)


def encode(context: Context) -> FloatArray:
    """Give the context vector: (d,) float64, columns in `COLUMNS`, every value in -1..1.

    Raises:
        PolicyError: a number in the context is not finite.

    Example:
        >>> calm = Context("disk_full", "warning", 3.5, 0, 1, 1, 0, flapping=False, last_failed=False)
        >>> dict(zip(COLUMNS, encode(calm)))["cpu_missing"]
        np.float64(1.0)
    """
    return np.array(
        [
            1.0,
            *_class_code(context.alert_class),
            *[1.0 if context.severity == severity else 0.0 for severity in _SEVERITIES],
            *_cyclic(context.hour / 24.0),
            *_cyclic(context.weekday / 7.0),
            *_share(context.score, 100.0),
            *_share(None if context.up is None else not context.up, 1.0),
            *_share(context.cpu, 1.0),
            *_share(context.memory, 1.0),
            *_share(context.error_rate, 1.0),
            *_log_share(context.response_seconds, 60.0),
            *_log_share(context.error_lines, 1000.0),
            _log_share(context.open_incidents, 1000.0)[0],
            _share(context.attempt - 1, 5.0)[0],
            *_tried_flags(context.tried),
            1.0 if context.last_failed else 0.0,
            1.0 if context.flapping else 0.0,
            *_share(context.tier, 5.0),
            _log_share(context.recurrences, 100.0)[0],
        ]
    )


def _class_code(alert_class: str) -> list[float]:
    code = [0.0] * CLASS_BUCKETS
    for bucket in list(dict.fromkeys(_digest(alert_class, CLASS_BUCKETS)))[:CLASS_CODES]:
        code[bucket] = _CODE_VALUE
    return code


def _tried_flags(tried: tuple[str, ...]) -> list[float]:
    flags = [0.0] * TRIED_BUCKETS
    for action in tried:
        flags[_digest(action, TRIED_BUCKETS)[0]] = 1.0
    return flags


def _digest(text: str, size: int) -> list[int]:
    """Give 16 bucket numbers below `size`, the same on every machine (the built-in hash is not)."""
    return [byte % size for byte in hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()]


def _cyclic(turn: float) -> tuple[float, float]:
    """Give a place on a circle, so that 23:59 is next to 0:00."""
    angle = 2.0 * math.pi * _checked(turn)
    return math.sin(angle), math.cos(angle)


def _share(value: float | None, full: float) -> tuple[float, float]:
    """Give (value as a part of `full`, missing)."""
    if value is None:
        return 0.0, 1.0
    share = _checked(value) / full
    return min(1.0, max(0.0, share)), 0.0


def _log_share(value: float | None, full: float) -> tuple[float, float]:
    """Give (value on a logarithmic scale up to `full`, missing)."""
    if value is None:
        return 0.0, 1.0
    return _share(math.log1p(max(0.0, _checked(value))) / math.log1p(full), 1.0)


def _checked(value: float) -> float:
    if not math.isfinite(value):
        raise PolicyError(f"context: not a finite number: {value}")
    return value
