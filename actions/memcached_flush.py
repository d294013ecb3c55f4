"""Emptying one node of a pool, one at a time, when what stands behind it bears the reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from actions.memcached_client import KIND, Client, Place
from actions.memcached_executor import MemcachedExecutor, digests
from actions.memcached_facts import Stats, per_second
from actions.memcached_keys import REFILL, Key, fresh
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    held,
)

FLUSHED_KEY = "oncall-agent:flushed"
_LONE = "only where there is another node may the flush be delayed"


class FlushParams(Params):
    """How one node is emptied."""

    delay_seconds: int = Field(0, ge=0, le=600)
    """The node empties itself so much later; only where another node of the pool can hold the note of it."""
    sample_keys: tuple[Key, ...] = Field((), max_length=20)
    """Keys known to be stale: they must miss, or have other values, afterwards."""
    min_gets: int = Field(100, ge=0, le=1_000_000)
    """Reads in one window below which the hit rate tells nothing, and the fix does not count; 0 does not ask it."""
    window_seconds: float = Field(10.0, gt=0, le=600)
    """Time over which reads and hits are counted."""
    recovered_share: float = Field(0.8, gt=0, le=1)
    """Of the hit rate before that must be reached again."""
    within_seconds: float = Field(120.0, gt=0, le=3_600)
    """How long to wait for that, after the delay."""


class FlushAll(MemcachedExecutor):
    """Empties one node, when its origin can bear the reads."""

    spec = ActionSpec(
        id="memcached.flush_all",
        summary="Empty one node of a pool, when its origin bears the reads.",
        target_kind=KIND,
        params=FlushParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason=REFILL,
        deadline_seconds=900.0,
        cost=0.2,
        family="cache",
        exemptions={"rollback_restores": REFILL},
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse while the pool is not whole, was just flushed, or is read more than its origin bears."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        before = await self.stats(ctx)
        began = ctx.clock.monotonic()
        await ctx.clock.sleep(min(1.0, ctx.params.window_seconds))
        after, seconds = await self.stats(ctx), ctx.clock.monotonic() - began
        gets = per_second(before.gets, after.gets, seconds)
        place = self.place(ctx)
        reason = _flush_refusal(place, after, gets) or await self._pool_refusal(ctx, place)
        stale = await self.ask(ctx, lambda client: digests(client, ctx.params.sample_keys))
        facts = {
            **after.facts(),
            "gets_per_second": round(gets, 1),
            "flushes": after.flushes,
            "digests": stale,
        }
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Note it on the other nodes, flush once per key, then note it here, where the flush removes what was noted."""
        place = self.place(ctx)
        others = self.memcached.others(place)
        facts, is_done = await self._facts(ctx, (place, *others))
        if ctx.dry_run or is_done:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=ctx.dry_run)
        if ctx.params.delay_seconds and not others:
            raise PermanentError(_LONE)
        for one in others:
            await self._note_flush(ctx, facts, one)
        await self.ask(ctx, lambda client: client.flush_all(ctx.params.delay_seconds))
        await self._note_flush(ctx, facts, place)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it was flushed, the samples are fresh, and the hit rate is near what it was."""
        due = receipt.facts.get("at", ctx.started_at) + ctx.params.delay_seconds
        await ctx.clock.sleep(min(max(0.0, due - ctx.clock.now()), ctx.seconds_left))
        windows = _Windows(ctx)

        async def sample() -> Check:
            now = await self.stats(ctx)
            if now.flushes <= receipt.facts.get("flushes", 0):
                return Check(ok=False, reason="the node was not flushed", facts=now.facts())
            found = await self.ask(ctx, lambda client: digests(client, ctx.params.sample_keys))
            check = fresh(receipt.facts.get("digests"), found)
            return windows.judged(now, receipt.facts.get("hit_rate")) if check.ok else check

        return await held(
            ctx,
            sample,
            hold_seconds=0.0,
            within_seconds=ctx.params.within_seconds,
            interval_seconds=min(1.0, ctx.params.window_seconds),
        )

    async def _facts(self, ctx: ActionContext, places: Sequence[Place]) -> tuple[dict[str, Any], bool]:
        """Give what verify needs, as noted by a former call or as it is now, and whether that call flushed."""
        stats = await self.stats(ctx)
        for one in () if ctx.dry_run else places:
            known = await self.noted(ctx, one)
            if known:
                # The server counts its flushes: a note alone says only that one was meant.
                return known, stats.flushes > known["flushes"]
        stale = await self.ask(ctx, lambda client: digests(client, ctx.params.sample_keys))
        facts = {
            "at": ctx.clock.now(),
            "flushes": stats.flushes,
            "hit_rate": stats.hit_rate,
            "digests": stale,
        }
        return facts, False

    async def _pool_refusal(self, ctx: ActionContext, place: Place) -> str:
        others = self.memcached.others(place)
        if ctx.params.delay_seconds and not others:
            return _LONE
        asked = [self.ask(ctx, _flushed_at, one) for one in (place, *others)]
        said = await asyncio.gather(*asked, return_exceptions=True)
        for one in said:
            if isinstance(one, ActionError):
                return f"the pool is not whole: {one.message}"
            if isinstance(one, BaseException):
                raise one
            since = ctx.clock.now() - one
            if since < place.pool.flush_gap_seconds:
                return f"a node of the pool was flushed {since:.0f} s ago"
        return ""

    async def _note_flush(self, ctx: ActionContext, facts: dict[str, Any], place: Place) -> None:
        await self.note(ctx, facts, place)
        gap = int(place.pool.flush_gap_seconds) + ctx.params.delay_seconds + 1
        text = repr(ctx.clock.now() + ctx.params.delay_seconds)
        await self.ask(ctx, lambda client: client.set(FLUSHED_KEY, text, expire=gap), place)


class _Windows:
    """Counts reads and hits window by window; the last whole one decides."""

    def __init__(self, ctx: ActionContext) -> None:
        self._ctx = ctx
        self._began: tuple[float, Stats] | None = None
        self._last = Check(ok=False, reason="the hit rate was not watched for a whole window")

    def judged(self, now: Stats, baseline: float | None) -> Check:
        if not self._ctx.params.min_gets:
            return Check(ok=True, facts=now.facts())
        at = self._ctx.clock.monotonic()
        if self._began is None:
            self._began = (at, now)
        elif at - self._began[0] >= self._ctx.params.window_seconds:
            self._last = self._whole(self._began[1], now, baseline or 0.0)
            self._began = (at, now)
        return self._last

    def _whole(self, before: Stats, now: Stats, baseline: float) -> Check:
        gets, hits = now.gets - before.gets, now.hits - before.hits
        if gets < self._ctx.params.min_gets:
            return Check(ok=False, reason=f"only {gets} reads in a window: too few to tell")
        rate, wanted = hits / gets, baseline * self._ctx.params.recovered_share
        facts = {"hit_rate": round(rate, 4), "before": round(baseline, 4), "gets": gets}
        reason = "" if rate >= wanted else f"the hit rate is {rate:.0%}, it was {baseline:.0%}"
        return Check(ok=not reason, reason=reason, facts=facts)


def _flush_refusal(place: Place, stats: Stats, gets: float) -> str:
    bears = place.pool.origin_gets_per_second
    if not stats.may_flush:
        return "the node was started so that it can't be flushed"
    if bears is None:
        return f"how many reads the origin of pool {place.pool_name} bears is not declared"
    return f"it is read {gets:.0f} times a second, its origin bears {bears:g}" if gets > bears else ""


def _flushed_at(client: Client) -> float:
    text = client.get(FLUSHED_KEY)
    return float(text) if text else 0.0
