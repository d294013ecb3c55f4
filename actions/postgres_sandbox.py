"""What the drills of PostgreSQL share: sessions under a name of their own, closed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from contextlib import AbstractAsyncContextManager
from typing import Any

from actions.postgres_client import Conversation, Postgres, named_errors
from actions.postgres_settings import DRILL_PREFIX, KIND, Place, PostgresSettings
from oncall_agent.contract import (
    ActionError,
    Check,
    Drill,
    PermanentError,
    SystemContext,
    Target,
    TransientError,
    Trial,
)
from oncall_agent.models import JsonObject

_SESSION_SECONDS = 600.0
_CALL_SECONDS = 10.0
POLL_SECONDS = 0.05
YOUNG_SECONDS = 0.3
MATCH = {"min_seconds": YOUNG_SECONDS, "hold_seconds": 0.5}
_SESSIONS = """
SELECT count(*)::int AS sessions, count(*) FILTER (WHERE wait_event_type = 'Lock')::int AS waiting,
  count(*) FILTER (WHERE state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock')::int AS active,
  count(*) FILTER (WHERE state LIKE 'idle in%')::int AS idle_in_transaction,
  coalesce(min(extract(epoch FROM clock_timestamp() - state_change)), 0)::float8 AS age
FROM pg_stat_activity WHERE application_name = $1
"""


class PostgresDrill(Drill):
    """What the drills share: sessions under a name of their own, closed at the end.

    The sandbox may name `host`, `port`, `database`, `user` and `password` (a reference); what it does not name
    is as in the settings.
    """

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        known = {
            key: sandbox[key] for key in ("host", "port", "database", "user", "password") if key in sandbox
        }
        own = PostgresSettings.model_validate({**settings, **known})
        self.pg, self.name = Postgres(own), f"{DRILL_PREFIX}{secrets.token_hex(6)}"
        self.place = Place(own.host, own.port, own.database)
        self._open: list[Conversation] = []
        self._busy: list[asyncio.Task[None]] = []

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Give the trial on sessions of this drill only; they come with the fault."""
        missing = [key for key in self.spec.sandbox_keys if key not in self.sandbox]
        if missing:
            raise PermanentError(f"name a sandbox for {self.spec.id}: {', '.join(missing)}")
        await self.ask(ctx, "SELECT 1 AS one")
        address = {"database": self.place.database, "host": self.place.host, "port": self.place.port}
        return Trial(Target(f"drill {self.name}", KIND, address=address), self.params())

    def params(self) -> JsonObject:
        """Give the action's parameters: they match nothing but this drill."""
        return {**MATCH, "application": self.name, "max_n": 1}

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Count the drill's own sessions that are in trouble."""
        found = await self.ask(ctx, _SESSIONS, self.name)
        reason = self.complaint(found)
        return Check(ok=not reason, reason=reason, facts=found)

    def complaint(self, found: JsonObject) -> str:
        """Give what is wrong with the drill's sessions, or an empty text."""
        raise NotImplementedError

    async def clean_up(self, ctx: SystemContext) -> None:
        """Close what was opened."""
        for one in self._open:
            one.abort()
        busy, self._busy, self._open = self._busy, [], []
        for running in busy:
            running.cancel()
        await asyncio.gather(*busy, return_exceptions=True)

    async def ask(self, ctx: SystemContext, statement: str, *values: Any) -> dict[str, Any]:
        """Ask one question in a conversation of its own."""
        async with self.talk(ctx) as db:
            return await db.row(statement, *values) or {}

    def talk(self, ctx: SystemContext) -> AbstractAsyncContextManager[Conversation]:
        """Open a conversation with the sandbox's server."""
        return self.pg.talk(self.place, min(ctx.seconds_left, _CALL_SECONDS))

    async def session(self, ctx: SystemContext, *statements: str) -> Conversation:
        """Open a session under the drill's name that stays, and carry out statements in it."""
        with named_errors():
            async with asyncio.timeout(min(ctx.seconds_left, _CALL_SECONDS)):
                one = await self.pg.open(self.place, _SESSION_SECONDS, application=self.name)
                self._open.append(one)
                for statement in statements:
                    await one.run(statement)
        return one

    async def busy(self, ctx: SystemContext, statement: str) -> None:
        """Open a session that is busy with a statement from now on."""
        one = await self.session(ctx, "SET lock_timeout = 0")

        async def carry_out() -> None:
            with contextlib.suppress(ActionError), named_errors():
                await one.run(statement)

        self._busy.append(asyncio.create_task(carry_out(), name=f"drill-{self.name}"))

    async def until_sick(self, ctx: SystemContext) -> None:
        """Wait until the fault is seen and old enough for the action."""
        while ctx.seconds_left > 0:
            found = await self.ask(ctx, _SESSIONS, self.name)
            if self.complaint(found) and found["age"] > 2 * YOUNG_SECONDS:
                return
            await ctx.clock.sleep(POLL_SECONDS)
        raise TransientError("the fault was not seen in time")
