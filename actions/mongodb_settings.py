"""MongoDB settings that may be changed at run time: a few parameters, and the profiler of a database."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from cachetools import LRUCache
from pydantic import Field

from actions.mongodb_client import KIND
from actions.mongodb_executor import NO_MONGOD, MongoExecutor, sampled
from actions.mongodb_facts import is_router
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

BOUNDS: dict[str, tuple[int, int]] = {
    "cursorTimeoutMillis": (60_000, 3_600_000),
    "transactionLifetimeLimitSeconds": (5, 3_600),
    "maxIndexBuildMemoryUsageMegabytes": (50, 2_000),
    "notablescan": (0, 1),
    "ttlMonitorEnabled": (0, 1),
}
"""Parameter -> least and greatest value; no other one is ever set."""


class Setting(MongoExecutor):
    """Sets something that can be read, and puts back what was there."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    @abstractmethod
    async def read(self, ctx: ActionContext) -> JsonObject:
        """Give the value of now."""

    @abstractmethod
    async def write(self, ctx: ActionContext, value: JsonObject) -> None:
        """Set it."""

    @abstractmethod
    def wanted(self, ctx: ActionContext) -> JsonObject:
        """Give the value that the parameters ask for."""

    async def refusal(self, ctx: ActionContext) -> str:
        """Give why it may not be set here, or an empty text."""
        return self.objection(ctx)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is not on the list, beyond its bounds, or set so already."""
        reason = await self.refusal(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        facts = {"before": await self.read(ctx), "wanted": self.wanted(ctx)}
        reason = "it is set so already" if _is_set(facts["before"], facts["wanted"]) else ""
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set it, unless it is set by now: a value set twice is the same value."""
        now, wanted = await self.read(ctx), self.wanted(ctx)
        facts = self._before.get(ctx.idempotency_key) or {"before": now, "wanted": wanted}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        self._before[ctx.idempotency_key] = facts
        if not _is_set(now, wanted):
            reason = await self.refusal(ctx)
            if reason:
                raise PermanentError(reason)
            await self.write(ctx, wanted)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it reads back as it was set."""
        wanted = receipt.facts.get("wanted") or self.wanted(ctx)

        async def sample() -> Check:
            now = await self.read(ctx)
            ok = _is_set(now, wanted)
            return Check(ok=ok, reason="" if ok else f"it reads {dict(now)}", facts={"value": now})

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Put the old value back."""
        before = receipt.facts.get("before")
        if not isinstance(before, dict):
            return Check(ok=False, reason="the old value is not known")
        if not _is_set(await self.read(ctx), before):
            await self.write(ctx, before)
        ok = _is_set(await self.read(ctx), before)
        return Check(ok=ok, reason="" if ok else "the old value is not back")


def _is_set(now: JsonObject, wanted: JsonObject) -> bool:
    return all(now.get(key) == value for key, value in wanted.items())


class ParameterParams(Params):
    """Which parameter, and to what."""

    name: Literal[
        "cursorTimeoutMillis",
        "transactionLifetimeLimitSeconds",
        "maxIndexBuildMemoryUsageMegabytes",
        "notablescan",
        "ttlMonitorEnabled",
    ]
    """No other parameter is ever set."""
    value: int = Field(ge=0, le=3_600_000)
    """In the parameter's own unit; 0 or 1 for those that are off or on."""
    hold_seconds: float = Field(1.0, ge=0, le=120)
    """For so long it has to read back unchanged."""


class SetParameter(Setting):
    """Sets one server parameter out of a short list, within bounds."""

    spec: ClassVar[ActionSpec] = ActionSpec(
        id="mongodb.set_parameter",
        summary="Set one of a few server parameters, within bounds.",
        target_kind=KIND,
        params=ParameterParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.05,
        family="scale",
        unproven=NO_MONGOD,
    )

    async def refusal(self, ctx: ActionContext) -> str:
        """Refuse what is beyond the bounds."""
        least, most = BOUNDS[ctx.params.name]
        beyond = f"{ctx.params.value} is not {least} to {most}"
        return self.objection(ctx) or ("" if least <= ctx.params.value <= most else beyond)

    def wanted(self, ctx: ActionContext) -> JsonObject:
        """Give the value; what is off or on is no number for the server."""
        is_switch = BOUNDS[ctx.params.name] == (0, 1)
        return {"value": bool(ctx.params.value) if is_switch else ctx.params.value}

    async def read(self, ctx: ActionContext) -> JsonObject:
        """Ask for it."""
        name = ctx.params.name
        found = await self.command(ctx, {"getParameter": 1, name: 1})
        if name not in found:
            raise PermanentError(f"the server has no parameter {name}")
        return {"value": found[name]}

    async def write(self, ctx: ActionContext, value: JsonObject) -> None:
        """Set it until the next restart."""
        await self.command(ctx, {"setParameter": 1, ctx.params.name: value["value"]})


class ProfilingParams(Params):
    """How much the profiler of a database writes down."""

    database: str = Field(min_length=1, max_length=63, pattern=r"^[^./\\ \"$]+$")
    """One of the deployment's `databases`."""
    level: Literal[0, 1] = 1
    """0 nothing, 1 what is slow; everything (2) would slow the server itself."""
    slow_milliseconds: int = Field(100, ge=10, le=60_000)
    """What counts as slow; this holds for the whole server, also for its log."""
    hold_seconds: float = Field(1.0, ge=0, le=120)
    """For so long it has to read back unchanged."""


class Profiling(Setting):
    """Switches the profiler of one database on or off."""

    spec: ClassVar[ActionSpec] = ActionSpec(
        id="mongodb.profiling",
        summary="Switch the profiler of a database on or off, and say what counts as slow.",
        target_kind=KIND,
        params=ProfilingParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.02,
        family="other",
        unproven=NO_MONGOD,
    )

    async def refusal(self, ctx: ActionContext) -> str:
        """Refuse a database that is not listed, and a router, which has no profiler."""
        place = await self.place(ctx)
        reason = self.objection(ctx)
        if not reason and ctx.params.database not in place.deployment.databases:
            reason = f"{ctx.params.database} is not among the databases of {place.name}"
        if not reason and is_router(await self.hello(ctx, place)):
            reason = "a router has no profiler: name a member of a shard"
        return reason

    def wanted(self, ctx: ActionContext) -> JsonObject:
        """Give level and threshold."""
        return {"was": ctx.params.level, "slowms": ctx.params.slow_milliseconds}

    async def read(self, ctx: ActionContext) -> JsonObject:
        """Ask for both."""
        found = await self.command(ctx, {"profile": -1}, database=ctx.params.database)
        return {key: found[key] for key in ("was", "slowms") if key in found}

    async def write(self, ctx: ActionContext, value: JsonObject) -> None:
        """Set both."""
        document = {"profile": value["was"], "slowms": value["slowms"]}
        await self.command(ctx, document, database=ctx.params.database)
