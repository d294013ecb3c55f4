"""What a pool of members looks like whatever balances it, and when one may be taken out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from oncall_agent.contract import ActionContext, Check, PermanentError
from oncall_agent.models import JsonObject

_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Share:
    """How much traffic a member is to get; drained is none at all, the weight is kept for later."""

    weight: int
    drained: bool

    @property
    def effective(self) -> int:
        """The weight that counts now."""
        return 0 if self.drained else self.weight

    def facts(self) -> dict[str, Any]:
        """Give it for a receipt."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a pool."""

    name: str
    share: Share
    is_up: bool

    @property
    def takes_traffic(self) -> bool:
        """Whether it is up and gets some."""
        return self.is_up and self.share.effective > 0


Members = Mapping[str, Member]


class Balancer(ABC):
    """What puts shares into effect: a file and a reload, a socket, or requests."""

    @abstractmethod
    async def read(self, ctx: ActionContext) -> Members:
        """Give every member, with its health; errors as an executor's."""

    @abstractmethod
    async def write(self, ctx: ActionContext, name: str, share: Share, key: str) -> None:
        """Put one member's share into effect; the same once more changes nothing."""

    async def unused_reason(self, ctx: ActionContext) -> str:
        """Give the reason why what is written down is not in use, or an empty text."""
        return ""


def member_of(members: Members, name: str) -> Member:
    """Give a member.

    Raises:
        PermanentError: there is none of that name.
    """
    found = members.get(name)
    if found is None:
        raise PermanentError(f"the pool has no member {name!r}")
    return found


def wanted_share(before: Share, weight: int) -> Share:
    """Give the share that a weight asks for: 0 drains and keeps the weight, any other ends a drain."""
    return Share(before.weight, drained=True) if weight == 0 else Share(weight, drained=False)


def refusal(members: Members, name: str, wanted: Share, min_healthy: int) -> str:
    """Give the reason why a member's share may not be changed so, or an empty text."""
    before = members[name].share
    if before == wanted or (before.drained and wanted.drained):
        return "the member has that weight"
    others = sum(member.takes_traffic for other, member in members.items() if other != name)
    if wanted.effective == 0 and others < min_healthy:
        return f"only {others} other members are healthy, {min_healthy} must be"
    if wanted.effective > before.effective and not members[name].is_up:
        return "the member is not up: it may not get more traffic"
    return ""


def judged(members: Members, name: str, wanted: Share) -> Check:
    """Say whether a member's share is as wanted."""
    share = member_of(members, name).share
    ok = share.effective == wanted.effective
    return Check(ok=ok, reason="" if ok else f"the weight is {share.effective}", facts=facts_of(members))


def facts_of(members: Members) -> dict[str, Any]:
    """Give the evidence to keep."""
    shown = list(members.values())[:_SHOWN]
    return {
        "weights": {one.name: one.share.effective for one in shown},
        "up": [one.name for one in shown if one.is_up],
    }


def share_of(facts: JsonObject | None) -> Share | None:
    """Give the share that a receipt keeps."""
    return Share(int(facts["weight"]), bool(facts["drained"])) if facts else None
