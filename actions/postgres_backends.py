"""Sessions that do harm: cancel their query, or end them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from cachetools import LRUCache
from pydantic import Field

from actions.postgres_client import Conversation
from actions.postgres_executor import PostgresExecutor, SettledParams, elapsed, protected
from actions.postgres_sessions import (
    MAY_SIGNAL,
    Selection,
    Session,
    Wanted,
    blocked_count,
    cancel,
    select,
    sessions,
    terminate,
)
from actions.postgres_settings import KIND, NAME
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    PermanentError,
    Receipt,
    RiskClass,
)
from oncall_agent.models import JsonObject

_POLL_SECONDS = 0.1
_MAX_SHOWN = 5


class SessionParams(SettledParams):
    """Which sessions of the target's database."""

    min_seconds: float = Field(300.0, ge=0.1, le=604_800)
    """Only what has been going on for that long."""
    application: str | None = Field(None, max_length=63)
    """Only this application name."""
    user: str | None = Field(None, pattern=NAME)
    """Only this role."""
    query_id: int | None = None
    """Only this query, as `pg_stat_statements` numbers it."""
    only_blockers: bool = False
    """Only sessions for whose locks others wait, and that wait for nobody themselves."""
    max_n: int = Field(5, ge=1, le=100)
    """If more match, none is touched: the filter is too wide."""


class TerminateParams(SessionParams):
    """Which sessions to end."""

    state: Literal["active", "idle in transaction", "idle in transaction (aborted)"] = "idle in transaction"
    """What the session is doing. An active one is first asked to cancel."""
    pid: int | None = Field(None, ge=1)
    """Only this process; everything else is checked all the same."""
    max_n: int = Field(1, ge=1, le=20)
    """If more match, none is touched."""
    cancel_seconds: float = Field(5.0, ge=0.1, le=60)
    """Time that an active session gets to cancel its query."""
    end_seconds: float = Field(5.0, ge=0.1, le=60)
    """Time to wait for the server to be rid of a session."""


class _Signals(PostgresExecutor):
    """Chooses sessions once per attempt, signals those that are still the same, and looks for the symptom."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        # Attempt -> what it is about: a repeat in this process never takes in more.
        self._chosen: LRUCache[str, tuple[tuple[Session, ...], int]] = LRUCache(1024)

    def wanted(self, params: Any) -> Wanted:
        """Give the filter."""
        return Wanted(
            min_seconds=params.min_seconds,
            application=params.application,
            user=params.user,
            query_id=params.query_id,
            only_blockers=params.only_blockers,
        )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when nothing matches, too much does, or our role may not signal."""
        async with self.talk(ctx) as db:
            reason = protected(ctx) or await may_signal(db)
            if reason:
                return Check(ok=False, reason=reason)
            found = await self._read(db, ctx)
        selection = self._select(found, ctx)
        reason = objection(selection, ctx.params.max_n)
        facts = facts_of(selection.chosen, blocked_count(found))
        return Check(
            ok=not reason,
            reason=reason,
            instances=max(1, len(selection.chosen)),
            facts={
                **facts,
                "skipped": selection.skipped,
                "sessions": [one.as_facts() for one in selection.chosen[:_MAX_SHOWN]],
            },
        )

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Signal what the attempt is about, each session only if it still does the same."""
        async with self.talk(ctx) as db:
            chosen, blocked = self._chosen.get(ctx.idempotency_key) or await self._choose(db, ctx)
            facts = facts_of(chosen, blocked)
            if ctx.dry_run:
                return self.receipt(ctx, facts)
            self._chosen[ctx.idempotency_key] = (chosen, blocked)
            try:
                facts["signalled"] = await self.signal(db, ctx, chosen)
            except ActionError as error:
                error.receipt_facts = facts
                raise
        return self.receipt(ctx, facts)

    async def signal(self, db: Conversation, ctx: ActionContext, chosen: Sequence[Session]) -> int:
        """Send the signals; give how many arrived."""
        raise NotImplementedError

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether these sessions are gone, nothing else matches, and fewer wait than before."""

        async def look(db: Conversation) -> Check:
            found = await self._read(db, ctx)
            again = select(found, self.wanted(ctx.params), self.pg.settings)
            reason = self.complaint(found, again, receipt.facts)
            return Check(ok=not reason, reason=reason, facts={"blocked": blocked_count(found)})

        return await self.until(ctx, look)

    def complaint(self, found: Sequence[Session], again: Selection, before: JsonObject) -> str:
        """Give what is still wrong, or an empty text."""
        present = {tuple(one.key[: self.identity]) for one in found if one.state == self._state(one)}
        remaining = [key for key in before.get("victims") or () if tuple(key[: self.identity]) in present]
        if remaining:
            return f"{len(remaining)} of the sessions are still there"
        if again.chosen:
            return f"{len(again.chosen)} sessions match now"
        blocked = blocked_count(found)
        if before.get("blocked") and blocked >= before["blocked"]:
            return f"{blocked} sessions still wait for locks"
        return ""

    identity = 3

    def _state(self, one: Session) -> str:
        # A cancelled query stays in the view as the last one of a session that is idle now.
        return "active" if self.identity == len(one.key) else one.state

    def _select(self, found: Sequence[Session], ctx: ActionContext) -> Selection:
        return select(found, self.wanted(ctx.params), self.pg.settings, seconds_ago=elapsed(ctx))

    async def _choose(self, db: Conversation, ctx: ActionContext) -> tuple[tuple[Session, ...], int]:
        found = await self._read(db, ctx)
        chosen = self._select(found, ctx).chosen
        if len(chosen) > ctx.params.max_n:
            raise PermanentError(
                f"{len(chosen)} sessions match now, at most {ctx.params.max_n} may be touched"
            )
        return chosen, blocked_count(found)

    async def _read(self, db: Conversation, ctx: ActionContext) -> list[Session]:
        return await sessions(db, str(ctx.target.address["database"]))


class CancelQuery(_Signals):
    """Cancels queries that run too long or hold others up."""

    spec = ActionSpec(
        id="postgres.cancel_query",
        summary="Cancel queries that run too long or block others.",
        target_kind=KIND,
        params=SessionParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="the server itself rolls a cancelled statement back; it can be sent again",
        deadline_seconds=90.0,
        cost=0.05,
        family="kill",
        blast_radius=100,
        exemptions={"rollback_restores": "the server itself rolls a cancelled statement back"},
    )

    async def signal(self, db: Conversation, ctx: ActionContext, chosen: Sequence[Session]) -> int:
        """Cancel each."""
        return sum([await cancel(db, one) for one in chosen])


class TerminateBackend(_Signals):
    """Ends sessions whose query does not cancel, or that sit in a transaction and do nothing."""

    identity = 2
    spec = ActionSpec(
        id="postgres.terminate_backend",
        summary="End sessions that are idle in a transaction, or whose query does not cancel.",
        target_kind=KIND,
        params=TerminateParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="a session that was ended is gone; its client connects again",
        deadline_seconds=180.0,
        cost=0.1,
        family="kill",
        blast_radius=20,
        exemptions={"rollback_restores": "a session that was ended is gone; its client connects again"},
    )

    def wanted(self, params: Any) -> Wanted:
        """Give the filter."""
        return Wanted(
            state=params.state,
            min_seconds=params.min_seconds,
            pid=params.pid,
            application=params.application,
            user=params.user,
            query_id=params.query_id,
            only_blockers=params.only_blockers,
        )

    def patience(self, ctx: ActionContext) -> float:
        """Waiting for the sessions to end takes its time."""
        params = ctx.params
        if params is None:
            return super().patience(ctx)
        return super().patience(ctx) + float(params.cancel_seconds + params.end_seconds * params.max_n)

    async def signal(self, db: Conversation, ctx: ActionContext, chosen: Sequence[Session]) -> int:
        """Ask active ones to cancel first; end those that did not."""
        active = [one for one in chosen if one.state == "active"]
        ended = len(active) - len(await self._uncancelled(db, ctx, active))
        for one in chosen:
            ended += await terminate(db, one, ctx.params.end_seconds)
        return ended

    async def _uncancelled(
        self, db: Conversation, ctx: ActionContext, active: Sequence[Session]
    ) -> list[Session]:
        for one in active:
            await cancel(db, one)
        end = ctx.clock.monotonic() + (ctx.params.cancel_seconds if active else 0.0)
        left = list(active)
        while left and ctx.clock.monotonic() < end:
            await ctx.clock.sleep(_POLL_SECONDS)
            running = {tuple(one.key) for one in await self._read(db, ctx) if one.state == "active"}
            left = [one for one in left if tuple(one.key) in running]
        return left

    def complaint(self, found: Sequence[Session], again: Selection, before: JsonObject) -> str:
        """As for any signal; an active session that cancelled its query may stay."""
        cancelled = [one.key for one in found if one.key in before.get("victims", ()) and one.state == "idle"]
        kept = [key for key in before.get("victims") or () if key not in cancelled]
        return super().complaint(found, again, {**before, "victims": kept})


def facts_of(chosen: Sequence[Session], blocked: int) -> dict[str, Any]:
    """Give what verify needs, small."""
    return {"victims": [one.key for one in chosen], "blocked": blocked}


def objection(selection: Selection, max_n: int) -> str:
    """Give the reason why a selection may not be touched, or an empty text."""
    if not selection.chosen:
        skipped = ", ".join(f"{count} {reason}" for reason, count in selection.skipped.items())
        return f"no session matches{f' that may be touched ({skipped})' if skipped else ''}"
    if len(selection.chosen) > max_n:
        return f"{len(selection.chosen)} sessions match, at most {max_n} may be touched: narrow the filter"
    return ""


async def may_signal(db: Conversation) -> str:
    """Give what our role lacks to see and signal sessions, or an empty text."""
    held = await db.row(MAY_SIGNAL) or {}
    if not held.get("read"):
        return "our role may not see what others do: it needs pg_read_all_stats"
    return "" if held.get("signal") else "our role may not signal sessions: it needs pg_signal_backend"
