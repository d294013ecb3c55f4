"""The sentinels that watch a primary: who it is, whether they agree, and the failover that they carry out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from actions.redis_client import Client, Place, Redis, sentinel_place
from oncall_agent.contract import ActionContext, ActionError, PermanentError, TransientError

T = TypeVar("T")
_SHORT_SECONDS = 0.2
_BAD_FLAGS = frozenset({"s_down", "o_down", "disconnected"})


class Sentinels:
    """Asks one sentinel after the other until one answers."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def quorum_objection(self, ctx: ActionContext, place: Place) -> str:
        """Give why the sentinels could not carry out a failover, or an empty text."""
        try:
            await self._ask(ctx, place, _command("SENTINEL", "CKQUORUM", place.server.sentinel_primary))
        except PermanentError as error:
            return f"no quorum: {error.message}"
        return ""

    async def primary(self, ctx: ActionContext, place: Place) -> dict[str, Any]:
        """Give where the primary of today is."""
        name = place.server.sentinel_primary
        found = await self._ask(ctx, place, _command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name))
        if not found:
            raise PermanentError(f"the sentinels know no primary {name}")
        return {"host": str(found[0]), "port": int(found[1])}

    async def replicas(self, ctx: ActionContext, place: Place) -> tuple[dict[str, str], ...]:
        """Give the replicas that could take over."""
        listed = await self._ask(ctx, place, _command("SENTINEL", "REPLICAS", place.server.sentinel_primary))
        found = [_pairs(one) for one in listed or []]
        return tuple(one for one in found if not _BAD_FLAGS & set(one.get("flags", "").split(",")))

    async def failover(self, ctx: ActionContext, place: Place, old: dict[str, Any]) -> dict[str, Any]:
        """Ask for it and wait until the primary is another one; give its address."""
        await self._ask(ctx, place, _command("SENTINEL", "FAILOVER", place.server.sentinel_primary))
        while ctx.seconds_left > _SHORT_SECONDS:
            now = await self.primary(ctx, place)
            if now != old:
                return now
            await ctx.clock.sleep(0.1)
        raise TransientError("the sentinels did not fail over in time", receipt_facts={"old": old})

    async def _ask(self, ctx: ActionContext, place: Place, question: Callable[[Client], Awaitable[T]]) -> T:
        said: ActionError = PermanentError("no sentinel is configured")
        for address in place.server.sentinels:
            try:
                return await self._redis.ask(sentinel_place(place, address), ctx.seconds_left, question)
            except TransientError as error:
                said = error
        raise said


def _command(*words: str) -> Callable[[Client], Awaitable[Any]]:
    async def run(client: Client) -> Any:
        return await client.execute_command(*words)

    return run


def _pairs(flat: Any) -> dict[str, str]:
    if isinstance(flat, dict):
        return {str(key): str(value) for key, value in flat.items()}
    words = [str(word) for word in flat]
    return dict(zip(words[::2], words[1::2], strict=False))
