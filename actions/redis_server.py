"""Redis settings that may be changed at run time: memory limit, what is evicted, when idle clients are closed."""

from __future__ import annotations

from typing import Any, Literal, Self

from cachetools import LRUCache
from pydantic import Field, model_validator

from actions.redis_client import KIND, Place, RedisSettings
from actions.redis_executor import RedisExecutor, sampled
from actions.redis_facts import Memory, errors_of, memory_of
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

_TIMEOUTS = range(10, 86_401)
_PAGE = 4_096
_POLICIES = (
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
)


class ConfigParams(Params):
    """Which setting, and to what."""

    name: Literal["maxmemory", "maxmemory-policy", "timeout"]
    """No other setting is ever touched."""
    value: str = Field("", max_length=40)
    """Bytes for `maxmemory`, a policy's name, seconds for `timeout` (0 never closes idle clients)."""
    host_share: float | None = Field(None, gt=0, le=0.95)
    """Or, for `maxmemory`, the share of the host's memory."""
    hold_seconds: float = Field(1.0, ge=0, le=120)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.value) == (self.host_share is not None):
            raise ValueError("give value, or host_share for maxmemory")
        if self.host_share is not None and self.name != "maxmemory":
            raise ValueError("host_share is for maxmemory only")
        if self.value and self.name == "maxmemory-policy" and self.value not in _POLICIES:
            raise ValueError(f"unknown policy; known: {', '.join(_POLICIES)}")
        if self.value and self.name != "maxmemory-policy" and not self.value.isdecimal():
            raise ValueError(f"{self.name} is a whole number")
        return self


class ConfigSet(RedisExecutor):
    """Changes one setting within narrow bounds."""

    spec = ActionSpec(
        id="redis.config_set",
        summary="Change the memory limit, the eviction policy or the idle time-out, within bounds.",
        target_kind=KIND,
        params=ConfigParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.1,
        family="scale",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is beyond the bounds, what the host has no memory for, and what would evict kept data."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        before, info = await self._value(ctx), await self.info(ctx)
        facts = {**_plan(before, info, ctx.params), **memory_of(info).as_facts()}
        reason = "it is set so already" if before == facts["wanted"] else ""
        reason = reason or refusal(
            ctx.params.name, facts["wanted"], info, self.place(ctx), self.redis.settings
        )
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set it, unless it is set by now: a value set twice is the same value."""
        value, info = await self._value(ctx), await self.info(ctx)
        facts = self._before.get(ctx.idempotency_key) or _plan(value, info, ctx.params)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        self._before[ctx.idempotency_key] = facts
        if value != facts["wanted"]:
            reason = refusal(ctx.params.name, facts["wanted"], info, self.place(ctx), self.redis.settings)
            if reason:
                raise PermanentError(reason)
            await self._set(ctx, facts["wanted"])
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the setting is as wanted and nobody is refused for lack of memory."""
        wanted = receipt.facts.get("wanted")
        first = errors_of(await self.info(ctx))

        async def sample() -> Check:
            value, info = await self._value(ctx), await self.info(ctx)
            memory, refused = memory_of(info), errors_of(info) - first
            facts = {"value": value, "refused_for_memory": refused, **memory.as_facts()}
            if value != wanted:
                return Check(ok=False, reason=f"{ctx.params.name} is {value}, not {wanted}", facts=facts)
            is_full = refused > 0 or _is_full(memory)
            return Check(
                ok=not is_full, reason="writes are refused for lack of memory" if is_full else "", facts=facts
            )

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set the old value."""
        before = receipt.facts.get("before")
        if before is None:
            return Check(ok=False, reason="the old value is not known")
        if await self._value(ctx) != before:
            await self._set(ctx, str(before))
        now = await self._value(ctx)
        return Check(ok=now == before, reason="" if now == before else "the old value is not back")

    async def _value(self, ctx: ActionContext) -> str:
        found = await self.ask(ctx, lambda client: client.config_get(ctx.params.name))
        if ctx.params.name not in found:
            raise PermanentError(f"the server has no setting {ctx.params.name}")
        return str(found[ctx.params.name])

    async def _set(self, ctx: ActionContext, value: str) -> None:
        await self.ask(ctx, lambda client: client.config_set(ctx.params.name, value))


def _plan(before: str, info: JsonObject, params: ConfigParams) -> dict[str, Any]:
    wanted = params.value
    if params.host_share is not None:
        wanted = str(int(memory_of(info).host * params.host_share) // _PAGE * _PAGE)
    return {"before": before, "wanted": wanted}


def _is_full(memory: Memory) -> bool:
    return memory.policy == "noeviction" and memory.limit > 0 and memory.used >= memory.limit


def refusal(name: str, wanted: str, info: JsonObject, place: Place, settings: RedisSettings) -> str:
    """Give the reason why this value may not be set, or an empty text."""
    if name == "maxmemory":
        return _memory_refusal(int(wanted), memory_of(info), settings)
    if name == "maxmemory-policy" and wanted.startswith("allkeys"):
        kept = [number for number in _databases(info) if number not in place.server.cache_databases]
        return f"database {kept[0]} is not marked as a cache: its keys would be evicted" if kept else ""
    if name == "timeout" and wanted != "0" and int(wanted) not in _TIMEOUTS:
        return f"{wanted} s is not 0 or {_TIMEOUTS.start} to {_TIMEOUTS.stop - 1}"
    return ""


def _memory_refusal(wanted: int, memory: Memory, settings: RedisSettings) -> str:
    if wanted > settings.max_memory_bytes:
        return f"{wanted} bytes are beyond max_memory_bytes"
    if memory.host and wanted > memory.host * settings.host_memory_share:
        return f"the host has {memory.host} bytes of memory: {wanted} are beyond host_memory_share"
    if wanted < memory.used:
        return f"{memory.used} bytes are in use: less would evict keys or refuse writes"
    return ""


def _databases(info: JsonObject) -> list[int]:
    """Give the databases that hold keys."""
    return [int(name[2:]) for name in info if name.startswith("db") and name[2:].isdecimal()]
