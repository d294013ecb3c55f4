"""What the mysql actions share: the client, ping, diagnostics, and looking until it is well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import Field

from actions.mysql_client import Conversation, FullError, MySQL
from actions.mysql_sessions import roots_of, row_waits, threads
from actions.mysql_settings import MySQLSettings, Place, place_of
from oncall_agent.contract import ActionContext, ActionError, Check, Executor, Params, Receipt, held
from oncall_agent.models import JsonObject

T = TypeVar("T")
_MAX_SHOWN = 10
# A full server keeps one connection for accounts like ours; it is free again only when the last one was torn down.
_FULL_PAUSES = (0.1, 0.2, 0.4)
# InnoDB shows transactions and lock waits out of a cache that it renews only after 0.1 s without a reader.
_SHORTEST_INTERVAL_SECONDS = 0.15


class SettledParams(Params):
    """How long the fix has to be seen before it counts."""

    hold_seconds: float = Field(2.0, ge=0, le=300)
    """The symptom must stay away for that long."""
    within_seconds: float = Field(20.0, ge=0.1, le=600)
    """Give up looking after that long."""


class MySQLExecutor(Executor):
    """Base of the mysql actions."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.mysql = MySQL(MySQLSettings.model_validate(dict(settings)))

    async def ask(self, ctx: ActionContext, question: Callable[[Conversation], T]) -> T:
        """Ask the target's server inside the deadline."""
        return await self.ask_at(ctx, place_of(ctx.target, self.mysql.settings), question)

    async def ask_at(self, ctx: ActionContext, place: Place, question: Callable[[Conversation], T]) -> T:
        """Ask another server with the same account."""
        for pause in _FULL_PAUSES:
            with suppress(FullError):
                return await self._ask_once(ctx, place, question)
            await ctx.clock.sleep(min(pause, ctx.seconds_left))
        return await self._ask_once(ctx, place, question)

    async def _ask_once(self, ctx: ActionContext, place: Place, question: Callable[[Conversation], T]) -> T:
        seconds = min(ctx.seconds_left, self.mysql.settings.timeout_seconds)
        return await self.mysql.ask(ctx.run_blocking, place, seconds, question)

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the server lets us in and answers."""
        try:
            said = await self.ask(ctx, lambda db: f"{db.dialect.product} {db.version}")
        except ActionError as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True, reason=said)

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the longest threads, and who waits for whom."""
        try:
            found, waits = await self.ask(ctx, lambda db: (threads(db), row_waits(db)))
        except ActionError as error:
            return {"reason": error.message}
        busy = sorted((one for one in found if not one.is_idle), key=lambda one: -one.seconds)
        return {
            "threads": len(found),
            "longest": [one.as_facts() for one in busy[:_MAX_SHOWN]],
            "waits": [list(one) for one in waits[:_MAX_SHOWN]],
            "blockers": sorted(roots_of(waits))[:_MAX_SHOWN],
        }

    async def until(self, ctx: ActionContext, look: Callable[[Conversation], Check]) -> Check:
        """Look again and again until it was well for `hold_seconds`; a server that is away is not well."""
        return await self.settled(ctx, lambda: self.ask(ctx, look))

    async def settled(self, ctx: ActionContext, look: Callable[[], Awaitable[Check]]) -> Check:
        """Await the same by any question."""

        async def sample() -> Check:
            try:
                return await look()
            except ActionError as error:
                return Check(ok=False, reason=error.message)

        params = ctx.params
        return await held(
            ctx,
            sample,
            hold_seconds=params.hold_seconds,
            within_seconds=params.within_seconds,
            interval_seconds=min(0.5, max(_SHORTEST_INTERVAL_SECONDS, params.hold_seconds / 4)),
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
