"""The lists that people page through: newest first, continued by the last id seen."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Select, bindparam, literal_column, select, union_all

from oncall_agent.errors import PayloadError
from oncall_agent.models import FINAL_STATES, OPEN_STATES, Approval, Attempt, Incident, IncidentState
from oncall_agent.store import rows as read
from oncall_agent.store.schema import approvals, attempts, incidents
from oncall_agent.store.statement import Row, Statement, Tx
from oncall_agent.store.values import Page

MOST: Final = 1000
_I, _T, _P = incidents.c, attempts.c, approvals.c
_GROUPS: Final = {"open": tuple(sorted(OPEN_STATES)), "final": tuple(sorted(FINAL_STATES))}
_PENDING = Statement(
    select(approvals).where(_P.verdict == literal_column("'pending'")).order_by(_P.expires_at).limit(MOST)
)
_ANY_APPROVAL = Statement(select(approvals).order_by(_P.id.desc()).limit(100))


def states_of(state: str | None) -> tuple[str, ...]:
    """Give the states that a filter word means; none for no filter.

    Raises:
        PayloadError: there is no such state.
    """
    if state is None:
        return ()
    if state in _GROUPS:
        return _GROUPS[state]
    try:
        return (IncidentState(state),)
    except ValueError:
        raise PayloadError(f"there is no state {state!r}", field="state") from None


def list_incidents(
    tx: Tx,
    states: tuple[str, ...],
    *,
    alert_class: str | None,
    target: str | None,
    limit: int,
    cursor: str | None,
) -> Page[Incident]:
    """Give one page of incidents."""
    statement = _incidents(states, alert_class is not None, target is not None, cursor is not None)
    limit = max(1, min(limit, MOST))
    found = tx.rows(statement, alert_class=alert_class, target=target, cursor=cursor, most=limit + 1)
    page, following = _cut(found, limit)
    return Page(tuple(read.incident(row) for row in page), following)


def list_attempts(
    tx: Tx, action: str | None, incident_id: str | None, limit: int, cursor: str | None
) -> Page[Attempt]:
    """Give one page of the ledger."""
    statement = _attempts(action is not None, incident_id is not None, cursor is not None)
    limit = max(1, min(limit, MOST))
    found = tx.rows(statement, action=action, incident_id=incident_id, cursor=cursor, most=limit + 1)
    page, following = _cut(found, limit)
    return Page(tuple(read.attempt(row) for row in page), following)


def list_approvals(tx: Tx, *, pending_only: bool) -> tuple[Approval, ...]:
    """Give the open questions, the most urgent first, or the newest hundred of all."""
    return tuple(read.approval(row) for row in tx.rows(_PENDING if pending_only else _ANY_APPROVAL))


def _cut(found: list[Row], limit: int) -> tuple[list[Row], str | None]:
    return found[:limit], found[limit - 1][0] if len(found) > limit else None


@lru_cache(maxsize=128)
def _incidents(states: tuple[str, ...], has_class: bool, has_target: bool, has_cursor: bool) -> Statement:
    """Give the query for one combination of filters.

    Several states are read one by one and merged: each is a short walk along its index, however many
    incidents of other states lie between.
    """
    query: Select[Any] = select(incidents)
    if has_class:
        query = query.where(_I.alert_class == bindparam("alert_class"))
    if has_target:
        query = query.where(_I.target == bindparam("target"))
    if has_cursor:
        query = query.where(_I.id < bindparam("cursor"))
    if not states:
        return Statement(query.order_by(_I.id.desc()).limit(bindparam("most")))
    parts = [
        select(
            query.where(_I.state == literal_column(f"'{state}'"))
            .order_by(_I.id.desc())
            .limit(bindparam("most"))
            .subquery()
        )
        for state in states
    ]
    if len(parts) == 1:
        return Statement(parts[0])
    merged = union_all(*parts)
    return Statement(merged.order_by(merged.selected_columns.id.desc()).limit(bindparam("most")))


@lru_cache(maxsize=8)
def _attempts(has_action: bool, has_incident: bool, has_cursor: bool) -> Statement:
    query = select(attempts)
    if has_action:
        query = query.where(_T.action == bindparam("action"))
    if has_incident:
        query = query.where(_T.incident_id == bindparam("incident_id"))
    if has_cursor:
        query = query.where(_T.id < bindparam("cursor"))
    return Statement(query.order_by(_T.id.desc()).limit(bindparam("most")))
