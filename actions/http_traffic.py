"""Moving traffic between the members of a declared pool."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.http_declared import EndpointPool, HaproxyPool, NginxPool
from actions.http_executor import HttpExecutor, declared
from actions.http_haproxy import Haproxy
from actions.http_nginx import Nginx
from actions.http_pools import (
    Balancer,
    Member,
    Members,
    Share,
    facts_of,
    judged,
    member_of,
    refusal,
    share_of,
    wanted_share,
)
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
)
from oncall_agent.models import JsonObject


class DrainParams(Params):
    """Which member gets no more traffic."""

    pool: str = Field(min_length=1, max_length=64)
    """A name under `backends.http.pools`."""
    member: str = Field(min_length=1, max_length=200)
    """A name in that pool."""


class ShiftParams(DrainParams):
    """Which member gets how much."""

    weight: int = Field(ge=0, le=65_535)
    """Relative to the weights of the others; 0 drains."""


class Endpoints(Balancer):
    """A balancer that is spoken to by declared requests."""

    def __init__(self, pool: EndpointPool, executor: HttpExecutor) -> None:
        self._pool, self._executor = pool, executor

    async def read(self, ctx: ActionContext) -> Members:
        """Ask for weights and health."""
        secrets = self._pool.secret_headers
        weights = await self._executor.look(ctx, self._pool.read, secrets)
        healthy = await self._executor.look(ctx, self._pool.healthy, secrets)
        if not isinstance(weights, dict) or not isinstance(healthy, list):
            raise PermanentError("the balancer's answer is not an object of weights and a list of members")
        return {
            str(name): Member(str(name), Share(int(weight), drained=not int(weight)), name in healthy)
            for name, weight in weights.items()
            if isinstance(weight, int | float)
        }

    async def write(self, ctx: ActionContext, name: str, share: Share, key: str) -> None:
        """Send the weight."""
        values = {"member": name, "weight": share.effective}
        call, secrets = self._pool.write, self._pool.secret_headers
        (await self._executor.send(ctx, call, secrets, values, key=key)).check(call.expect_status)


class _TrafficExecutor(HttpExecutor):
    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, Share] = LRUCache(8192)

    def weight(self, ctx: ActionContext) -> int:
        """Give the weight that is asked for."""
        return int(getattr(ctx.params, "weight", 0))

    def balancer(self, name: str) -> Balancer:
        """Give what balances a pool."""
        pool = declared(self.conf.pools, name, "pool")
        if isinstance(pool, NginxPool):
            return Nginx(pool, self.http, self.conf.timeout_seconds)
        if isinstance(pool, HaproxyPool):
            return Haproxy(pool, self.conf.timeout_seconds)
        return Endpoints(pool, self)

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the members of every pool can be read."""
        counts = {name: len(await self.balancer(name).read(ctx)) for name in self.conf.pools}
        return Check(ok=True, reason=f"{len(counts)} pools", facts={"members": counts})

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the weights and who is up."""
        return facts_of(await self.balancer(ctx.params.pool).read(ctx))

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when too few others are healthy, the weight is that of now, or the member could not bear more."""
        if ctx.target.protected:
            return Check(ok=False, reason="the target is protected")
        try:
            balancer = self.balancer(ctx.params.pool)
            pool = self.conf.pools[ctx.params.pool]
            members = await balancer.read(ctx)
            before = member_of(members, ctx.params.member).share
        except PermanentError as error:
            return Check(ok=False, reason=error.message)
        if self.weight(ctx) > pool.max_weight:
            return Check(ok=False, reason=f"the pool's weights go up to {pool.max_weight}")
        wanted = wanted_share(before, self.weight(ctx))
        reason = refusal(members, ctx.params.member, wanted, pool.min_healthy)
        facts = {**facts_of(members), "before": before.facts(), "wanted": wanted.facts()}
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Put the weight into effect, unless it is; the members are looked at again just before."""
        balancer = self.balancer(ctx.params.pool)
        members = await balancer.read(ctx)
        before = member_of(members, ctx.params.member).share
        wanted = wanted_share(before, self.weight(ctx))
        facts: dict[str, Any] = {**facts_of(members), "before": before.facts(), "wanted": wanted.facts()}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if before.effective != wanted.effective or await balancer.unused_reason(ctx):
            reason = refusal(members, ctx.params.member, wanted, self.conf.pools[ctx.params.pool].min_healthy)
            if reason and before.effective != wanted.effective:
                raise PermanentError(reason)
            if before.effective != wanted.effective:
                self._before.setdefault(ctx.idempotency_key, before)
            await balancer.write(ctx, ctx.params.member, wanted, ctx.idempotency_key)
        known = self._before.get(ctx.idempotency_key)
        # None: a former process did it, and what was before stands with that attempt's precheck.
        return Receipt(self.spec.id, ctx.clock.now(), {**facts, "before": known.facts() if known else None})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Read the weight back, see that it is in use, and ask for the symptom where one is declared."""
        balancer, pool = self.balancer(ctx.params.pool), self.conf.pools[ctx.params.pool]

        async def change() -> Check:
            members = await balancer.read(ctx)
            now = member_of(members, ctx.params.member).share
            seen = judged(members, ctx.params.member, wanted_share(now, self.weight(ctx)))
            stale = await balancer.unused_reason(ctx) if seen.ok else ""
            return Check(ok=seen.ok and not stale, reason=seen.reason or stale, facts=seen.facts)

        return await self.settled(ctx, change, pool.symptom, pool.secret_headers)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Put the old weight into effect."""
        before = share_of(receipt.facts.get("before"))
        if before is None:
            return Check(ok=False, reason="what the weight was is not known")
        balancer = self.balancer(ctx.params.pool)
        if member_of(await balancer.read(ctx), ctx.params.member).share != before:
            await balancer.write(ctx, ctx.params.member, before, f"{ctx.idempotency_key}-undo")
        return judged(await balancer.read(ctx), ctx.params.member, before)


class ShiftTraffic(_TrafficExecutor):
    """Sets a member's weight."""

    spec = ActionSpec(
        id="http.shift_traffic",
        summary="Set the weight of one member of a load balancer's pool.",
        target_kind="*",
        params=ShiftParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.1,
        family="scale",
    )


class DrainBackend(_TrafficExecutor):
    """Takes a member out of its pool."""

    spec = ActionSpec(
        id="http.drain_backend",
        summary="Take one member of a load balancer's pool out of the traffic.",
        target_kind="*",
        params=DrainParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.1,
        family="kill",
    )
