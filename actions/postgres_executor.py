"""What the postgres actions share: the client, ping, diagnostics, and looking until it is well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from pydantic import Field

from actions.postgres_client import Conversation, Postgres
from actions.postgres_sessions import roots_of, sessions
from actions.postgres_settings import PostgresSettings, home_of, place_of
from oncall_agent.contract import ActionContext, ActionError, Check, Executor, Params, Receipt, held
from oncall_agent.models import JsonObject

_MAX_SHOWN = 10
CONNECTIONS = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS used,
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS allowed
"""


class SettledParams(Params):
    """How long the fix has to be seen before it counts."""

    hold_seconds: float = Field(2.0, ge=0, le=300)
    """The symptom must stay away for that long."""
    within_seconds: float = Field(20.0, ge=0.1, le=600)
    """Give up looking after that long."""


class PostgresExecutor(Executor):
    """Base of the postgres actions."""

    keeps_connection = False
    is_server_wide = False
    """Connect to `backends.postgres.database`, where the role's rights on functions are granted."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.pg = Postgres(
            PostgresSettings.model_validate(dict(settings)), keeps=self.keeps_connection and bool(settings)
        )

    async def __aexit__(self, *_: object) -> None:
        await self.pg.close()

    def talk(self, ctx: ActionContext) -> AbstractAsyncContextManager[Conversation]:
        """Open a conversation with the target's database, or its server, inside the deadline."""
        place = place_of(ctx.target, self.pg.settings)
        if self.is_server_wide:
            place = replace(place, database=self.pg.settings.database)
        return self.pg.talk(place, min(ctx.seconds_left, self.patience(ctx)))

    def patience(self, ctx: ActionContext) -> float:
        """Give the seconds that one conversation may take."""
        return self.pg.settings.timeout_seconds

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the server lets us in and answers."""
        try:
            async with self.pg.talk(home_of(self.pg.settings), min(ctx.seconds_left, 5.0)) as db:
                version = await db.value("SHOW server_version")
        except ActionError as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True, reason=f"PostgreSQL {version}")

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the longest sessions, who waits for whom, and how many connections are taken."""
        try:
            async with self.talk(ctx) as db:
                found = await sessions(db, None)
                connections = await db.row(CONNECTIONS)
        except ActionError as error:
            return {"reason": error.message}
        longest = sorted(found, key=lambda one: -max(one.transaction_seconds, one.query_seconds))
        waiting = [one for one in found if one.blocked_by]
        return {
            "connections": connections,
            "longest": [one.as_facts() for one in longest[:_MAX_SHOWN] if one.state != "idle"],
            "waiting": [{**one.as_facts(), "for": list(one.blocked_by[:5])} for one in waiting[:_MAX_SHOWN]],
            "blockers": sorted(roots_of(found))[:_MAX_SHOWN],
        }

    async def until(self, ctx: ActionContext, look: Callable[[Conversation], Awaitable[Check]]) -> Check:
        """Look again and again until it was well for `hold_seconds`; a server that is away is not well."""

        async def sample() -> Check:
            try:
                async with self.talk(ctx) as db:
                    return await look(db)
            except ActionError as error:
                return Check(ok=False, reason=error.message)

        params = ctx.params
        return await held(
            ctx,
            sample,
            hold_seconds=params.hold_seconds,
            within_seconds=params.within_seconds,
            interval_seconds=min(0.5, max(0.05, params.hold_seconds / 4)),
        )

    def receipt(self, ctx: ActionContext, facts: dict[str, Any]) -> Receipt:
        """Give the receipt of now; planned in a dry run."""
        return Receipt(self.spec.id, ctx.clock.now(), facts, planned=ctx.dry_run)


def protected(ctx: ActionContext) -> str:
    """Give the reason why the target may not be touched at all, or an empty text."""
    return "the target is protected" if ctx.target.protected else ""


def elapsed(ctx: ActionContext) -> float:
    """Give the seconds since the attempt began."""
    return max(0.0, ctx.clock.now() - ctx.started_at)
