"""A server that runs out of connections: end the ones that nobody uses."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from cachetools import LRUCache
from pydantic import Field, model_validator

from actions.postgres_backends import may_signal
from actions.postgres_client import Conversation
from actions.postgres_executor import PostgresExecutor, SettledParams, elapsed, protected
from actions.postgres_sessions import Session, sessions, terminate, untouchable
from actions.postgres_settings import KIND, PostgresSettings, home_of
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

_WARM_SECONDS = 5.0
_MIN_TRANSACTIONS = 20
_CAPACITY = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
  - coalesce(current_setting('reserved_connections', true)::int, 0) AS allowed,
  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS used,
  (SELECT coalesce(sum(xact_commit), 0) FROM pg_stat_database)::bigint AS commits,
  (SELECT coalesce(sum(xact_rollback), 0) FROM pg_stat_database)::bigint AS rollbacks
"""


class ReapParams(SettledParams):
    """Which connections may be ended, and until when."""

    applications: tuple[str, ...] = Field(min_length=1, max_length=50)
    """Application names whose pools open a new connection by themselves; no others are touched."""
    state: Literal["idle", "idle in transaction"] = "idle"
    """What the connections are doing."""
    min_seconds: float = Field(300.0, ge=0.1, le=604_800)
    """Only what has been so for that long."""
    min_idle: int = Field(1, ge=0, le=1000)
    """Leave each application that many of its connections."""
    max_n: int = Field(20, ge=1, le=100)
    """End at most that many; if they would not be enough, none."""
    full_share: float = Field(0.9, gt=0, le=1)
    """Share of the usable connections from which on the server counts as full."""
    target_share: float = Field(0.8, gt=0, le=1)
    """Share to come down to."""
    max_rollback_share: float = Field(0.5, gt=0, le=1)
    """If more of the server's transactions than that fail afterwards, it did harm."""

    @model_validator(mode="after")
    def _comes_down(self) -> Self:
        if self.target_share >= self.full_share:
            raise ValueError("target_share must be below full_share")
        return self


@dataclass(frozen=True, slots=True)
class Capacity:
    """How full a server is; connections reserved for superusers don't count as usable."""

    allowed: int
    used: int
    commits: int = 0
    rollbacks: int = 0

    @property
    def share(self) -> float:
        """Taken connections per usable one."""
        return self.used / max(1, self.allowed)

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence."""
        return {"used": self.used, "allowed": self.allowed, "share": round(self.share, 3)}


class ReapIdle(PostgresExecutor):
    """Ends idle connections of known applications until there is room again.

    It holds one connection: a full server lets nobody in, at least before PostgreSQL 16.
    """

    keeps_connection = is_server_wide = True
    spec = ActionSpec(
        id="postgres.reap_idle",
        summary="End idle connections of known applications when the server runs out of connections.",
        target_kind=KIND,
        params=ReapParams,
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
        self._chosen: LRUCache[str, tuple[tuple[Session, ...], Capacity]] = LRUCache(1024)
        self._warming: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Take the held connection in the background; a server that is away does not matter now."""
        if self.settings:
            warm = self.pg.warm(home_of(self.pg.settings), _WARM_SECONDS)
            self._warming = asyncio.create_task(warm, name="postgres-warm")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._warming is not None:
            self._warming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._warming
        await super().__aexit__(*_)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when the server is not full, or these connections would not help."""
        async with self.talk(ctx) as db:
            reason = protected(ctx) or await may_signal(db)
            if reason:
                return Check(ok=False, reason=reason)
            capacity, found = await capacity_of(db), await sessions(db, None)
        chosen = self._select(found, capacity, ctx)
        reason = objection(capacity, chosen, ctx.params)
        facts = {**_facts(chosen, capacity), "capacity": capacity.as_facts()}
        return Check(ok=not reason, reason=reason, instances=max(1, len(chosen)), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """End as many as needed, the longest idle first, each only if it is still idle."""
        async with self.talk(ctx) as db:
            chosen, capacity = self._chosen.get(ctx.idempotency_key) or await self._choose(db, ctx)
            facts = _facts(chosen, capacity)
            if ctx.dry_run:
                return self.receipt(ctx, facts)
            self._chosen[ctx.idempotency_key] = (chosen, capacity)
            try:
                facts["ended"] = sum([await terminate(db, one, 0) for one in chosen])
            except ActionError as error:
                error.receipt_facts = facts
                raise
        return self.receipt(ctx, facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether there is room again and the applications' transactions do not fail since."""
        first: list[Capacity] = []

        async def look(db: Conversation) -> Check:
            now = await capacity_of(db)
            first.append(now)
            del first[1:]
            reason = complaint(now, first[0], ctx.params)
            return Check(ok=not reason, reason=reason, facts=now.as_facts())

        return await self.until(ctx, look)

    def _select(
        self, found: Sequence[Session], capacity: Capacity, ctx: ActionContext
    ) -> tuple[Session, ...]:
        return choose(found, capacity, ctx.params, self.pg.settings, seconds_ago=elapsed(ctx))

    async def _choose(self, db: Conversation, ctx: ActionContext) -> tuple[tuple[Session, ...], Capacity]:
        capacity = await capacity_of(db)
        if capacity.share < ctx.params.full_share:
            return (), capacity
        chosen = self._select(await sessions(db, None), capacity, ctx)
        reason = objection(capacity, chosen, ctx.params)
        if reason:
            raise PermanentError(reason)
        return chosen, capacity


def choose(
    found: Sequence[Session],
    capacity: Capacity,
    params: ReapParams,
    settings: PostgresSettings,
    *,
    seconds_ago: float = 0.0,
) -> tuple[Session, ...]:
    """Choose the connections to end: as few as needed, and each application keeps `min_idle`."""
    idle = [
        one
        for one in found
        if one.application in params.applications
        and one.state == params.state
        and one.state_seconds - seconds_ago >= params.min_seconds
        and not untouchable(one, settings)
    ]
    have = Counter(one.application for one in found if one.application in params.applications)
    chosen: list[Session] = []
    for one in sorted(idle, key=lambda session: -session.state_seconds):
        if len(chosen) >= min(params.max_n, surplus(capacity, params)):
            break
        if have[one.application] > params.min_idle:
            have[one.application] -= 1
            chosen.append(one)
    return tuple(chosen)


def surplus(capacity: Capacity, params: ReapParams) -> int:
    """Give how many connections are above the share to come down to."""
    return max(0, capacity.used - int(capacity.allowed * params.target_share))


def objection(capacity: Capacity, chosen: Sequence[Session], params: ReapParams) -> str:
    """Give the reason why nothing should be ended, or an empty text."""
    if capacity.share < params.full_share:
        return f"{capacity.used} of {capacity.allowed} connections are taken: the server is not full"
    needed = surplus(capacity, params)
    if len(chosen) < needed:
        return f"{needed} connections too many, only {len(chosen)} may be ended: it would not help"
    return ""


def complaint(now: Capacity, first: Capacity, params: ReapParams) -> str:
    """Give what is still wrong, or an empty text."""
    if now.share > params.target_share:
        return f"{now.used} of {now.allowed} connections are taken"
    failed, done = now.rollbacks - first.rollbacks, now.commits - first.commits
    if failed + done >= _MIN_TRANSACTIONS and failed / (failed + done) > params.max_rollback_share:
        return f"{failed} of {failed + done} transactions failed since"
    return ""


async def capacity_of(db: Conversation) -> Capacity:
    """Read how full the server is."""
    return Capacity(**(await db.row(_CAPACITY) or {}))


def _facts(chosen: Sequence[Session], capacity: Capacity) -> dict[str, Any]:
    return {"victims": [one.key for one in chosen], "used": capacity.used, "allowed": capacity.allowed}
