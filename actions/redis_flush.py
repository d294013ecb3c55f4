"""Redis: empty a database that is a cache."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.redis_client import KIND
from actions.redis_executor import RedisExecutor, sampled
from oncall_agent.contract import ActionContext, ActionSpec, Check, Params, Receipt, RiskClass, held
from oncall_agent.models import JsonObject


class FlushParams(Params):
    """What counts as flushed."""

    max_refill: float = Field(0.5, ge=0, lt=1)
    """Share of the former keys that may be there again: the origin refills a cache at once."""
    hold_seconds: float = Field(1.0, ge=0, le=120)


class FlushDb(RedisExecutor):
    """Empties a database that is marked as a cache."""

    spec = ActionSpec(
        id="redis.flush_db",
        summary="Empty one database that is marked as a cache; its origin has to refill it.",
        target_kind=KIND,
        params=FlushParams,
        risk=RiskClass.R3,
        reversible=False,
        irreversible_reason="every key of the database is gone",
        deadline_seconds=60.0,
        cooldown_seconds=3_600.0,
        cost=0.4,
        family="cache",
        exemptions={"rollback_restores": "every key of the database is gone"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(4096)
        self._flushed_at = float("-inf")

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is no cache, an empty database, a replica, and a flush soon after another one."""
        reason = self.cache_objection(ctx) or self._gap_objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        info = await self.info(ctx)
        facts = await self._facts(ctx)
        if info.get("role") != "master":
            return Check(ok=False, reason="the server is a replica: its primary decides", facts=facts)
        has_keys = facts["keys_before"] > 0
        return Check(ok=has_keys, reason="" if has_keys else "the database is empty", facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Flush once; the mark that it leaves tells another process."""
        facts = self._done.get(ctx.idempotency_key) or await self._facts(ctx)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if ctx.idempotency_key in self._done or await self.is_marked(ctx):
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "already": True})
        await self.ask(ctx, lambda client: client.flushdb(asynchronous=True))
        self._done[ctx.idempotency_key], self._flushed_at = facts, ctx.clock.monotonic()
        await self.mark(ctx)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the keys are gone, however fast the origin refills, and the server answers."""
        before = int(receipt.facts.get("keys_before", 0))

        async def sample() -> Check:
            facts = await self._facts(ctx)
            # One key is the attempt's own mark.
            ok = max(0, facts["keys_before"] - 1) <= before * ctx.params.max_refill
            now = {"keys": facts["keys_before"], "used": facts["used_before"]}
            return Check(ok=ok, reason="" if ok else f"{now['keys']} keys are there again", facts=now)

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    def _gap_objection(self, ctx: ActionContext) -> str:
        gap = self.redis.settings.flush_gap_seconds
        passed = ctx.clock.monotonic() - self._flushed_at
        return "" if passed >= gap else f"another database was flushed {passed:.0f} s ago, not {gap:.0f} s"

    async def _facts(self, ctx: ActionContext) -> dict[str, Any]:
        keys = await self.ask(ctx, lambda client: client.dbsize())
        return {"keys_before": int(keys), "used_before": (await self.memory(ctx)).used}
