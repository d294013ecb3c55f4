"""The sandbox that the redis drills break: its connections, its keys, its settings, and how all goes back."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any, ClassVar

from actions.redis_client import KIND, Client, Place, Redis, connect
from oncall_agent.contract import (
    Drill,
    DrillSpec,
    PermanentError,
    SystemContext,
    Target,
    Trial,
)
from oncall_agent.contract.secret import resolve
from oncall_agent.models import JsonObject

PREFIX = "oncall-agent:drill:"
NAMED = ("server", "username", "password")


class RedisDrill(Drill):
    """Looks up the sandbox: a server of `backends.redis`, with a user of the drill's own if one is named.

    Sandbox keys: `server` (name), `database`, `username`, `password` (a reference).
    """

    spec: ClassVar[DrillSpec]

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self.redis = Redis(settings)
        self.mark = f"{PREFIX}{secrets.token_hex(6)}"
        self.extra: list[Client] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self.old: dict[str, str] = {}

    def place(self) -> Place:
        """Give the sandbox's server."""
        name = self.sandbox.get("server") or next(iter(self.redis.settings.servers), None)
        if name not in self.redis.settings.servers:
            raise PermanentError("name a `server` of backends.redis as sandbox for redis")
        place = self.redis.place(str(name), int(self.sandbox.get("database", 0)))
        if "username" not in self.sandbox:
            return place
        own = {"username": self.sandbox["username"], "password": self.sandbox.get("password")}
        return place.model_copy(update={"server": place.server.model_copy(update=own)})

    def trial(self, **params: Any) -> Trial:
        """Give what the action is to be carried out on."""
        place = self.place()
        address = {"server": place.name, "database": place.database}
        return Trial(Target(f"drill-{place.name}", KIND, address=address), params, {"mark": self.mark})

    async def ask(self, ctx: SystemContext, question: Any, place: Place | None = None) -> Any:
        """Put one question to the sandbox."""
        return await self.redis.ask(place or self.place(), ctx.seconds_left, question)

    def connect(self, name: str) -> Client:
        """Open a connection of its own, as an application would."""
        place = self.place()
        server = place.server
        client = connect(
            server.host,
            server.port,
            database=place.database,
            username=server.username,
            password=resolve(server.password).reveal() if server.password else "",
            tls=server.tls,
            ca_file=server.ca_file,
            timeout_seconds=3_600.0,
            name=name,
        )
        self.extra.append(client)
        return client

    def wait_for(self, call: Any) -> None:
        """Let a call of an application wait for its answer, whatever that is."""

        async def waiting() -> None:
            with contextlib.suppress(Exception):
                await call

        one = asyncio.create_task(waiting())
        self._waiting.add(one)
        one.add_done_callback(self._waiting.discard)

    async def set_config(self, ctx: SystemContext, name: str, value: str) -> None:
        """Change a setting of the sandbox; `clean_up` sets it back."""
        found = await self.ask(ctx, lambda client: client.config_get(name))
        self.old.setdefault(name, str(found[name]))
        await self.ask(ctx, lambda client: client.config_set(name, value))

    async def fill(self, ctx: SystemContext, count: int, size: int, first: int = 0) -> None:
        """Write keys under the drill's own prefix."""

        async def write(client: Client) -> None:
            async with client.pipeline(transaction=False) as pipe:
                for number in range(first, first + count):
                    pipe.set(f"{self.mark}:{number}", "x" * size)
                await pipe.execute()

        await self.ask(ctx, write)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Close the drill's connections, remove its keys, set its settings back."""
        for one in list(self._waiting):
            one.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        while self.extra:
            with contextlib.suppress(Exception):
                await self.extra.pop().aclose()
        try:
            for name, value in list(self.old.items()):
                await self.ask(ctx, lambda client, name=name, value=value: client.config_set(name, value))
                del self.old[name]
            await self.remove_keys(ctx)
        finally:
            await self.redis.close()

    async def remove_keys(self, ctx: SystemContext) -> None:
        """Remove what the drill has written."""

        async def remove(client: Client) -> None:
            keys = [key async for key in client.scan_iter(f"{self.mark}*", count=1_000)]
            if keys:
                await client.unlink(*keys)

        with contextlib.suppress(PermanentError):
            await self.ask(ctx, remove)
