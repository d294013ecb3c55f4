"""MongoDB sharded clusters: the balancer, and a router that no longer knows where the data is."""

from __future__ import annotations

from typing import ClassVar

from cachetools import LRUCache
from pydantic import Field

from actions.mongodb_client import KIND
from actions.mongodb_executor import NO_MONGOD, MongoExecutor, sampled
from actions.mongodb_facts import is_migrating, is_router
from actions.mongodb_settings import Setting
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    held,
)
from oncall_agent.models import JsonObject


class BalancerParams(Params):
    """How long it has to stay so."""

    hold_seconds: float = Field(1.0, ge=0, le=120)
    """For so long the balancer has to read back unchanged."""


def _balancer(verb: str, summary: str) -> ActionSpec:
    return ActionSpec(
        id=f"mongodb.balancer_{verb}",
        summary=summary,
        target_kind=KIND,
        params=BalancerParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.05,
        family="scale",
        unproven=NO_MONGOD,
    )


class _Balancer(Setting):
    """The balancer of a sharded cluster, asked for at a router."""

    mode: ClassVar[str]

    async def refusal(self, ctx: ActionContext) -> str:
        """Refuse what is no router, and while a chunk is being moved."""
        return await router_objection(self, ctx)

    def wanted(self, ctx: ActionContext) -> JsonObject:
        """Give the mode."""
        return {"mode": self.mode}

    async def read(self, ctx: ActionContext) -> JsonObject:
        """Ask for the mode."""
        return {"mode": str((await self.command(ctx, {"balancerStatus": 1})).get("mode"))}

    async def write(self, ctx: ActionContext, value: JsonObject) -> None:
        """Start it, or stop it and wait for the round that it is in."""
        verb = "balancerStop" if value["mode"] == "off" else "balancerStart"
        await self.command(ctx, {verb: 1, "maxTimeMS": int(ctx.seconds_left * 900) + 1}, is_long=True)


class BalancerStop(_Balancer):
    """Stops moving chunks."""

    spec = _balancer("stop", "Stop the balancer of a sharded cluster.")
    mode = "off"


class BalancerStart(_Balancer):
    """Lets chunks be moved again."""

    spec = _balancer("start", "Start the balancer of a sharded cluster.")
    mode = "full"


class RouterParams(Params):
    """By which collection the router is judged."""

    namespace: str = Field(max_length=200, pattern=r"^[^.$]+\.[^$]+$")
    """A sharded collection, `database.collection`, that the router fails to reach."""
    hold_seconds: float = Field(1.0, ge=0, le=120)
    """For so long the router has to reach it afterwards."""


class FlushRouterConfig(MongoExecutor):
    """Makes a router read anew where the data is."""

    spec = ActionSpec(
        id="mongodb.flush_router_config",
        summary="Make a router forget what it knows of the shards and read it anew.",
        target_kind=KIND,
        params=RouterParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="nothing is lost by it: the router reads it anew at the next operation",
        deadline_seconds=60.0,
        cost=0.02,
        family="cache",
        exemptions={"rollback_restores": "there is nothing to restore: the router reads it anew"},
        unproven=NO_MONGOD,
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, bool] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is no router, while a chunk is being moved, and a router that reaches its data."""
        reason = await router_objection(self, ctx)
        if reason:
            return Check(ok=False, reason=reason)
        said = await self._trouble(ctx)
        reason = "" if said else "the router reaches the collection"
        return Check(ok=bool(said), reason=reason, facts={"trouble": said})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Flush once; a router that reaches the collection by now is left alone."""
        said = await self._trouble(ctx)
        facts = {"trouble": said}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if not said or ctx.idempotency_key in self._done:
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "already": True})
        await self.command(ctx, {"flushRouterConfig": 1})
        self._done[ctx.idempotency_key] = True
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the router reaches the collection."""

        async def sample() -> Check:
            said = await self._trouble(ctx)
            return Check(ok=not said, reason=said)

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    async def _trouble(self, ctx: ActionContext) -> str:
        """Ask for something that has to be routed, and hold no data; give what went wrong."""
        database, _, collection = ctx.params.namespace.partition(".")
        try:
            await self.command(ctx, {"listIndexes": collection, "cursor": {}}, database=database)
        except PermanentError as error:
            if "refuses our user" in error.message:
                raise
            return error.message
        return ""


async def router_objection(executor: MongoExecutor, ctx: ActionContext) -> str:
    """Give why a router must not be told anything now, or an empty text."""
    reason = executor.objection(ctx)
    if reason:
        return reason
    place = await executor.place(ctx)
    if not is_router(await executor.hello(ctx, place)):
        return f"{place.host} is no router of a sharded cluster"
    if is_migrating(await executor.current(ctx, place)):
        return "a chunk is being moved"
    return ""
