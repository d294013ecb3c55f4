"""Redis memory: give pages back, remove keys of a cache."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.redis_client import KIND, Client
from actions.redis_executor import RedisExecutor, sampled
from actions.redis_facts import Memory
from oncall_agent.contract import ActionContext, ActionSpec, Check, Params, Receipt, RiskClass, held
from oncall_agent.models import JsonObject

_SCAN_COUNT = 1_000
_SAMPLE_SCANS = 50
_BATCH = 500
_MAX_SCANS = 100_000
_MEASURED_SECONDS = 0.5


class PurgeParams(Params):
    """When memory counts as fragmented."""

    min_fragmentation: float = Field(1.5, ge=1.1, le=10)
    """Least resident memory per byte in use."""
    min_excess_bytes: int = Field(67_108_864, ge=1_048_576)
    """A small server always looks fragmented; less than this is left alone."""
    max_latency_seconds: float = Field(0.1, gt=0, le=5)
    """A PING must not take longer afterwards."""
    hold_seconds: float = Field(1.0, ge=0, le=120)


class MemoryPurge(RedisExecutor):
    """Makes the allocator give back the pages that nothing is in."""

    spec = ActionSpec(
        id="redis.memory_purge",
        summary="Give unused memory pages back to the system.",
        target_kind=KIND,
        params=PurgeParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="nothing is lost by it: the server takes pages again when it needs them",
        deadline_seconds=60.0,
        cost=0.01,
        family="cache",
        exemptions={"rollback_restores": "there is nothing to restore: no data is touched"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, Memory] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a server whose memory is not fragmented."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        memory = await self.memory(ctx)
        is_sick = _is_fragmented(memory, ctx.params)
        reason = "" if is_sick else f"memory is not fragmented ({memory.ratio:.2f}, {memory.excess} bytes)"
        return Check(ok=is_sick, reason=reason, facts=_before(memory))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Purge once; memory that is in order by now is left alone."""
        memory = await self.memory(ctx)
        facts = _before(self._before.get(ctx.idempotency_key, memory))
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if ctx.idempotency_key in self._before or not _is_fragmented(memory, ctx.params):
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "already": True})
        self._before[ctx.idempotency_key] = memory
        await self.ask(ctx, lambda client: client.memory_purge())
        await self._measured_again(ctx)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether resident memory fell by half of what was too much, or is in order, and PING answers quickly."""
        before, excess = receipt.facts.get("rss_before"), receipt.facts.get("excess_before", 0)

        async def sample() -> Check:
            seconds, memory = await self.latency(ctx), await self.memory(ctx)
            has_fallen = before is not None and memory.rss <= before - excess / 2
            facts = {**memory.as_facts(), "ping_seconds": round(seconds, 4)}
            if seconds > ctx.params.max_latency_seconds:
                return Check(ok=False, reason=f"PING takes {seconds:.2f} s", facts=facts)
            ok = has_fallen or not _is_fragmented(memory, ctx.params)
            return Check(ok=ok, reason="" if ok else "resident memory did not fall", facts=facts)

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    async def _measured_again(self, ctx: ActionContext) -> None:
        """Wait until the server, which measures itself ten times a second, knows what the purge gave back."""
        until = ctx.clock.monotonic() + min(_MEASURED_SECONDS, ctx.seconds_left / 2)
        while ctx.clock.monotonic() < until and _is_fragmented(await self.memory(ctx), ctx.params):
            await ctx.clock.sleep(0.02)


class UnlinkParams(Params):
    """Which keys to remove."""

    pattern: str = Field(min_length=2, max_length=200)
    """One of the server's `key_patterns`, word for word."""
    max_n: int = Field(10_000, ge=1, le=1_000_000)
    """Keys at most."""
    hold_seconds: float = Field(1.0, ge=0, le=120)


class UnlinkKeys(RedisExecutor):
    """Removes keys of a cache by an allowed pattern, a bounded number of them."""

    spec = ActionSpec(
        id="redis.unlink_keys",
        summary="Remove keys of one allowed pattern from a database that is marked as a cache.",
        target_kind=KIND,
        params=UnlinkParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="the origin refills a cache; what is no cache is refused",
        deadline_seconds=120.0,
        cost=0.1,
        family="cache",
        exemptions={"rollback_restores": "a cache is refilled by its origin, not restored"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._begun: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is no cache, a pattern that is not allowed, and a pattern without keys."""
        reason = self.cache_objection(ctx) or self._pattern_objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        matched, memory = await self._matched(ctx), await self.memory(ctx)
        facts = {"matched_before": matched, "used_before": memory.used, **memory.as_facts()}
        return Check(ok=matched > 0, reason="" if matched else "no key of that pattern was seen", facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Scan and remove in batches, `max_n` at most under one key."""
        facts = self._begun.get(ctx.idempotency_key) or {
            "matched_before": await self._matched(ctx),
            "used_before": (await self.memory(ctx)).used,
            "unlinked": 0,
        }
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if facts.get("done") or await self.is_marked(ctx):
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "already": True})
        self._begun[ctx.idempotency_key] = facts
        await self._unlink(ctx, facts)
        await self.mark(ctx)
        facts["done"] = True
        return Receipt(self.spec.id, ctx.clock.now(), dict(facts))

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether memory in use fell and the keys stay away, at least half of those removed."""
        matched_before = int(receipt.facts.get("matched_before", 0))
        unlinked = int(receipt.facts.get("unlinked", matched_before))
        bound = max(0, matched_before - max(1, min(unlinked, matched_before) // 2))

        async def sample() -> Check:
            matched, memory = await self._matched(ctx), await self.memory(ctx)
            facts = {"matched": matched, **memory.as_facts()}
            if matched > bound:
                return Check(ok=False, reason=f"{matched} keys of that pattern are there again", facts=facts)
            ok = memory.used < int(receipt.facts.get("used_before", 0))
            return Check(ok=ok, reason="" if ok else "memory in use did not fall", facts=facts)

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    def _pattern_objection(self, ctx: ActionContext) -> str:
        allowed = ctx.params.pattern in self.place(ctx).server.key_patterns
        return "" if allowed else "the pattern is not among the server's key_patterns"

    async def _matched(self, ctx: ActionContext) -> int:
        """Count the keys of the pattern in a bounded part of the database."""
        cursor, found = 0, 0
        for _ in range(_SAMPLE_SCANS):
            cursor, keys = await self.ask(ctx, _scan(cursor, ctx.params.pattern))
            found += len(keys)
            if cursor == 0:
                break
        return found

    async def _unlink(self, ctx: ActionContext, facts: dict[str, Any]) -> None:
        cursor = 0
        for _ in range(_MAX_SCANS):
            cursor, keys = await self.ask(ctx, _scan(cursor, ctx.params.pattern))
            keys = keys[: ctx.params.max_n - facts["unlinked"]]
            for start in range(0, len(keys), _BATCH):
                batch = keys[start : start + _BATCH]
                facts["unlinked"] += await self.ask(ctx, _unlink(batch))
            if cursor == 0 or facts["unlinked"] >= ctx.params.max_n:
                return


def _scan(cursor: int, pattern: str) -> Any:
    async def scan(client: Client) -> tuple[int, list[str]]:
        found: tuple[int, list[str]] = await client.scan(cursor, match=pattern, count=_SCAN_COUNT)
        return found

    return scan


def _unlink(keys: list[str]) -> Any:
    async def unlink(client: Client) -> int:
        return int(await client.unlink(*keys))

    return unlink


def _is_fragmented(memory: Memory, params: PurgeParams) -> bool:
    return memory.ratio > params.min_fragmentation and memory.excess >= params.min_excess_bytes


def _before(memory: Memory) -> dict[str, Any]:
    return {"rss_before": memory.rss, "excess_before": memory.excess, **memory.as_facts()}
