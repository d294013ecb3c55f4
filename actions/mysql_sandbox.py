"""What the drills of MySQL share: connections of their own, closed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from actions.mysql_client import Conversation, MySQL, named
from actions.mysql_sessions import Thread, threads
from actions.mysql_settings import DRILL_PREFIX, KIND, MySQLSettings, Place
from oncall_agent.contract import (
    Check,
    Drill,
    PermanentError,
    SystemContext,
    Target,
    TransientError,
    Trial,
)
from oncall_agent.models import JsonObject

T = TypeVar("T")
_SESSION_SECONDS = 600.0
_CALL_SECONDS = 10.0
POLL_SECONDS = 0.05
YOUNG_SECONDS = 0.3


class MySQLDrill(Drill):
    """What the drills share: connections under a mark of their own.

    The sandbox may name `host`, `port`, `user` and `password` (a reference); what it does not name is as in the
    settings.
    """

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        known = {key: sandbox[key] for key in ("host", "port", "user", "password") if key in sandbox}
        own = MySQLSettings.model_validate({**settings, **known})
        self.mysql, self.mark = MySQL(own), f"{DRILL_PREFIX}{secrets.token_hex(6)}"
        self.place = Place(own.host, own.port)
        self._watch = MySQL(MySQLSettings.model_validate(dict(settings)))
        self._open: list[Conversation] = []
        self._busy: list[int] = []

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Give the trial on connections of this drill only; they come with the fault."""
        missing = [key for key in self.spec.sandbox_keys if key not in self.sandbox]
        if missing:
            raise PermanentError(f"name a sandbox for {self.spec.id}: {', '.join(missing)}")
        await self.found(ctx)
        address = {"host": self.place.host, "port": self.place.port}
        return Trial(Target(f"drill {self.mark}", KIND, address=address), self.params())

    def params(self) -> JsonObject:
        """Give the action's parameters: they match nothing but this drill."""
        raise NotImplementedError

    async def found(self, ctx: SystemContext) -> list[Thread]:
        """Look at the server's threads."""
        return await self.watch(ctx, threads)

    async def watch(self, ctx: SystemContext, question: Callable[[Conversation], T]) -> T:
        """Ask with the agent's own account."""
        return await self._watch.ask(
            ctx.run_blocking, self.place, min(ctx.seconds_left, _CALL_SECONDS), question
        )

    async def session(self, ctx: SystemContext, *statements: str) -> Conversation:
        """Open a connection that stays, and carry out statements in it."""

        def opened() -> Conversation:
            try:
                one = self.mysql.open(self.place, _SESSION_SECONDS)
                for statement in statements:
                    one.run(statement)
            except Exception as error:
                raise named(error) from error
            return one

        one = await ctx.run_blocking(opened)
        self._open.append(one)
        return one

    async def busy(self, ctx: SystemContext, statement: str, *before: str) -> None:
        """Open a connection that is busy with a statement from now on."""
        one = await self.session(ctx, *before)
        self._busy.append(one.id)
        await ctx.run_blocking(one.send, statement)

    async def until_sick(self, ctx: SystemContext, trial: Trial) -> None:
        """Wait until the fault is seen and old enough for the action."""
        while ctx.seconds_left > 0:
            if not (await self.symptom(ctx, trial)).ok:
                await ctx.clock.sleep(2 * YOUNG_SECONDS)
                return
            await ctx.clock.sleep(POLL_SECONDS)
        raise TransientError("the fault was not seen in time")

    async def ask(self, ctx: SystemContext, *statements: str) -> None:
        """Carry out statements in a connection of their own."""

        def carry_out(db: Conversation) -> None:
            for statement in statements:
                db.run(statement)

        await self.do(ctx, carry_out)

    async def do(self, ctx: SystemContext, step: Callable[[Conversation], None]) -> None:
        """Change something with the sandbox's account."""
        seconds = min(ctx.seconds_left, _CALL_SECONDS)
        await self.mysql.ask(ctx.run_blocking, self.place, seconds, step)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Close what was opened, and end what the server goes on with though nobody waits for it."""
        busy, self._busy, opened, self._open = self._busy, [], self._open, []
        for one in opened:
            await ctx.run_blocking(one.hang_up)
        if busy:
            await self.do(ctx, lambda db: _end(db, busy))

    @staticmethod
    def check(reason: str, **facts: Any) -> Check:
        """Give the symptom's check."""
        return Check(ok=not reason, reason=reason, facts=facts)


def _end(db: Conversation, ids: list[int]) -> None:
    for one in ids:
        db.kill(f"KILL CONNECTION {one}")
