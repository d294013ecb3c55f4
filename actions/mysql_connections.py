"""A server that runs out of connections: end the ones that nobody uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from cachetools import LRUCache
from pydantic import Field, model_validator

from actions.mysql_client import Conversation
from actions.mysql_executor import MySQLExecutor, SettledParams, elapsed, protected
from actions.mysql_sessions import Thread, kill_connections, lacking, threads, untouchable
from actions.mysql_settings import KIND, MySQLSettings
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

_CAPACITY = "SELECT @@GLOBAL.max_connections AS allowed"


class ConnectionParams(SettledParams):
    """Which connections may be ended, and until when."""

    users: tuple[str, ...] = Field(min_length=1, max_length=50)
    """Users whose pools open a new connection by themselves; no others are touched."""
    min_seconds: float = Field(300.0, ge=0.1, le=604_800)
    """Only what has been idle for that long."""
    min_idle: int = Field(1, ge=0, le=1000)
    """Leave each user that many connections."""
    with_transactions: bool = False
    """Also connections that are idle inside a transaction; the server rolls it back."""
    max_n: int = Field(20, ge=1, le=100)
    """End at most that many; if they would not be enough, none."""
    full_share: float = Field(0.9, gt=0, le=1)
    """Share of max_connections from which on the server counts as full."""
    target_share: float = Field(0.8, gt=0, le=1)
    """Share to come down to."""

    @model_validator(mode="after")
    def _comes_down(self) -> Self:
        if self.target_share >= self.full_share:
            raise ValueError("target_share must be below full_share")
        return self


class KillConnections(MySQLExecutor):
    """Ends idle connections of known users until there is room again."""

    spec = ActionSpec(
        id="mysql.kill_connections",
        summary="End idle connections of known users when the server runs out of connections.",
        target_kind=KIND,
        params=ConnectionParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="a connection that was ended is gone; its pool opens another when it needs one",
        deadline_seconds=120.0,
        cost=0.1,
        family="kill",
        blast_radius=100,
        exemptions={"rollback_restores": "a connection that was ended is gone; its pool opens another"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._chosen: LRUCache[str, tuple[Thread, ...]] = LRUCache(1024)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when the server is not full, or these connections would not help."""
        found, allowed, lack = await self.ask(ctx, self._read)
        chosen = choose(found, allowed, ctx.params, self.mysql.settings, seconds_ago=elapsed(ctx))
        reason = protected(ctx) or lack or unhelpful(len(found), allowed, len(chosen), ctx.params)
        facts = {"victims": [one.key for one in chosen], "used": len(found), "allowed": allowed}
        return Check(ok=not reason, reason=reason, instances=max(1, len(chosen)), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """End as many as needed, the longest idle first, each only if it is still idle."""
        known = self._chosen.get(ctx.idempotency_key)
        victims = await self._choose(ctx) if known is None else known
        facts: dict[str, Any] = {"victims": [one.key for one in victims]}
        if ctx.dry_run:
            return self.receipt(ctx, facts)
        self._chosen[ctx.idempotency_key] = victims
        try:
            facts["ended"] = await self.ask(ctx, lambda db: kill_connections(db, victims))
        except ActionError as error:
            error.receipt_facts = facts
            raise
        return self.receipt(ctx, facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether there is room again."""

        def look(db: Conversation) -> Check:
            used, allowed = capacity_of(db)
            is_well = used <= allowed * ctx.params.target_share
            reason = "" if is_well else f"{used} of {allowed} connections are taken"
            return Check(ok=is_well, reason=reason, facts={"used": used, "allowed": allowed})

        return await self.until(ctx, look)

    async def _choose(self, ctx: ActionContext) -> tuple[Thread, ...]:
        found, allowed, _ = await self.ask(ctx, self._read)
        if len(found) < allowed * ctx.params.full_share:
            return ()
        chosen = choose(found, allowed, ctx.params, self.mysql.settings, seconds_ago=elapsed(ctx))
        reason = unhelpful(len(found), allowed, len(chosen), ctx.params)
        if reason:
            raise PermanentError(reason)
        return chosen

    def _read(self, db: Conversation) -> tuple[list[Thread], int, str]:
        allowed = int((db.row(_CAPACITY) or {})["allowed"])
        return clients(db), allowed, lacking(db, db.dialect.needs[self.spec.id])


def choose(
    found: Sequence[Thread],
    allowed: int,
    params: ConnectionParams,
    settings: MySQLSettings,
    *,
    seconds_ago: float = 0.0,
) -> tuple[Thread, ...]:
    """Choose the connections to end: as few as needed, and each user keeps `min_idle`."""
    idle = [
        one
        for one in found
        if one.is_idle
        and one.user in params.users
        and one.seconds - seconds_ago >= params.min_seconds
        and (params.with_transactions or not one.in_transaction)
        and not untouchable(one, settings)
    ]
    have = Counter(one.user for one in found)
    surplus = _surplus(len(found), allowed, params)
    chosen: list[Thread] = []
    for one in sorted(idle, key=lambda thread: -thread.seconds):
        if len(chosen) >= min(params.max_n, surplus):
            break
        if have[one.user] > params.min_idle:
            have[one.user] -= 1
            chosen.append(one)
    return tuple(chosen)


def clients(db: Conversation) -> list[Thread]:
    """Read the threads that take up a connection."""
    return [one for one in threads(db) if one.is_client]


def capacity_of(db: Conversation) -> tuple[int, int]:
    """Read how many connections are taken, of how many."""
    return len(clients(db)), int((db.row(_CAPACITY) or {})["allowed"])


def _surplus(used: int, allowed: int, params: ConnectionParams) -> int:
    return max(0, used - int(allowed * params.target_share))


def unhelpful(used: int, allowed: int, chosen: int, params: ConnectionParams) -> str:
    """Give the reason why nothing should be ended, or an empty text."""
    if used < allowed * params.full_share:
        return f"{used} of {allowed} connections are taken: the server is not full"
    needed = _surplus(used, allowed, params)
    if chosen < needed:
        return f"{needed} connections too many, only {chosen} may be ended: it would not help"
    return ""
