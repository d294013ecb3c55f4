"""Values of the domain to JSON text and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from oncall_agent.models import (
    Autonomy,
    Candidate,
    Check,
    Control,
    Decision,
    Measurement,
    Mode,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Permitted,
    Receipt,
    Refusal,
    RefusalReason,
    Reward,
    RollbackStatus,
    Scored,
    Signals,
    Silence,
)
from oncall_agent.store.values import TimelineEntry

_OPTIONS = orjson.OPT_NON_STR_KEYS
_MOST_INTEGER = 2**63 - 1
Json = dict[str, Any]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    # What an executor puts into its evidence must never keep the outcome from being written down.
    return str(value)[:1000]


def dump(value: Any) -> str:
    """Give JSON text of a value: frozen dataclasses as objects, enums as their values."""
    try:
        return orjson.dumps(value, default=_plain, option=_OPTIONS).decode()
    except TypeError:
        # Integers beyond 64 bits and broken Unicode: slower, but written down.
        return json.dumps(_unrolled(value), default=str)


def _unrolled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _unrolled(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_unrolled(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and abs(value) > _MOST_INTEGER:
        return str(value)
    fields = getattr(type(value), "__dataclass_fields__", None)
    if fields is None:
        return value
    return {name: _unrolled(getattr(value, name)) for name in fields}


def dump_or_none(value: Any) -> str | None:
    """Give JSON text, None for None."""
    return None if value is None else dump(value)


def load(text: str) -> Any:
    """Read JSON text."""
    return orjson.loads(text)


def clean(text: str) -> str:
    """Give the text without NUL, which PostgreSQL does not take."""
    return text.replace("\x00", "�") if "\x00" in text else text


def candidate(raw: Json) -> Candidate:
    """Read a candidate."""
    return Candidate(**raw)


def decision(text: str) -> Decision:
    """Read a decision."""
    raw = load(text)
    chosen = raw["chosen"]
    raw["chosen"] = Permitted(candidate(chosen["candidate"]), Autonomy(chosen["level"]))
    raw["mode"] = Mode(raw["mode"])
    raw["features"] = tuple(raw["features"])
    raw["scored"] = tuple(
        Scored(**{**row, "candidate": candidate(row["candidate"])}) for row in raw["scored"]
    )
    raw["refused"] = tuple(refusal(row) for row in raw["refused"])
    return Decision(**raw)


def refusal(raw: Json) -> Refusal:
    """Read a refusal."""
    return Refusal(candidate(raw["candidate"]), RefusalReason(raw["reason"]), raw["detail"])


def measurement(text: str | None) -> Measurement | None:
    """Read a measurement, None from nothing."""
    if text is None:
        return None
    raw = load(text)
    raw["signals"] = Signals(**raw["signals"])
    return Measurement(**raw)


def receipt(text: str | None) -> Receipt | None:
    """Read a receipt, None from nothing."""
    return None if text is None else Receipt(**load(text))


def _check(raw: Json | None) -> Check | None:
    return None if raw is None else Check(**raw)


def outcome(text: str | None) -> Outcome | None:
    """Read an outcome, None from nothing."""
    if text is None:
        return None
    raw = load(text)
    return Outcome(
        status=OutcomeStatus(raw["status"]),
        reason=OutcomeReason(raw["reason"]),
        detail=raw["detail"],
        precheck=_check(raw["precheck"]),
        receipt=None if raw["receipt"] is None else Receipt(**raw["receipt"]),
        verification=_check(raw["verification"]),
        rollback=RollbackStatus(raw["rollback"]),
        timings=raw["timings"],
        retries=raw["retries"],
    )


def reward(text: str | None) -> Reward | None:
    """Read a reward, None from nothing."""
    return None if text is None else Reward(**load(text))


def entries(text: str, at: float) -> tuple[TimelineEntry, ...]:
    """Read the timeline entries of one change, each with its time."""
    return tuple(
        TimelineEntry(row["name"], row["fields"], at if row["at"] is None else row["at"])
        for row in load(text)
    )


def control(text: str) -> Control:
    """Read the switches."""
    raw = load(text)
    raw["overrides"] = {key: Autonomy(level) for key, level in raw["overrides"].items()}
    raw["silences"] = tuple(Silence(**row) for row in raw["silences"])
    return Control(**raw)
