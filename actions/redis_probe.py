"""The prober that reads a Redis server's health."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache

from actions.redis_client import Place, Redis
from actions.redis_facts import full_facts, memory_of
from oncall_agent.contract import (
    Clock,
    NoParams,
    PermanentError,
    Prober,
    Reading,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject


class RedisProber(Prober):
    """Reads memory, errors, latency and hit rate; a server that does not answer is down."""

    kind = "redis"
    params = NoParams

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._redis = Redis(settings)
        self._counted: LRUCache[str, tuple[int, int]] = LRUCache(4096)

    async def __aexit__(self, *_: object) -> None:
        await self._redis.close()

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Send PING and INFO once."""
        try:
            place = self._redis.place_of(target)
            began = clock.monotonic()
            await self._redis.ask(place, timeout_seconds, lambda client: client.ping())
            took = clock.monotonic() - began
            info = await self._redis.ask(
                place, timeout_seconds, lambda client: client.info(section="everything")
            )
        except TransientError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        except PermanentError as error:
            raise TransientError(error.message) from error
        signals = Signals(
            up=not info.get("loading"),
            memory=memory_of(info).share,
            response_seconds=took,
            error_rate=self._error_rate(place, info),
        )
        return Reading(signals, full_facts(info))

    def _error_rate(self, place: Place, info: JsonObject) -> float | None:
        """Give the share of commands answered with an error since the last reading; None at the first one."""
        errors, commands = info.get("total_error_replies"), info.get("total_commands_processed")
        if errors is None or commands is None:
            return None
        now = (int(errors), int(commands))
        last = self._counted.get(place.name)
        self._counted[place.name] = now
        if last is None or now[1] <= last[1] or now[0] < last[0]:
            return None
        return min(1.0, (now[0] - last[0]) / (now[1] - last[1]))
