"""The switches that outlive a restart: one row, changed under audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from oncall_agent.models import Autonomy, Control
from oncall_agent.store import codec
from oncall_agent.store.audit import record
from oncall_agent.store.schema import control
from oncall_agent.store.statement import Statement, Tx, upsert
from oncall_agent.store.unit import Unit
from oncall_agent.store.values import ControlChange, FeedItem

_READ = Statement(select(control.c.version, control.c.body).where(control.c.id == 1).with_for_update())
_PEEK = Statement(select(control.c.version, control.c.body).where(control.c.id == 1))
_WRITE = upsert(control, ["id"], lambda _, new: {"version": new.version, "body": new.body})


@dataclass(frozen=True, slots=True)
class Switching:
    """One operator's change of the switches."""

    change: ControlChange
    identity: str
    now: float


def changed(control: Control, change: ControlChange, identity: str, now: float) -> Control:
    """Give the switches after a change; silences that are over are dropped."""
    values: dict[str, Any] = {}
    if change.paused is not None:
        values |= {
            "paused": change.paused,
            "paused_by": identity if change.paused else "",
            "paused_reason": change.reason if change.paused else "",
        }
    if change.draining is not None:
        values["draining"] = change.draining
    if change.frozen_until is not None:
        lifted = change.frozen_until <= now
        values |= {
            "frozen_until": None if lifted else change.frozen_until,
            "freeze_reason": "" if lifted else change.reason,
        }
    gone = {silence.id for silence in change.add_silences} | set(change.remove_silences)
    kept = tuple(silence for silence in control.silences if silence.id not in gone and silence.ends_at > now)
    values["silences"] = kept + tuple(change.add_silences)
    values["overrides"] = _overrides(control, change)
    return replace(control, **values)


def _overrides(control: Control, change: ControlChange) -> dict[str, Autonomy]:
    merged = {**control.overrides, **change.overrides}
    return {key: level for key, level in merged.items() if level is not None}


def read_control(tx: Tx, *, to_write: bool = False) -> tuple[int, Control]:
    """Give the switches and how often they were changed."""
    row = tx.row(_READ if to_write else _PEEK)
    return (0, Control()) if row is None else (row[0], codec.control(row[1]))


def switch(unit: Unit, requests: Sequence[Switching]) -> list[Control]:
    """Write changes in turn."""
    answers = []
    for request in requests:
        version, current = read_control(unit.tx, to_write=True)
        after = changed(current, request.change, request.identity, request.now)
        unit.tx.insert(_WRITE, [(1, version + 1, codec.dump(after))])
        record(
            unit,
            request.now,
            identity=request.identity,
            verb="control.changed",
            subject="control",
            detail=_plain(request.change),
        )
        unit.control = (version + 1, after)
        unit.news.append(FeedItem("", "", "control.changed"))
        # Whoever waits may have to stop, or may go on.
        unit.has_work = True
        answers.append(after)
    return answers


def _plain(change: ControlChange) -> dict[str, Any]:
    """Give what a change says, without what it leaves alone."""
    raw: dict[str, Any] = codec.load(codec.dump(change))
    return {key: value for key, value in raw.items() if value not in (None, "", {}, [])}
