"""Faults of a memcached node that the operator names as a sandbox: its content may be lost, its settings come back."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from abc import abstractmethod
from typing import Any

from actions.memcached_client import KIND, Client, Memcached
from actions.memcached_facts import Stats, read, read_slabs, skewed
from oncall_agent.contract import (
    ActionError,
    Check,
    Drill,
    DrillSpec,
    SystemContext,
    Target,
    TransientError,
    Trial,
)
from oncall_agent.models import JsonObject

_SMALL_MB, _LARGE_MB = 8, 32
_BATCH = 200
_QUICK = {"sample_seconds": 0.5, "hold_seconds": 1.0, "within_seconds": 20.0}
_SANDBOX = ("pool", "node")


class _NodeDrill(Drill):
    """What the drills share: the node, and its settings as they were."""

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._memcached = Memcached(settings)
        self._before: Stats | None = None
        self.prefix = f"oncall-agent-drill:{uuid.uuid4().hex[:12]}:"

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Read the node's settings."""
        target = Target("sandbox", KIND, address={key: str(self.sandbox.get(key, "")) for key in _SANDBOX})
        self._place = self._memcached.place_of(target)
        self._before = await self._ask(ctx, read)
        return Trial(target, self.params())

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make the fault."""
        await self._ask(ctx, self.broken)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Ask the node."""
        try:
            reason = await self._ask(ctx, self.complaint)
        except TransientError as error:
            reason = error.message
        return Check(ok=not reason, reason=reason)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Set what was before, and remove the drill's keys by emptying the sandbox."""
        before = self._before
        if before is not None:
            await self._ask(ctx, lambda client: _restored(client, before))

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """Give the action's parameters."""

    @abstractmethod
    def broken(self, client: Client) -> None:
        """Make the fault."""

    def complaint(self, client: Client) -> str:
        """Give what is wrong, or an empty text."""
        return ""

    async def _ask(self, ctx: SystemContext, question: Any) -> Any:
        return await self._memcached.ask(ctx.run_blocking, ctx.seconds_left, self._place, question)


def _spec(fault: str, action: str, scenario: str, summary: str) -> DrillSpec:
    return DrillSpec(f"memcached.{fault}", action, scenario, summary, sandbox="named", sandbox_keys=_SANDBOX)


class StaleKey(_NodeDrill):
    """A key whose value is out of date."""

    spec = _spec(
        "stale_key", "memcached.delete_keys", "stale_cache", "A key of the sandbox holds an old value."
    )

    def params(self) -> dict[str, Any]:
        """Name the key."""
        return {"keys": [f"{self.prefix}price"], "hold_seconds": 0.5}

    def broken(self, client: Client) -> None:
        """Set the old value."""
        client.set(f"{self.prefix}price", "old", expire=600)

    def complaint(self, client: Client) -> str:
        """Look for the old value."""
        return "the old value is there" if client.get(f"{self.prefix}price") == b"old" else ""


class StaleNode(StaleKey):
    """A whole node that holds old values."""

    spec = _spec("stale_node", "memcached.flush_all", "stale_cache", "The sandbox node holds old values.")

    def params(self) -> dict[str, Any]:
        """Name the key as a sample; nobody reads a sandbox, so its hit rate tells nothing."""
        return {"sample_keys": [f"{self.prefix}price"], "min_gets": 0, "window_seconds": 0.5}


class SmallLimit(_NodeDrill):
    """A node with too little memory."""

    spec = _spec(
        "small_limit",
        "memcached.set_cache_memlimit",
        "high_memory_response",
        "The sandbox node has too little memory.",
    )

    def params(self) -> dict[str, Any]:
        """Ask for more."""
        return {"megabytes": _LARGE_MB, **_QUICK}

    def broken(self, client: Client) -> None:
        """Lower the limit, and write more than fits."""
        client.flush_all()
        client.cache_memlimit(_SMALL_MB)
        _written(client, self.prefix, 2 * _SMALL_MB * 100, 10_000)

    def complaint(self, client: Client) -> str:
        """Compare the limit with what there is to hold."""
        stats = read(client)
        return "its memory is full" if stats.limit_mb == _SMALL_MB and stats.evictions else ""


class SkewedSlabs(_NodeDrill):
    """A node whose memory belongs to item sizes that nobody writes any more."""

    spec = _spec(
        "skewed_slabs",
        "memcached.slabs_automove",
        "memory_skew",
        "The sandbox node evicts large items beside unused small ones.",
    )

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._writer: asyncio.Task[None] | None = None

    def params(self) -> dict[str, Any]:
        """Let pages move at each eviction."""
        return {"mode": 2, **_QUICK}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Fill it with small items, then write large ones over and over, as a service would."""
        await super().inject(ctx, trial)
        self._writer = asyncio.create_task(self._write(ctx), name="memcached-drill-writer")

    def broken(self, client: Client) -> None:
        """Fill it with small items, and keep pages from moving."""
        client.raw_command("slabs automove 0")
        client.cache_memlimit(_SMALL_MB)
        _written(client, f"{self.prefix}s", 5_000, 1_000)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Ask whether an item size evicts while others have pages to spare."""
        before = await self._ask(ctx, read_slabs)
        await ctx.clock.sleep(0.5)
        evicting, spare = skewed(before, await self._ask(ctx, read_slabs))
        is_sick = bool(evicting and spare)
        return Check(
            ok=not is_sick, reason="one item size evicts, others have memory to spare" if is_sick else ""
        )

    async def clean_up(self, ctx: SystemContext) -> None:
        """End the writing, then as the others."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        await super().clean_up(ctx)

    async def _write(self, ctx: SystemContext) -> None:
        while ctx.seconds_left:
            with contextlib.suppress(ActionError):
                await self._ask(ctx, lambda client: _written(client, f"{self.prefix}l", 40, 100_000))
            await ctx.clock.sleep(0.05)


class NoCrawler(_NodeDrill):
    """A node full of expired items that nobody looks for."""

    spec = _spec(
        "no_crawler",
        "memcached.lru_crawler",
        "expired_items",
        "The sandbox node keeps expired items; its crawler is off.",
    )

    def params(self) -> dict[str, Any]:
        """Switch it on."""
        return {"enabled": True, **_QUICK}

    def broken(self, client: Client) -> None:
        """Switch the crawler off, and fill the node."""
        client.raw_command("lru_crawler disable")
        client.cache_memlimit(_SMALL_MB)
        _written(client, self.prefix, 2 * _SMALL_MB * 100, 10_000, expire=1)

    def complaint(self, client: Client) -> str:
        """Ask for the crawler."""
        return "" if read(client).has_crawler else "the crawler is off"


def _written(client: Client, prefix: str, count: int, size: int, *, expire: int = 600) -> None:
    value = b"x" * size
    for first in range(0, count, _BATCH):
        batch = {f"{prefix}{number}": value for number in range(first, min(count, first + _BATCH))}
        client.set_many(batch, expire=expire, noreply=True)
    client.version()


def _restored(client: Client, before: Stats) -> None:
    now = read(client)
    client.flush_all()
    if now.limit_bytes != before.limit_bytes:
        client.cache_memlimit(before.limit_mb)
    if now.automove != before.automove:
        client.raw_command(f"slabs automove {before.automove}")
    if now.has_crawler != before.has_crawler:
        client.raw_command(f"lru_crawler {'enable' if before.has_crawler else 'disable'}")


DRILLS = (StaleKey, StaleNode, SmallLimit, SkewedSlabs, NoCrawler)
