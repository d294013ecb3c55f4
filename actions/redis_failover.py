"""Redis failover: a replica takes over, asked for at the primary itself or at its sentinels."""

from __future__ import annotations

import asyncio
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.redis_client import KIND, Client, Place
from actions.redis_executor import RedisExecutor, mark_of, sampled
from actions.redis_facts import Replica, replicas_of
from actions.redis_sentinel import Sentinels
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    TransientError,
    held,
)
from oncall_agent.models import JsonObject

_PROBE_SECONDS = 60
_SHORT_SECONDS = 0.5


class FailoverParams(Params):
    """Who takes over, and how long that may take."""

    handover_seconds: float = Field(10.0, ge=0.5, le=60)
    """For the replica to catch up; then the primary stays what it is."""
    max_gap_bytes: int = Field(1_048_576, ge=0, le=1_073_741_824)
    """The replica may lack so much when it begins."""
    hold_seconds: float = Field(1.0, ge=0, le=120)


class Failover(RedisExecutor):
    """Makes a replica the primary, without losing writes while the old primary lives."""

    spec = ActionSpec(
        id="redis.failover",
        summary="Let a replica take over from its primary.",
        target_kind=KIND,
        params=FailoverParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=120.0,
        cooldown_seconds=1_800.0,
        blast_radius=2,
        cost=0.3,
        family="restart",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.sentinels = Sentinels(self.redis)
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse without a replica that is online and close behind, and without the sentinels' quorum."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        if self.place(ctx).server.sentinels:
            return await self._sentinel_precheck(ctx)
        info = await self.info(ctx)
        if info.get("redis_mode") == "cluster":
            return Check(ok=False, reason="the server is part of a cluster, which fails over by itself")
        if info.get("role") != "master":
            reason = f"the server is a replica of {info.get('master_host')}:{info.get('master_port')}"
            return Check(ok=False, reason=reason)
        chosen, reason = best(info, ctx.params.max_gap_bytes)
        facts = _facts(self.place(ctx), chosen) if chosen else {}
        return Check(ok=chosen is not None, reason=reason, instances=2, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Ask for the failover once and wait until the roles have changed."""
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return Receipt(self.spec.id, ctx.clock.now(), {**known, "already": True})
        if self.place(ctx).server.sentinels:
            return await self._by_sentinel(ctx)
        info = await self.info(ctx)
        if info.get("role") != "master":
            new = {"host": str(info.get("master_host")), "port": int(info.get("master_port") or 0)}
            return Receipt(
                self.spec.id, ctx.clock.now(), {"old": _address(self.place(ctx)), "new": new, "already": True}
            )
        chosen, reason = best(info, ctx.params.max_gap_bytes)
        if chosen is None:
            raise PermanentError(reason)
        facts = _facts(self.place(ctx), chosen)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        await self._hand_over(ctx, self.place(ctx), facts["new"])
        self._done[ctx.idempotency_key] = facts
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the new primary takes writes and the old one, if it lives, follows it."""
        new, old = receipt.facts.get("new"), receipt.facts.get("old")
        if not isinstance(new, dict):
            return Check(ok=False, reason="no failover was begun")

        async def sample() -> Check:
            place = self.place(ctx).at(new["host"], new["port"])
            role = (await self.ask(ctx, _replication, place)).get("role")
            if role != "master":
                return Check(ok=False, reason=f"the new primary's role is {role}")
            try:
                await self.ask(ctx, lambda client: client.set(mark_of(ctx), "1", ex=_PROBE_SECONDS), place)
            except PermanentError as error:
                return Check(ok=False, reason=f"writes are not ok: {error.message}")
            follows = await self._follows(ctx, old, new)
            return Check(
                ok=follows != "no", reason="" if follows != "no" else "two servers say that they are primary"
            )

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Fail back, once the old primary follows the new one closely; never onto a dead one."""
        new, old = receipt.facts.get("new"), receipt.facts.get("old")
        if not isinstance(new, dict) or not isinstance(old, dict):
            return Check(ok=False, reason="no failover was begun")
        place = self.place(ctx).at(new["host"], new["port"])
        info = await self.ask(ctx, _replication, place)
        if info.get("role") == "master":
            await self._wait_for_replica(ctx, place, old)
            await self._hand_over(ctx, place, old)
        now = await self.ask(ctx, _replication, self.place(ctx).at(old["host"], old["port"]))
        ok = now.get("role") == "master"
        return Check(ok=ok, reason="" if ok else "the old primary is not primary again", facts={"old": old})

    async def _hand_over(self, ctx: ActionContext, place: Place, new: JsonObject) -> None:
        milliseconds = int(ctx.params.handover_seconds * 1000)

        async def failover(client: Client) -> None:
            await client.execute_command("FAILOVER", "TO", new["host"], new["port"], "TIMEOUT", milliseconds)

        await self.ask(ctx, failover, place)
        end = ctx.clock.monotonic() + min(ctx.params.handover_seconds + 2.0, ctx.seconds_left)
        while ctx.clock.monotonic() < end:
            info = await self.ask(ctx, _replication, place)
            is_over = info.get("master_failover_state", "no-failover") == "no-failover"
            if info.get("role") != "master" and is_over:
                return
            if is_over:
                raise PermanentError("the replica did not catch up in time: the primary stays what it is")
            await ctx.clock.sleep(0.05)
        raise TransientError("the failover goes on for too long")

    async def _wait_for_replica(self, ctx: ActionContext, place: Place, old: JsonObject) -> None:
        while ctx.seconds_left > _SHORT_SECONDS:
            info = await self.ask(ctx, _replication, place)
            for one in replicas_of(info):
                gap = int(info.get("master_repl_offset") or 0) - one.offset
                is_old = one.port == old["port"] and one.host in (old["host"], "127.0.0.1")
                if is_old and one.state == "online" and gap <= ctx.params.max_gap_bytes:
                    return
            await ctx.clock.sleep(0.1)
        raise TransientError("the old primary does not follow the new one")

    async def _follows(self, ctx: ActionContext, old: Any, new: JsonObject) -> str:
        if not isinstance(old, dict):
            return "unknown"
        try:
            info = await self.ask(ctx, _replication, self.place(ctx).at(old["host"], old["port"]))
        except ActionError:
            return "dead"
        return "no" if info.get("role") == "master" else "yes"

    async def _sentinel_precheck(self, ctx: ActionContext) -> Check:
        place = self.place(ctx)
        reason = await self.sentinels.quorum_objection(ctx, place)
        if reason:
            return Check(ok=False, reason=reason)
        replicas = await self.sentinels.replicas(ctx, place)
        old = await self.sentinels.primary(ctx, place)
        facts = {"old": old, "good_replicas": len(replicas)}
        reason = "" if replicas else "the sentinels know no replica that could take over"
        return Check(ok=bool(replicas), reason=reason, instances=2, facts=facts)

    async def _by_sentinel(self, ctx: ActionContext) -> Receipt:
        place = self.place(ctx)
        old = await self.sentinels.primary(ctx, place)
        if not await _is_here(place, old):
            # Somebody, perhaps this attempt in another process, has moved the primary away already.
            facts: dict[str, Any] = {"old": _address(place), "new": old, "already": True}
            return Receipt(self.spec.id, ctx.clock.now(), facts)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), {"old": old}, planned=True)
        new = await self.sentinels.failover(ctx, place, old)
        facts = self._done[ctx.idempotency_key] = {"old": old, "new": new}
        return Receipt(self.spec.id, ctx.clock.now(), facts)


def best(info: JsonObject, max_gap_bytes: int) -> tuple[Replica | None, str]:
    """Give the replica that lacks least, or why none may take over."""
    offset = int(info.get("master_repl_offset") or 0)
    online = [one for one in replicas_of(info) if one.state == "online"]
    if not online:
        return None, "no replica is online"
    closest = max(online, key=lambda one: one.offset)
    gap = offset - closest.offset
    if gap > max_gap_bytes:
        return None, f"the closest replica lacks {gap} bytes"
    return closest, ""


def _address(place: Place) -> dict[str, Any]:
    return {"host": place.host or place.server.host, "port": place.port or place.server.port}


def _facts(place: Place, chosen: Replica) -> dict[str, Any]:
    return {"old": _address(place), "new": {"host": chosen.host, "port": chosen.port}}


async def _replication(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = await client.info(section="replication")
    return found


async def _is_here(place: Place, address: JsonObject) -> bool:
    """Say whether an address that the sentinels name is the configured one, perhaps by another name."""
    host, port = _address(place)["host"], _address(place)["port"]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port)
    except OSError:
        found = []
    return address["port"] == port and address["host"] in {host, *(str(one[4][0]) for one in found)}
