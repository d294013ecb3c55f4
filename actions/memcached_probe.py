"""The prober of a memcached node: does it answer, how full is it, do reads hit."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.memcached_client import Memcached
from actions.memcached_facts import Stats, read
from oncall_agent.contract import (
    Clock,
    Params,
    PermanentError,
    Prober,
    Reading,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject

_FEW = 20


class MemcachedProbeParams(Params):
    """When a node that answers is sick all the same."""

    min_hit_rate: float = Field(0.0, ge=0, le=1)
    """Share of reads that must hit between two readings; 0 asks nothing."""


class MemcachedProber(Prober):
    """Reads a node; one that does not answer is down."""

    kind = "memcached"
    params = MemcachedProbeParams

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._memcached = Memcached(settings)
        self._last: LRUCache[str, Stats] = LRUCache(1_024)

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Ask once."""
        began = clock.monotonic()
        try:
            place = self._memcached.place_of(target)
        except PermanentError as error:
            raise TransientError(error.message) from error
        try:
            stats = await self._memcached.ask(run_blocking, timeout_seconds, place, read)
        except (TransientError, PermanentError) as error:
            return Reading(Signals(up=False), {"reason": error.message})
        took = clock.monotonic() - began
        last = self._last.get(str(place))
        self._last[str(place)] = stats
        complaint = _complaint(last, stats, params.min_hit_rate)
        signals = Signals(up=not complaint, memory=min(1.0, stats.fill), response_seconds=took)
        return Reading(signals, {**stats.facts(), **({"reason": complaint} if complaint else {})})


def _complaint(last: Stats | None, now: Stats, min_hit_rate: float) -> str:
    if last is None or now.gets - last.gets < _FEW:
        return ""
    rate = (now.hits - last.hits) / (now.gets - last.gets)
    return f"only {rate:.0%} of the reads hit" if rate < min_hit_rate else ""
