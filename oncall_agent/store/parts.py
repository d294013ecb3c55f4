"""Which part of a transaction writes which kind of request, in the order of writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oncall_agent.errors import OncallAgentError
from oncall_agent.settings.model import FlapSettings, GroupingSettings, StoreSettings
from oncall_agent.store.accept import Acceptance
from oncall_agent.store.claim import Claiming, renew, void_leases
from oncall_agent.store.commit import Committing
from oncall_agent.store.control import read_control, switch
from oncall_agent.store.housekeeping import Housekeeping
from oncall_agent.store.limits import Limits
from oncall_agent.store.operator import Operating
from oncall_agent.store.past import Past
from oncall_agent.store.policy_state import write_checkpoint
from oncall_agent.store.statement import Tx
from oncall_agent.store.unit import Unit
from oncall_agent.store.usage import Usage
from oncall_agent.store.verdicts import expire, vote
from oncall_agent.store.writer import Part


def parts_of(
    settings: StoreSettings,
    *,
    flap: FlapSettings,
    grouping: GroupingSettings,
    rate_window_seconds: float,
    is_shared: bool,
) -> Mapping[str, Part]:
    """Give the writer's parts. Claims come last, so that they see what the same transaction brought."""
    usage = Usage(rate_window_seconds)
    claiming = Claiming(Past(usage, flap.window_seconds))
    return {
        "release": void_leases,
        "accept": Acceptance(flap, grouping, settings.max_open_incidents),
        "commit": Committing(Limits(usage, is_shared=is_shared), usage),
        "vote": vote,
        "expire": expire,
        "operator": Operating(settings.max_open_incidents),
        "control": switch,
        "checkpoint": _keep_checkpoints,
        "housekeeping": Housekeeping(settings.retention_days, usage),
        "renew": renew,
        "claim": _refreshing(claiming) if is_shared else claiming,
        "read": _answer,
    }


def _keep_checkpoints(unit: Unit, checkpoints: Sequence[tuple[int, bytes, float]]) -> list[None]:
    for version, blob, now in checkpoints:
        write_checkpoint(unit.tx, version, blob, now)
    return [None] * len(checkpoints)


def _refreshing(claiming: Part) -> Part:
    """Look at the switches with each claim, where another process may have changed them."""

    def claim(unit: Unit, wishes: Sequence[Any]) -> Sequence[Any]:
        unit.control = unit.control or read_control(unit.tx)
        return claiming(unit, wishes)

    return claim


def _answer(unit: Unit, questions: Sequence[Callable[[Tx], Any]]) -> list[Any]:
    answers: list[Any] = []
    for question in questions:
        try:
            answers.append(question(unit.tx))
        except OncallAgentError as error:
            answers.append(error)
    return answers
