"""What one change adds to the ledger: decision, attempt, receipt, outcome, approval, timeline."""

from __future__ import annotations

from sqlalchemy import bindparam, func, insert, update

from oncall_agent.errors import ConflictError
from oncall_agent.store import rows as write
from oncall_agent.store.codec import dump, dump_or_none
from oncall_agent.store.schema import approvals, attempts, decisions, incidents, timeline
from oncall_agent.store.statement import Statement, Tx, insert_into
from oncall_agent.store.values import Change, Finished, TimelineEntry

_I, _T = incidents.c, attempts.c
_DECISION, _ATTEMPT, _APPROVAL = insert_into(decisions), insert_into(attempts), insert_into(approvals)
_TIMELINE = Statement(
    insert(timeline).values(
        incident_id=bindparam("incident_id"), at=bindparam("at"), entries=bindparam("entries")
    )
)
_BEFORE = Statement(update(incidents).where(_I.id == bindparam("of")).values(before=bindparam("value")))
_BEGUN = Statement(
    update(incidents).where(_I.id == bindparam("of")).values(attempt_count=_I.attempt_count + 1)
)
_RECEIPT = Statement(
    update(attempts)
    .where(_T.id == bindparam("of"), _T.incident_id == bindparam("within"))
    .values(receipt=bindparam("value"))
)
_OUTCOME = Statement(
    update(attempts)
    .where(_T.id == bindparam("of"), _T.incident_id == bindparam("within"))
    .values(
        outcome=bindparam("value"),
        finished_at=bindparam("at_end"),
        status=bindparam("ended"),
        reason=bindparam("why"),
        reward=bindparam("worth"),
        reward_terms=bindparam("terms"),
        before=func.coalesce(bindparam("health_before"), _T.before),
        after=bindparam("health_after"),
    )
)


def write_decision(tx: Tx, change: Change) -> None:
    """Write what was decided and the measurement that it rests on."""
    if change.decision is not None:
        tx.insert(_DECISION, [write.decision_row(change.decision, change.incident_id, change.context)])
    if change.before is not None:
        tx.run(_BEFORE, of=change.incident_id, value=dump(change.before))


def write_attempt(tx: Tx, change: Change) -> None:
    """Write the attempt that begins, what an attempt left behind, and how one ended.

    Raises:
        ConflictError: the change names an attempt that is not one of its incident.
    """
    if change.begin is not None:
        tx.insert(_ATTEMPT, [write.attempt_row(change.begin, change.before)])
        tx.run(_BEGUN, of=change.incident_id)
    if change.receipt is not None:
        attempt_id, receipt = change.receipt
        touched = tx.run(_RECEIPT, of=attempt_id, within=change.incident_id, value=dump(receipt))
        _expect(touched, attempt_id)
    if change.outcome is not None:
        _write_outcome(tx, change, change.outcome)


def _write_outcome(tx: Tx, change: Change, finished: Finished) -> None:
    reward = finished.reward
    touched = tx.run(
        _OUTCOME,
        of=finished.attempt_id,
        within=change.incident_id,
        value=dump(finished.outcome),
        at_end=change.at,
        ended=finished.outcome.status.value,
        why=finished.outcome.reason.value,
        worth=None if reward is None else reward.value,
        terms=dump_or_none(reward),
        health_before=dump_or_none(finished.before),
        health_after=dump_or_none(finished.after),
    )
    _expect(touched, finished.attempt_id)


def _expect(touched: int, attempt_id: str) -> None:
    if touched != 1:
        raise ConflictError(f"attempt {attempt_id} is not one of this incident", code="unknown_attempt")


def write_approval(tx: Tx, change: Change) -> None:
    """Write the question to people."""
    if change.approval is not None:
        tx.insert(_APPROVAL, [write.approval_row(change.approval)])


def write_timeline(tx: Tx, incident_id: str, at: float, entries: tuple[TimelineEntry, ...]) -> None:
    """Write the lines of one change as one row."""
    if entries:
        tx.run(_TIMELINE, incident_id=incident_id, at=at, entries=dump(entries))
