"""The list of stages, and the loop that walks it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from oncall_agent.models import UNKNOWN_TARGET
from oncall_agent.pipeline.acting import act, begin, recover, settle
from oncall_agent.pipeline.choosing import answer, approve, check, decide, guard, propose
from oncall_agent.pipeline.closing import finish, learn
from oncall_agent.pipeline.ending import close
from oncall_agent.pipeline.observing import observe
from oncall_agent.pipeline.run import Dropped, End, Run, Services
from oncall_agent.store import Claimed

Stage = Callable[[Run, Services], Awaitable[Run | End]]

STAGES: Final[tuple[Stage, ...]] = (
    recover,  # an attempt that another process began is verified first, never repeated
    settle,  # a fix that was made is watched until it has held
    observe,  # probes before; already healthy or too old ends here
    answer,  # what people said to an approval
    propose,  # what the runbooks offer, always with escalate and wait
    guard,  # what is permitted now, and why the rest is not
    check,  # what can be done: the prechecks, read-only
    decide,  # the policy picks one, with its propensity
    approve,  # level approve parks here; shadow and suggest end here
    begin,  # the attempt is written down, with the snapshot to go back to
    act,  # execute, verify, rollback
    learn,  # reward, one lesson for the policy
    finish,  # one transaction
)


async def handle(claimed: Claimed, services: Services, may_go_on: Callable[[], bool]) -> End:
    """Carry one claimed incident as far as it goes now; every way out is a named end.

    Args:
        may_go_on: False once the lease is lost or the process goes down; asked between every two stages.
    """
    incident = claimed.incident
    target = services.targets.get(incident.target) if incident.target != UNKNOWN_TARGET else None
    run = Run(claimed=claimed, target=target, may_go_on=may_go_on)
    for stage in STAGES:
        if not may_go_on():
            return Dropped("lease lost or going down")
        step = await stage(run, services)
        if not isinstance(step, Run):
            return await close(run, step, services)
        run = step
    return Dropped("unreachable: finish always ends")
