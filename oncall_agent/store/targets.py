"""One incident per target at a time: who holds a target, who waits for it, who is next."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import bindparam, delete, select, update

from oncall_agent.models import UNKNOWN_TARGET, IncidentState, Phase
from oncall_agent.store.codec import dump
from oncall_agent.store.schema import held_targets, incidents, state_is
from oncall_agent.store.statement import Statement, each, insert_into
from oncall_agent.store.unit import Unit

_I, _H = incidents.c, held_targets.c
_wanted = each("targets")
_HOLDERS = Statement(select(_H.target, _H.incident_id).where(_H.target.in_(select(_wanted.c.value))))
_HOLD = insert_into(held_targets)
_RELEASE = Statement(
    delete(held_targets).where(_H.target == bindparam("of"), _H.incident_id == bindparam("by"))
)
_NEXT = Statement(
    select(_I.id)
    .where(_I.target == bindparam("of"), state_is("blocked"))
    .order_by(_I.priority, _I.opened_at, _I.id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_QUEUE = Statement(update(incidents).where(_I.id == bindparam("of")).values(state="queued"))


def holders(unit: Unit, targets: Iterable[str]) -> dict[str, str]:
    """Give target -> id of the incident that holds it, for those that are held."""
    wanted = sorted({target for target in targets if target != UNKNOWN_TARGET})
    return dict(unit.tx.rows(_HOLDERS, targets=dump(wanted))) if wanted else {}


def hold(unit: Unit, pairs: Iterable[tuple[str, str]]) -> None:
    """Write down who holds what: (target, incident id) pairs that are free."""
    unit.tx.insert(_HOLD, list(pairs))


def is_held_in(state: IncidentState, phase: Phase) -> bool:
    """Whether an incident keeps its target there: while a worker has it, and while a fix settles."""
    if state is IncidentState.PARKED:
        return phase in (Phase.SETTLING, Phase.ATTEMPTING)
    return state is IncidentState.RUNNING


def leave(unit: Unit, pairs: Iterable[tuple[str, str]]) -> None:
    """Give targets up and queue the best of those that wait for each.

    `pairs` are targets with the incident that leaves; it need not hold the target. If somebody else does,
    nobody is queued: the holder will do that when it leaves.
    """
    left = [pair for pair in pairs if pair[0] != UNKNOWN_TARGET]
    if not left:
        return
    unit.tx.insert(_RELEASE, left)
    held = holders(unit, [target for target, _ in left])
    for target in dict.fromkeys(target for target, _ in left):
        if target in held:
            continue
        following = unit.tx.row(_NEXT, of=target)
        if following is not None:
            unit.tx.run(_QUEUE, of=following[0])
            unit.moved(following[0], "blocked", "queued", "incident.queued")
