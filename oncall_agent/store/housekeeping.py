"""Forgetting what is too old, a slice at a time; what is forgotten stays counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, bindparam, delete, func, select
from sqlalchemy.schema import Table

from oncall_agent.models import SuppressReason
from oncall_agent.store.codec import dump
from oncall_agent.store.policy_state import forget_policy
from oncall_agent.store.schema import alerts, approvals, attempts, decisions, incidents, timeline
from oncall_agent.store.statement import Row, Statement, Tx, each
from oncall_agent.store.unit import Unit
from oncall_agent.store.usage import Usage

SLICE: Final = 200
_DAY_SECONDS: Final = 86_400.0
_I, _A = incidents.c, alerts.c
_ids, _signals = each("ids"), each("signals")
_OLD = Statement(
    select(_I.id, _I.state, _I.alert_count)
    .where(_I.closed_at.is_not(None), _I.closed_at < bindparam("before"))
    .order_by(_I.closed_at)
    .limit(SLICE)
)
_REPEATS = Statement(
    select(func.coalesce(func.sum(_A.repeat_count), 0), func.count()).where(
        _A.incident_id.in_(select(_ids.c.value))
    )
)
_OLD_SUPPRESSED = Statement(
    select(_A.signal, _A.status, _A.reason, _A.repeat_count)
    .where(_A.incident_id.is_(None), _A.received_at < bindparam("before"))
    .order_by(_A.received_at)
    .limit(SLICE)
)
_FORGET_ALERT = Statement(delete(alerts).where(_A.signal == bindparam("of"), _A.status == bindparam("said")))


def _forget(table: Table, column: ColumnElement[str]) -> Statement:
    return Statement(delete(table).where(column.in_(select(_ids.c.value))))


_FORGET_EACH: Final = (
    *(_forget(table, table.c.incident_id) for table in (alerts, decisions, attempts, approvals, timeline)),
    _forget(incidents, _I.id),
)


@dataclass(frozen=True, slots=True)
class Housekeeping:
    """Deletes a slice of what is older than the retention."""

    retention_days: int
    usage: Usage

    def __call__(self, unit: Unit, times: Sequence[float]) -> list[int]:
        """Delete one slice per request; give how many incidents and suppressed alerts went."""
        return [self._one(unit, now) for now in times]

    def _one(self, unit: Unit, now: float) -> int:
        before = now - self.retention_days * _DAY_SECONDS
        self.usage.prune(unit.tx, now)
        forget_policy(unit.tx, before)
        return _forget_incidents(unit, before) + _forget_suppressed(unit, before)


def _forget_incidents(unit: Unit, before: float) -> int:
    found = unit.tx.rows(_OLD, before=before)
    if not found:
        return 0
    ids = dump([row[0] for row in found])
    repeats, number = unit.tx.rows(_REPEATS, ids=ids)[0]
    unit.count("forgotten.rows", int(number))
    unit.count(f"forgotten.{SuppressReason.DUPLICATE}", int(repeats))
    for _, state, alert_count in found:
        unit.count(f"forgotten.{state}", alert_count)
        unit.count(f"state.{state}", -1)
    for statement in _FORGET_EACH:
        unit.tx.run(statement, ids=ids)
    return len(found)


def _forget_suppressed(unit: Unit, before: float) -> int:
    found: list[Row] = unit.tx.rows(_OLD_SUPPRESSED, before=before)
    _delete(unit.tx, found)
    counts = Counter(row[2] for row in found)
    for reason, number in counts.items():
        unit.count(f"forgotten.{reason}", number)
    unit.count("forgotten.rows", len(found))
    unit.count(f"forgotten.{SuppressReason.DUPLICATE}", sum(row[3] for row in found))
    return len(found)


def _delete(tx: Tx, found: Sequence[Row]) -> None:
    tx.many(_FORGET_ALERT, ({"of": row[0], "said": row[1]} for row in found))
