"""What is read of one incident and of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import bindparam, func, literal_column, select

from oncall_agent.errors import NotFoundError
from oncall_agent.models import IncidentState, SuppressReason
from oncall_agent.store import codec
from oncall_agent.store import rows as read
from oncall_agent.store.schema import alerts, approvals, attempts, decisions, incidents, timeline
from oncall_agent.store.statement import Statement, Tx
from oncall_agent.store.unit import read_counters
from oncall_agent.store.values import Conservation, IncidentDetail, StoredDecision

_MOST: Final = 100
_MOST_LINES: Final = 500
_I, _A = incidents.c, alerts.c
_INCIDENT = Statement(select(incidents).where(_I.id == bindparam("of")))
_ALERTS = Statement(
    select(alerts).where(_A.incident_id == bindparam("of")).order_by(_A.id.desc()).limit(_MOST)
)
_DECISIONS = Statement(
    select(decisions.c.body, decisions.c.context)
    .where(decisions.c.incident_id == bindparam("of"))
    .order_by(decisions.c.id.desc())
    .limit(bindparam("most"))
)
_ATTEMPTS = Statement(
    select(attempts)
    .where(attempts.c.incident_id == bindparam("of"))
    .order_by(attempts.c.id.desc())
    .limit(_MOST)
)
_APPROVALS = Statement(
    select(approvals)
    .where(approvals.c.incident_id == bindparam("of"))
    .order_by(approvals.c.id.desc())
    .limit(_MOST)
)
_TIMELINE = Statement(
    select(timeline.c.entries, timeline.c.at)
    .where(timeline.c.incident_id == bindparam("of"))
    .order_by(timeline.c.number.desc())
    .limit(_MOST_LINES)
)
_BY_STATE = Statement(select(_I.state, func.sum(_I.alert_count)).group_by(_I.state))
_BY_REASON = Statement(select(_A.reason, func.count()).where(_A.incident_id.is_(None)).group_by(_A.reason))
_REPEATS = Statement(
    select(func.coalesce(func.sum(_A.repeat_count), 0)).where(_A.repeat_count > literal_column("0"))
)
_ROWS = Statement(select(func.count()).select_from(alerts))


def incident_detail(tx: Tx, incident_id: str) -> IncidentDetail:
    """Give one incident with its story.

    Raises:
        NotFoundError: there is none with this id.
    """
    row = tx.row(_INCIDENT, of=incident_id)
    if row is None:
        raise NotFoundError(f"there is no incident {incident_id}")
    lines = [codec.entries(*found) for found in reversed(tx.rows(_TIMELINE, of=incident_id))]
    return IncidentDetail(
        incident=read.incident(row),
        alerts=tuple(read.stored_alert(found) for found in tx.rows(_ALERTS, of=incident_id)),
        decisions=tuple(reversed(_decisions(tx, incident_id, _MOST))),
        attempts=tuple(read.attempt_detail(found) for found in reversed(tx.rows(_ATTEMPTS, of=incident_id))),
        approvals=tuple(read.approval(found) for found in reversed(tx.rows(_APPROVALS, of=incident_id))),
        timeline=tuple(entry for entries in lines for entry in entries),
    )


def latest_decision(tx: Tx, incident_id: str) -> StoredDecision | None:
    """Give the newest decision about an incident with its inputs, None if there was none."""
    found = _decisions(tx, incident_id, 1)
    return found[0] if found else None


def _decisions(tx: Tx, incident_id: str, most: int) -> list[StoredDecision]:
    return [
        StoredDecision(codec.decision(body), codec.load(context))
        for body, context in tx.rows(_DECISIONS, of=incident_id, most=most)
    ]


def conservation(tx: Tx) -> Conservation:
    """Count the alerts, from one state of the database: `accepted` by its counter, all other terms by rows."""
    counted = read_counters(tx)
    held = {state: int(number) for state, number in tx.rows(_BY_STATE)}
    suppressed = _suppressed(tx, counted)
    final = {
        state: held.pop(state, 0) + counted.get(f"forgotten.{state}", 0)
        for state in (IncidentState.RESOLVED, IncidentState.ESCALATED, IncidentState.DEAD_LETTERED)
    }
    accepted, still_open = counted.get("accepted", 0), sum(held.values())
    found = sum(int(row[0]) for row in tx.rows(_ROWS)) + counted.get("forgotten.rows", 0)
    repeats = suppressed.get(SuppressReason.DUPLICATE, 0)
    return Conservation(
        accepted=accepted,
        open=still_open,
        resolved=final[IncidentState.RESOLVED],
        escalated=final[IncidentState.ESCALATED],
        dead_lettered=final[IncidentState.DEAD_LETTERED],
        suppressed=suppressed,
        # Both ways of counting must agree: by what became of the alerts, and by the alerts themselves.
        balanced=accepted == still_open + sum(final.values()) + sum(suppressed.values()) == found + repeats,
    )


def _suppressed(tx: Tx, counted: Mapping[str, int]) -> dict[str, int]:
    by_reason = {reason: int(number) for reason, number in tx.rows(_BY_REASON)}
    by_reason[SuppressReason.DUPLICATE] = sum(int(row[0]) for row in tx.rows(_REPEATS))
    return {
        reason.value: by_reason.get(reason, 0) + counted.get(f"forgotten.{reason}", 0)
        for reason in SuppressReason
    }


def state_counts(tx: Tx) -> dict[str, int]:
    """Give how many incidents are in each state, from the counters."""
    counted = read_counters(tx)
    return {state.value: counted.get(f"state.{state}", 0) for state in IncidentState}
