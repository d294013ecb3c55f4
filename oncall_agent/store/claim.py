"""Claiming: the best incidents that may run now, leased to a worker, one per target at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, select, update

from oncall_agent.models import UNKNOWN_TARGET
from oncall_agent.store.codec import dump
from oncall_agent.store.past import Past
from oncall_agent.store.schema import incidents, state_is
from oncall_agent.store.statement import Row, Statement, each
from oncall_agent.store.targets import hold, holders
from oncall_agent.store.unit import Unit
from oncall_agent.store.values import Claimed

_I = incidents.c
_ids = each("ids")
_SCAN: Final = 256
"""Rows looked at per room and round: those in the way of a held target are moved out of the room for good."""
_MOST_ROUNDS: Final = 8

_LAPSED = Statement(
    select(incidents)
    .where(state_is("running"), _I.lease_until <= bindparam("now"))
    .order_by(_I.lease_until)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_DUE = Statement(
    select(incidents)
    .where(state_is("parked"), _I.run_after <= bindparam("now"))
    .order_by(_I.run_after)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_QUEUED = Statement(
    select(incidents)
    .where(state_is("queued"))
    .order_by(_I.priority, _I.opened_at, _I.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_LEASE = Statement(
    update(incidents)
    .where(_I.id == bindparam("of"))
    .values(
        state="running",
        lease_owner=bindparam("worker"),
        lease_until=bindparam("until"),
        fence=_I.fence + 1,
        claim_count=_I.claim_count + 1,
        updated_at=bindparam("now"),
    )
)
_BLOCK = Statement(update(incidents).where(_I.id == bindparam("of")).values(state="blocked"))
_LEASES = Statement(
    select(_I.id, _I.fence).where(_I.id.in_(select(_ids.c.value)), _I.state == "running").with_for_update()
)
_RENEW = Statement(update(incidents).where(_I.id == bindparam("of")).values(lease_until=bindparam("until")))
_VOID = Statement(update(incidents).where(state_is("running")).values(lease_until=0.0))


@dataclass(frozen=True, slots=True)
class Wish:
    """A worker's request for incidents."""

    worker: str
    limit: int
    lease_seconds: float
    now: float


@dataclass(frozen=True, slots=True)
class Renewal:
    """Leases, as (incident id, fence), that are to last longer."""

    leases: Sequence[tuple[str, int]]
    lease_seconds: float
    now: float


@dataclass(frozen=True, slots=True)
class Claiming:
    """Leases incidents; `past` reads what a worker must know of them."""

    past: Past

    def __call__(self, unit: Unit, wishes: Sequence[Wish]) -> list[list[Claimed]]:
        """Serve all wishes of one transaction in turn."""
        return [self._claim(unit, wish) for wish in wishes]

    def _claim(self, unit: Unit, wish: Wish) -> list[Claimed]:
        taken: list[Row] = []
        blocked: list[Row] = []
        for _ in range(_MOST_ROUNDS):
            found = _candidates(unit, wish.now, _SCAN if blocked else min(max(wish.limit * 2, 8), _SCAN))
            free, blocked = _by_target(unit, found, wish.limit - len(taken))
            _block(unit, blocked)
            _lease(unit, free, wish)
            taken.extend(free)
            if len(taken) >= wish.limit or not blocked:
                break
        # There may be more than was asked for, or than was looked at.
        unit.has_work = unit.has_work or len(taken) >= wish.limit or bool(blocked)
        return self.past.claimed(unit, taken, wish.now)


def _candidates(unit: Unit, now: float, most: int) -> list[Row]:
    """Give what may run now: lapsed leases first, then by severity and age."""
    tx = unit.tx
    lapsed = tx.rows(_LAPSED, now=now, most=most)
    waiting = tx.rows(_DUE, now=now, most=most) + tx.rows(_QUEUED, most=most)
    waiting.sort(key=lambda row: (row[5], row[10], row[0]))
    return lapsed + waiting


def _by_target(unit: Unit, found: Iterable[Row], wanted: int) -> tuple[list[Row], list[Row]]:
    """Divide into those whose target is free (at most `wanted`) and those that have to wait for it."""
    rows = list(found)
    held = holders(unit, (row[3] for row in rows))
    free: list[Row] = []
    blocked: list[Row] = []
    for row in rows:
        if row[3] != UNKNOWN_TARGET and held.get(row[3], row[0]) != row[0]:
            blocked.append(row)
        elif len(free) < wanted:
            free.append(row)
            held[row[3]] = row[0]
    return free, blocked


def _block(unit: Unit, blocked: Sequence[Row]) -> None:
    unit.tx.many(_BLOCK, ({"of": row[0]} for row in blocked))
    for row in blocked:
        unit.moved(row[0], row[6], "blocked", "incident.blocked")


def _lease(unit: Unit, free: Sequence[Row], wish: Wish) -> None:
    until = wish.now + wish.lease_seconds
    unit.tx.many(
        _LEASE, ({"of": row[0], "worker": wish.worker, "until": until, "now": wish.now} for row in free)
    )
    held = holders(unit, (row[3] for row in free))
    hold(unit, [(row[3], row[0]) for row in free if row[3] != UNKNOWN_TARGET and row[3] not in held])
    for row in free:
        unit.moved(row[0], row[6], "running", "incident.claimed")


def renew(unit: Unit, renewals: Sequence[Renewal]) -> list[set[str]]:
    """Lengthen leases; give the ids that are still held by these fences."""
    ids = sorted({incident_id for renewal in renewals for incident_id, _ in renewal.leases})
    fences: dict[str, int] = dict(unit.tx.rows(_LEASES, ids=dump(ids))) if ids else {}
    answers = []
    for renewal in renewals:
        until = renewal.now + renewal.lease_seconds
        kept = {incident_id for incident_id, fence in renewal.leases if fences.get(incident_id) == fence}
        unit.tx.many(_RENEW, ({"of": incident_id, "until": until} for incident_id in sorted(kept)))
        answers.append(kept)
    return answers


def void_leases(unit: Unit, requests: Sequence[float]) -> list[int]:
    """Make all leases lapse: whoever had them is gone."""
    number = unit.tx.run(_VOID)
    unit.has_work = True
    return [number] * len(requests)
