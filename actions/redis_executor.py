"""What the redis actions share: the connections, diagnostics, and when a server must not be touched."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

from actions.redis_client import BusyError, Client, FullError, Place, Redis
from actions.redis_facts import Memory, full_facts, memory_of, version_of
from oncall_agent.contract import ActionContext, ActionError, Check, Executor, TransientError
from oncall_agent.models import JsonObject

T = TypeVar("T")
MARK_PREFIX = "oncall-agent:attempt:"
_MARK_SECONDS = 3_600
_MAX_SLOW = 10
_MAX_LISTED = 20


class RedisExecutor(Executor):
    """One redis action; the subclasses hold the four steps."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.redis = Redis(settings)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.redis.close()

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether every configured server (or the target's) answers."""
        servers, address = self.redis.settings.servers, ctx.target.address
        names = [str(address.get("server"))] if address else list(servers)
        if not names:
            return Check(ok=False, reason="no server is configured in backends.redis")
        said = []
        for name in names:
            try:
                if name not in self.redis.settings.servers:
                    return Check(ok=False, reason="the target's address names no configured server")
                info = await self.ask(
                    ctx, lambda client: client.info(section="server"), self.redis.place(name)
                )
            except BusyError as error:
                said.append(error.message)
            except ActionError as error:
                return Check(ok=False, reason=error.message)
            else:
                said.append(" ".join(version_of(info)))
        return Check(ok=True, reason="; ".join(said))

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect memory, clients, replication and the slowest commands, without their arguments."""
        found: dict[str, Any] = {}
        try:
            found = full_facts(await self.info(ctx))
            slow = await self.ask(ctx, lambda client: client.slowlog_get(_MAX_SLOW))
            found["slow_commands"] = [_slow(one) for one in slow[:_MAX_LISTED]]
        except ActionError as error:
            found["reason"] = error.message
        return found

    def place(self, ctx: ActionContext) -> Place:
        """Give where the target is."""
        return self.redis.place_of(ctx.target)

    async def ask(
        self,
        ctx: ActionContext,
        question: Callable[[Client], Awaitable[T]],
        place: Place | None = None,
    ) -> T:
        """Put one question inside the attempt's deadline."""
        return await self.redis.ask(place or self.place(ctx), ctx.seconds_left, question)

    async def info(self, ctx: ActionContext, place: Place | None = None) -> dict[str, Any]:
        """Give the whole `INFO`."""
        found: dict[str, Any] = await self.ask(ctx, lambda client: client.info(section="everything"), place)
        return found

    async def memory(self, ctx: ActionContext) -> Memory:
        """Give what the server says of its memory."""
        return memory_of(await self.ask(ctx, lambda client: client.info(section="memory")))

    def objection(self, ctx: ActionContext) -> str:
        """Give why the server must not be touched at all, or an empty text; protected always wins."""
        place = self.place(ctx)
        if ctx.target.protected or place.server.protected:
            return f"Redis {place.name} is protected"
        return ""

    def cache_objection(self, ctx: ActionContext) -> str:
        """Give why no key of the target's database may be removed, or an empty text."""
        place = self.place(ctx)
        reason = self.objection(ctx)
        if not reason and place.database not in place.server.cache_databases:
            reason = f"database {place.database} of Redis {place.name} is not marked as a cache"
        return reason

    async def is_marked(self, ctx: ActionContext) -> bool:
        """Say whether this very attempt has left its mark: another process carried it out."""
        found = await self.ask(ctx, lambda client: client.exists(mark_of(ctx)))
        return bool(found)

    async def mark(self, ctx: ActionContext) -> None:
        """Leave the attempt's mark, also when memory is only just being freed."""
        while True:
            try:
                await self.ask(ctx, lambda client: client.set(mark_of(ctx), "1", ex=_MARK_SECONDS))
            except FullError:
                if ctx.seconds_left < 1.0:
                    return
                await ctx.clock.sleep(0.05)
            else:
                return

    async def latency(self, ctx: ActionContext, place: Place | None = None) -> float:
        """Give how long a PING takes, seconds."""
        began = ctx.clock.monotonic()
        await self.ask(ctx, lambda client: client.ping(), place)
        return ctx.clock.monotonic() - began


def mark_of(ctx: ActionContext) -> str:
    """Give the key that says that an attempt was carried out."""
    return MARK_PREFIX + hashlib.sha256(ctx.idempotency_key.encode()).hexdigest()[:32]


async def sampled(step: Callable[[], Awaitable[Check]]) -> Check:
    """Turn a server that does not answer into a failed sample: verify goes on asking."""
    try:
        return await step()
    except TransientError as error:
        return Check(ok=False, reason=error.message)


def _slow(entry: Any) -> dict[str, Any]:
    # The arguments are users' text: only the command's name is evidence.
    words = str(entry.get("command", "")).split(" ", 1)
    return {"command": words[0][:40], "microseconds": int(entry.get("duration") or 0)}
