"""Settings of a running node: its memory limit, the moving of pages between slabs, the crawler of expired items."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pydantic import Field

from actions.memcached_client import KIND, Client
from actions.memcached_executor import MemcachedExecutor
from actions.memcached_facts import Stats, per_second, read_slabs, skewed
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

_FULL = 0.7


class TuningParams(Params):
    """How evictions are watched."""

    sample_seconds: float = Field(2.0, gt=0, le=60)
    """Time over which evictions are counted, before and after."""
    fall_to: float = Field(0.5, ge=0, le=1)
    """Share of the former evictions per second that they must fall to."""
    hold_seconds: float = Field(5.0, ge=0, le=600)
    """That must hold for so long."""
    within_seconds: float = Field(60.0, gt=0, le=600)
    """How long to wait for that."""


class _Tuning(MemcachedExecutor):
    """Changes one setting, watches evictions, and can change it back."""

    @abstractmethod
    def now(self, stats: Stats) -> Any:
        """Give the setting as it is."""

    @abstractmethod
    def wanted(self, params: Any) -> Any:
        """Give the setting as it shall be."""

    @abstractmethod
    def change(self, client: Client, value: Any) -> None:
        """Set it."""

    @abstractmethod
    async def refusal(self, ctx: ActionContext, stats: Stats, rate: float) -> str:
        """Give why it is not changed, or an empty text; `rate` is evictions per second."""

    def applied(self, ctx: ActionContext, stats: Stats, receipt: Receipt) -> str:
        """Give why the change is not seen, or an empty text."""
        return "" if self.now(stats) == self.wanted(ctx.params) else f"it is {self.now(stats)}"

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is protected, set so already, or not borne out by evictions and memory."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        stats = await self.stats(ctx)
        if self.now(stats) == self.wanted(ctx.params):
            return Check(ok=False, reason=f"it is {self.now(stats)} already", facts=stats.facts())
        stats, rate = await self._watched(ctx)
        reason = await self.refusal(ctx, stats, rate)
        facts = {**stats.facts(), "before": self.now(stats), "rate": round(rate, 2)}
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Count evictions, note the old value, change it once per key."""
        known = {} if ctx.dry_run else await self.noted(ctx)
        if not known:
            stats, rate = await self._watched(ctx)
            known = {
                "before": self.now(stats),
                "evictions_per_second": round(rate, 2),
                "crawls": stats.crawls,
            }
            if ctx.dry_run:
                return Receipt(self.spec.id, ctx.clock.now(), known, planned=True)
            await self.note(ctx, known)
        if not known.get("done"):
            await self.ask(ctx, lambda client: self.change(client, self.wanted(ctx.params)))
            await self.note(ctx, {**known, "done": True})
        facts = {name: value for name, value in known.items() if name != "done"}
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it is set so, and evictions fell if there were any."""
        allowed = float(receipt.facts.get("evictions_per_second", 0.0)) * ctx.params.fall_to

        async def sample() -> Check:
            stats, rate = await self._watched(ctx)
            reason = self.applied(ctx, stats, receipt)
            if not reason and "evictions_per_second" in receipt.facts and self.must_fall(ctx, receipt):
                reason = f"{rate:.1f} evictions a second" if rate > allowed else ""
            return Check(ok=not reason, reason=reason, facts={**stats.facts(), "evictions_per_second": rate})

        return await held(
            ctx,
            sample,
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.params.within_seconds,
            interval_seconds=0.05,
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set what was before."""
        before = receipt.facts.get("before")
        if before is None:
            return Check(ok=False, reason="what was before is not known")
        if self.now(await self.stats(ctx)) != before:
            await self.ask(ctx, lambda client: self.change(client, before))
        stats = await self.stats(ctx)
        is_back = self.now(stats) == before
        return Check(
            ok=is_back, reason="" if is_back else f"it is {self.now(stats)}", facts={"before": before}
        )

    def must_fall(self, ctx: ActionContext, receipt: Receipt) -> bool:
        """Say whether there were evictions that the change has to lower."""
        return bool(receipt.facts.get("evictions_per_second"))

    async def _watched(self, ctx: ActionContext) -> tuple[Stats, float]:
        before, began = await self.stats(ctx), ctx.clock.monotonic()
        await ctx.clock.sleep(min(ctx.params.sample_seconds, ctx.seconds_left))
        after = await self.stats(ctx)
        return after, per_second(before.evictions, after.evictions, ctx.clock.monotonic() - began)


class MemlimitParams(TuningParams):
    """The new limit."""

    megabytes: int = Field(ge=8, le=4_194_304)
    """MiB for items; the process takes some more."""


class SetCacheMemlimit(_Tuning):
    """Gives a node more memory for its items, or less."""

    spec = ActionSpec(
        id="memcached.set_cache_memlimit",
        summary="Change the memory limit of a node while it runs.",
        target_kind=KIND,
        params=MemlimitParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.05,
        family="scale",
    )

    def now(self, stats: Stats) -> int:
        """Give the limit in MiB."""
        return stats.limit_mb

    def wanted(self, params: Any) -> int:
        """Give the asked limit."""
        return int(params.megabytes)

    def change(self, client: Client, value: Any) -> None:
        """Set it."""
        client.cache_memlimit(int(value))

    async def refusal(self, ctx: ActionContext, stats: Stats, rate: float) -> str:
        """Refuse what the machine or the settings do not allow, and what the node does not need or still uses."""
        asked, node = ctx.params.megabytes, self.place(ctx).node
        if asked < stats.limit_mb:
            return "more than that is in use" if asked < stats.fill * stats.limit_mb else ""
        if node.memory_mb is None:
            return "how much memory the node may have is not declared (memory_mb)"
        most = min(self.conf.max_memlimit_mb, int(node.memory_mb * self.conf.memory_share))
        if asked > most:
            return f"more than {most} MiB is not allowed"
        return "" if rate or stats.fill >= _FULL else "nothing is evicted and memory is left"

    def must_fall(self, ctx: ActionContext, receipt: Receipt) -> bool:
        """Say whether more memory has to lower evictions; less may well cause some."""
        return super().must_fall(ctx, receipt) and ctx.params.megabytes > receipt.facts["before"]


class AutomoveParams(TuningParams):
    """How pages move."""

    mode: int = Field(ge=0, le=2)
    """0 never, 1 slowly in the background, 2 at each eviction."""


class SlabsAutomove(_Tuning):
    """Lets pages of memory move to the item sizes that need them."""

    spec = ActionSpec(
        id="memcached.slabs_automove",
        summary="Let memory move between item sizes, or stop that.",
        target_kind=KIND,
        params=AutomoveParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.03,
        family="cache",
    )

    def now(self, stats: Stats) -> int:
        """Give the mode."""
        return stats.automove

    def wanted(self, params: Any) -> int:
        """Give the asked mode."""
        return int(params.mode)

    def change(self, client: Client, value: Any) -> None:
        """Set it."""
        _expect_ok(client.raw_command(f"slabs automove {int(value)}"))

    async def refusal(self, ctx: ActionContext, stats: Stats, rate: float) -> str:
        """Refuse where pages can't move, and where no size evicts while others have pages to spare."""
        if not ctx.params.mode:
            return ""
        if not stats.may_reassign:
            return "the node was started so that pages can't move"
        before = await self.ask(ctx, read_slabs)
        await ctx.clock.sleep(min(ctx.params.sample_seconds, ctx.seconds_left))
        evicting, spare = skewed(before, await self.ask(ctx, read_slabs))
        if not evicting:
            return "nothing is evicted"
        return "" if spare else "no item size has pages to spare"


class CrawlerParams(TuningParams):
    """What the crawler shall do."""

    enabled: bool = True
    """Whether it runs by itself."""
    crawl: bool = True
    """Also send it through all items now."""


class LruCrawler(_Tuning):
    """Lets expired items be looked for and removed before they are asked for."""

    spec = ActionSpec(
        id="memcached.lru_crawler",
        summary="Let a node look for expired items and free their memory, or stop that.",
        target_kind=KIND,
        params=CrawlerParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.03,
        family="cache",
    )

    def now(self, stats: Stats) -> bool:
        """Say whether it is on."""
        return stats.has_crawler

    def wanted(self, params: Any) -> bool:
        """Say whether it shall be."""
        return bool(params.enabled)

    def change(self, client: Client, value: Any) -> None:
        """Switch it; on what is on already the server answers an error."""
        _expect_ok(client.raw_command(f"lru_crawler {'enable' if value else 'disable'}"))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Switch it once per key, and send it through all items."""
        receipt = await super().execute(ctx)
        if not ctx.dry_run and ctx.params.enabled and ctx.params.crawl:
            stats = await self.stats(ctx)
            if stats.crawls <= receipt.facts["crawls"]:
                await self.ask(ctx, lambda client: client.raw_command("lru_crawler crawl all"))
        return receipt

    async def refusal(self, ctx: ActionContext, stats: Stats, rate: float) -> str:
        """Refuse what is so already, and a node that has memory left."""
        if not ctx.params.enabled:
            return ""
        return "" if rate or stats.fill >= _FULL else "nothing is evicted and memory is left"


def _expect_ok(answer: bytes) -> None:
    if answer != b"OK":
        raise PermanentError(f"the node refuses: {answer[:100].decode(errors='replace')}")
