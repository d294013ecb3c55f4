"""The way to memcached: one connection for each question, and what its errors mean.

The only file that imports the client library: without it the memcached system is off and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pymemcache import exceptions as errors  # type: ignore[import-untyped]
from pymemcache.client.base import Client as _Client  # type: ignore[import-untyped]

from actions.memcached_settings import MemcachedNode, MemcachedPool, MemcachedSettings
from oncall_agent.contract import PermanentError, Target, TransientError
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.contract.secret import redact, resolve
from oncall_agent.errors import ConfigError
from oncall_agent.models import JsonObject

T = TypeVar("T")
Client = Any
KIND = "memcached_node"
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Place:
    """One node, with the pool that it belongs to."""

    pool_name: str
    name: str
    pool: MemcachedPool
    node: MemcachedNode

    def __str__(self) -> str:
        return f"{self.pool_name}/{self.name}"


class Memcached:
    """The configured pools."""

    def __init__(self, settings: JsonObject) -> None:
        self.settings = MemcachedSettings.model_validate(dict(settings))

    def places(self) -> list[Place]:
        """Give every configured node."""
        pools = self.settings.pools.items()
        return [Place(name, node, pool, found) for name, pool in pools for node, found in pool.nodes.items()]

    def place_of(self, target: Target) -> Place:
        """Give where a target's address leads.

        Raises:
            PermanentError: it names no configured node.
        """
        pool, node = target.address.get("pool"), target.address.get("node")
        for place in self.places():
            if (place.pool_name, place.name) == (pool, node):
                return place
        raise PermanentError(
            f"target {target.name}: the address must name a pool and a node of backends.memcached"
        )

    def others(self, place: Place) -> list[Place]:
        """Give the other nodes of the same pool."""
        return [one for one in self.places() if one.pool_name == place.pool_name and one.name != place.name]

    async def ask(
        self, run_blocking: RunBlocking, seconds: float, place: Place, question: Callable[[Client], T]
    ) -> T:
        """Put one question, on a connection of its own, within the time.

        Raises:
            TransientError: no answer (in time).
            PermanentError: refused, or what answers is no memcached.
        """
        limit = max(0.05, min(seconds, self.settings.timeout_seconds))
        try:
            async with asyncio.timeout(limit):
                return await run_blocking(_asked, place, limit, question)
        except (TimeoutError, OSError, errors.MemcacheError, ConfigError, ValueError) as error:
            raise _named(error, place) from error


def _asked(place: Place, limit: float, question: Callable[[Client], T]) -> T:
    client = _Client(
        (place.node.host, place.node.port),
        connect_timeout=limit,
        timeout=limit,
        no_delay=True,
        default_noreply=False,
    )
    try:
        if place.pool.password is not None:
            # How a server with an authentication file is told: by the first thing that is set.
            client.set("auth", f"{place.pool.username} {resolve(place.pool.password).reveal()}")
        return question(client)
    finally:
        client.close()


def _named(error: Exception, place: Place) -> TransientError | PermanentError:
    """Give the error that says what happens next; no credentials and no values are in it."""
    text = redact(_text(error))[:_MAX_TEXT]
    if isinstance(error, ConfigError):
        return PermanentError(text)
    if isinstance(error, TimeoutError):
        return TransientError(f"memcached {place} does not answer in time")
    if isinstance(error, OSError | errors.MemcacheUnexpectedCloseError):
        return TransientError(f"memcached {place} can't be reached ({type(error).__name__})")
    if isinstance(error, errors.MemcacheClientError) and "authenticat" in text:
        return PermanentError(f"memcached {place} does not let us in: {text}")
    if isinstance(error, errors.MemcacheClientError | errors.MemcacheServerError):
        return PermanentError(f"memcached {place} refuses: {text}")
    return PermanentError(f"what answers as memcached {place} answers otherwise than memcached does: {text}")


def _text(error: Exception) -> str:
    first = error.args[0] if error.args else ""
    return first.decode(errors="replace") if isinstance(first, bytes) else str(first)
