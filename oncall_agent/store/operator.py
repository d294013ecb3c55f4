"""What an operator does to one incident: hand it to people, or let the daemon try again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import bindparam, select, update

from oncall_agent.errors import ConflictError, NotFoundError, OncallAgentError
from oncall_agent.models import Incident, IncidentState, Outcome, OutcomeReason, OutcomeStatus, Verdict
from oncall_agent.store import rows as read
from oncall_agent.store.audit import record
from oncall_agent.store.codec import dump
from oncall_agent.store.ledger import write_timeline
from oncall_agent.store.schema import approvals, attempts, incidents
from oncall_agent.store.statement import Statement
from oncall_agent.store.targets import leave
from oncall_agent.store.unit import Unit
from oncall_agent.store.values import TimelineEntry

Verb = Literal["escalate", "retry"]
_I, _T, _P = incidents.c, attempts.c, approvals.c
_READ = Statement(select(incidents).where(_I.id == bindparam("of")).with_for_update())
_BEGUN = Statement(select(_T.id).where(_T.incident_id == bindparam("of"), _T.finished_at.is_(None)))
_TWIN = Statement(
    select(_I.id).where(_I.key == bindparam("key"), _I.closed_at.is_(None), _I.id != bindparam("of"))
)
_ESCALATE = Statement(
    update(incidents)
    .where(_I.id == bindparam("of"))
    .values(
        state="escalated",
        end_reason="human_asked",
        closed_at=bindparam("at"),
        updated_at=bindparam("at"),
        # Whoever has it now has lost it: the next commit is refused before the world is touched.
        fence=_I.fence + 1,
        lease_owner="",
        lease_until=0.0,
    )
)
_INTERRUPT = Statement(
    update(attempts)
    .where(_T.incident_id == bindparam("of"), _T.finished_at.is_(None))
    .values(
        outcome=bindparam("value"),
        status=bindparam("ended"),
        reason=bindparam("why"),
        finished_at=bindparam("at"),
    )
)
_WITHDRAW = Statement(
    update(approvals)
    .where(_P.incident_id == bindparam("of"), _P.verdict == "pending")
    .values(verdict=Verdict.DENIED.value, decided_at=bindparam("at"))
)
_RETRY = Statement(
    update(incidents)
    .where(_I.id == bindparam("of"))
    .values(
        state="queued",
        phase="new",
        end_reason=None,
        closed_at=None,
        settle_until=None,
        run_after=0.0,
        claim_count=0,
        fence=_I.fence + 1,
        updated_at=bindparam("at"),
    )
)
_RUNNING: Final = "an attempt is being made right now: pause first, or wait for its end"


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's word about one incident."""

    incident_id: str
    verb: Verb
    identity: str
    now: float


@dataclass(frozen=True, slots=True)
class Operating:
    """Carries orders out; a retry counts against `max_open_incidents` as an opening does."""

    max_open_incidents: int

    def __call__(self, unit: Unit, orders: Sequence[Order]) -> list[Incident | OncallAgentError]:
        """Carry out all orders of one transaction, one answer each."""
        return [self._one(unit, order) for order in orders]

    def _one(self, unit: Unit, order: Order) -> Incident | OncallAgentError:
        row = unit.tx.row(_READ, of=order.incident_id)
        if row is None:
            return NotFoundError(f"there is no incident {order.incident_id}")
        incident = read.incident(row)
        work = _escalated if order.verb == "escalate" else self._retried
        objection = work(unit, incident, order)
        if objection is not None:
            return objection
        entry = "incident.escalated" if order.verb == "escalate" else "incident.retried"
        record(
            unit,
            order.now,
            identity=order.identity,
            verb=entry,
            subject=incident.id,
            detail={"was": incident.state},
        )
        line = TimelineEntry(entry, {"identity": order.identity, "was": incident.state})
        write_timeline(unit.tx, incident.id, order.now, (line,))
        after = unit.tx.row(_READ, of=incident.id)
        assert after is not None  # noqa: S101 - it was read above, in the same transaction
        return read.incident(after)

    def _retried(self, unit: Unit, incident: Incident, order: Order) -> ConflictError | None:
        if not incident.state.is_final:
            return ConflictError(f"incident {incident.id} is {incident.state}", code="not_final")
        if unit.tx.row(_TWIN, key=incident.key, of=incident.id) is not None:
            return ConflictError("another incident of the same kind is open", code="already_open")
        if unit.open_incidents() >= self.max_open_incidents:
            return ConflictError(f"{self.max_open_incidents} incidents are open", code="queue_full")
        unit.tx.run(_RETRY, of=incident.id, at=order.now)
        unit.moved(incident.id, incident.state, "queued", "incident.retried")
        return None


def _escalated(unit: Unit, incident: Incident, order: Order) -> ConflictError | None:
    if incident.state.is_final:
        return ConflictError(f"incident {incident.id} is {incident.state}", code="not_open")
    begun = unit.tx.rows(_BEGUN, of=incident.id)
    if begun and incident.state is IncidentState.RUNNING:
        return ConflictError(_RUNNING, code="attempt_running")
    if begun:
        _interrupt(unit, order)
    unit.tx.run(_ESCALATE, of=incident.id, at=order.now)
    unit.tx.run(_WITHDRAW, of=incident.id, at=order.now)
    unit.moved(incident.id, incident.state, "escalated", "incident.escalated")
    leave(unit, [(incident.target, incident.id)])
    return None


def _interrupt(unit: Unit, order: Order) -> None:
    """Close attempts that nobody will verify any more."""
    outcome = Outcome(
        OutcomeStatus.INTERRUPTED,
        OutcomeReason.CRASH_UNVERIFIED,
        f"escalated by {order.identity} before it was verified",
    )
    unit.tx.run(
        _INTERRUPT,
        of=order.incident_id,
        value=dump(outcome),
        ended=outcome.status.value,
        why=outcome.reason.value,
        at=order.now,
    )
