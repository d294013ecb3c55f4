"""Committing changes of claimed incidents: fenced, whole or not at all, many in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, select, update

from oncall_agent.errors import StaleLeaseError
from oncall_agent.models import IncidentState, Refusal
from oncall_agent.store.codec import dump
from oncall_agent.store.ledger import write_approval, write_attempt, write_decision, write_timeline
from oncall_agent.store.limits import Limits
from oncall_agent.store.policy_state import write_update
from oncall_agent.store.schema import incidents
from oncall_agent.store.statement import Row, Statement, each
from oncall_agent.store.targets import is_held_in, leave
from oncall_agent.store.unit import Unit
from oncall_agent.store.usage import Usage
from oncall_agent.store.values import Change, FeedItem, Move

_I = incidents.c
_ids = each("ids")

_FENCES = Statement(
    select(_I.id, _I.fence, _I.state, _I.target)
    .where(_I.id.in_(select(_ids.c.value)))
    .order_by(_I.id)
    .with_for_update()
)
_STAY = Statement(
    update(incidents)
    .where(_I.id == bindparam("of"))
    .values(
        phase=bindparam("to_phase"),
        run_after=bindparam("due"),
        settle_until=bindparam("settle"),
        end_reason=bindparam("end"),
        updated_at=bindparam("at"),
    )
)
_MOVE = Statement(
    update(incidents)
    .where(_I.id == bindparam("of"))
    .values(
        state=bindparam("to_state"),
        phase=bindparam("to_phase"),
        run_after=bindparam("due"),
        settle_until=bindparam("settle"),
        updated_at=bindparam("at"),
        closed_at=bindparam("closed"),
        end_reason=bindparam("end"),
        lease_owner="",
        lease_until=0.0,
        claim_count=0,
    )
)


@dataclass(frozen=True, slots=True)
class Committing:
    """Writes changes; `limits` has the last word on attempts that begin."""

    limits: Limits
    usage: Usage

    def __call__(self, unit: Unit, changes: Sequence[Change]) -> list[Refusal | StaleLeaseError | None]:
        """Write all changes of one transaction; one answer each."""
        current = {row[0]: row for row in _fences(unit, changes)}
        left: list[tuple[str, str]] = []
        answers = [self._one(unit, change, current, left) for change in changes]
        leave(unit, left)
        return answers

    def _one(
        self, unit: Unit, change: Change, current: dict[str, Row], left: list[tuple[str, str]]
    ) -> Refusal | StaleLeaseError | None:
        row = current.get(change.incident_id)
        if row is None or row[1] != change.fence or row[2] != IncidentState.RUNNING:
            return StaleLeaseError(f"incident {change.incident_id} is no longer this worker's")
        refusal = self.limits.refusal(unit.tx, change)
        write_decision(unit.tx, change)
        if refusal is not None:
            return refusal
        self._write(unit, change)
        if change.move is not None:
            _move(unit, change, change.move, row, left)
            if not change.move.keep_lease:
                del current[change.incident_id]
        return None

    def _write(self, unit: Unit, change: Change) -> None:
        tx = unit.tx
        write_attempt(tx, change)
        if change.begin is not None:
            self.usage.add(tx, [change.begin])
        write_approval(tx, change)
        if change.update is not None:
            write_update(tx, change.update, change.at)
        write_timeline(tx, change.incident_id, change.at, change.timeline)
        unit.news.extend(FeedItem(change.incident_id, "running", entry.name) for entry in change.timeline)


def _fences(unit: Unit, changes: Sequence[Change]) -> list[Row]:
    return unit.tx.rows(_FENCES, ids=dump(sorted({change.incident_id for change in changes})))


def _move(unit: Unit, change: Change, move: Move, row: Row, left: list[tuple[str, str]]) -> None:
    common = {
        "of": change.incident_id,
        "to_phase": move.phase.value,
        "due": move.run_after,
        "settle": move.settle_until,
        "at": change.at,
        "end": None if move.end_reason is None else move.end_reason.value,
    }
    if move.keep_lease:
        unit.tx.run(_STAY, **common)
        return
    unit.tx.run(
        _MOVE,
        **common,
        to_state=move.state.value,
        closed=change.at if move.state.is_final else None,
    )
    unit.moved(change.incident_id, "running", move.state.value, f"incident.{move.state.value}")
    # A timer may now be the earliest one: whoever waits for work has to look again.
    unit.has_work = unit.has_work or move.state is IncidentState.PARKED
    if not is_held_in(move.state, move.phase):
        left.append((row[3], change.incident_id))
