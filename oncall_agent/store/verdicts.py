"""What people say: votes on approvals, and what the clock says when nobody does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import bindparam, select, update
from sqlalchemy.sql.elements import literal_column

from oncall_agent.errors import ConflictError, NotFoundError, OncallAgentError
from oncall_agent.models import Approval, Phase, Verdict
from oncall_agent.store import rows as read
from oncall_agent.store.audit import record
from oncall_agent.store.codec import clean, dump
from oncall_agent.store.ledger import write_timeline
from oncall_agent.store.schema import approvals, incidents
from oncall_agent.store.statement import Statement
from oncall_agent.store.unit import Unit
from oncall_agent.store.values import TimelineEntry

_P, _I = approvals.c, incidents.c
_SLICE: Final = 500
_PENDING = _P.verdict == literal_column("'pending'")  # literal: the partial index is only used so
_BY_ID = Statement(select(approvals).where(_P.id == bindparam("of")).with_for_update())
_BY_INCIDENT = Statement(
    select(approvals)
    .where(_P.incident_id == bindparam("of"))
    .order_by(_P.id.desc())
    .limit(1)
    .with_for_update()
)
_LAPSED = Statement(
    select(approvals)
    .where(_PENDING, _P.expires_at <= bindparam("now"))
    .order_by(_P.expires_at)
    .limit(_SLICE)
    .with_for_update(skip_locked=True)
)
_DECIDE = Statement(
    update(approvals)
    .where(_P.id == bindparam("of"))
    .values(verdict=bindparam("said"), voters=bindparam("by"), decided_at=bindparam("at"))
)
_AWAITING = Statement(
    select(_I.phase).where(_I.id == bindparam("of"), _I.state == "awaiting_approval").with_for_update()
)
_QUEUE = Statement(
    update(incidents)
    .where(_I.id == bindparam("of"))
    .values(state="queued", phase=bindparam("to_phase"), run_after=0.0, updated_at=bindparam("at"))
)


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's answer to an approval, named by its own id or its incident's."""

    subject_id: str
    identity: str
    approve: bool
    now: float


def vote(unit: Unit, votes: Sequence[Vote]) -> list[Approval | OncallAgentError]:
    """Count votes, one answer each."""
    return [_one(unit, cast) for cast in votes]


def _one(unit: Unit, cast: Vote) -> Approval | OncallAgentError:
    row = unit.tx.row(_BY_ID, of=cast.subject_id) or unit.tx.row(_BY_INCIDENT, of=cast.subject_id)
    if row is None:
        return NotFoundError(f"there is no approval {cast.subject_id}")
    found = read.approval(row)
    return _objection(found, cast) or _counted(unit, found, cast)


def _objection(found: Approval, cast: Vote) -> ConflictError | None:
    if found.verdict is not Verdict.PENDING:
        return ConflictError(f"approval {found.id} is already {found.verdict}", code="not_pending")
    if cast.now >= found.expires_at:
        return ConflictError(f"approval {found.id} has expired", code="expired")
    if cast.approve and clean(cast.identity) in found.voters:
        return ConflictError(
            f"{cast.identity} has approved already: another person is needed", code="same_person"
        )
    return None


def _counted(unit: Unit, found: Approval, cast: Vote) -> Approval:
    voters = (*found.voters, clean(cast.identity)) if cast.approve else found.voters
    verdict = Verdict.DENIED if not cast.approve else Verdict.PENDING
    if cast.approve and len(voters) >= found.needed:
        verdict = Verdict.APPROVED
    decided_at = None if verdict is Verdict.PENDING else cast.now
    after = replace(found, voters=voters, verdict=verdict, decided_at=decided_at)
    _decide(unit, after)
    entry = "approval.granted" if cast.approve else "approval.denied"
    detail = {"approval_id": found.id, "action": found.action, "target": found.target, "verdict": verdict}
    record(unit, cast.now, identity=cast.identity, verb=entry, subject=found.incident_id, detail=detail)
    _tell(unit, after, entry, cast.now, {**detail, "identity": cast.identity})
    return after


def _decide(unit: Unit, after: Approval) -> None:
    unit.tx.run(_DECIDE, of=after.id, said=after.verdict.value, by=dump(after.voters), at=after.decided_at)


def _tell(unit: Unit, after: Approval, entry: str, now: float, fields: dict[str, object]) -> None:
    """Write the timeline and, once the verdict is final, let a worker go on with the incident."""
    write_timeline(unit.tx, after.incident_id, now, (TimelineEntry(entry, fields),))
    if after.verdict is Verdict.PENDING:
        return
    row = unit.tx.row(_AWAITING, of=after.incident_id)
    if row is not None:
        phase = Phase.APPROVED.value if after.verdict is Verdict.APPROVED else row[0]
        unit.tx.run(_QUEUE, of=after.incident_id, to_phase=phase, at=now)
        unit.moved(after.incident_id, "awaiting_approval", "queued", entry)


def expire(unit: Unit, times: Sequence[float]) -> list[int]:
    """Deny what nobody answered in time: the silence of people is a no."""
    return [_expire(unit, now) for now in times]


def _expire(unit: Unit, now: float) -> int:
    lapsed = [read.approval(row) for row in unit.tx.rows(_LAPSED, now=now)]
    for found in lapsed:
        after = replace(found, verdict=Verdict.EXPIRED, decided_at=now)
        _decide(unit, after)
        _tell(unit, after, "approval.expired", now, {"approval_id": found.id})
    return len(lapsed)
