"""A table whose lock somebody holds while others wait: find who it is, prove it, and end that connection."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.mysql_client import Conversation
from actions.mysql_executor import MySQLExecutor, SettledParams, elapsed, protected
from actions.mysql_sessions import (
    Thread,
    Wait,
    kill_connections,
    lacking,
    roots_of,
    row_waits,
    threads,
    untouchable,
)
from actions.mysql_settings import KIND, NAME, MySQLSettings
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

_MAX_SHOWN = 5
_WAITS_FOR_TABLE = re.compile(
    r"^waiting for (table )?metadata lock|^waiting for schema metadata", re.IGNORECASE
)
NO_VIEW = "who holds the table's metadata lock can't be told: MariaDB shows it with the plugin metadata_lock_info only"


class BlockerParams(SettledParams):
    """Which table, and how long others must have waited."""

    database: str = Field(pattern=NAME)
    """The database of the table."""
    table: str = Field(pattern=NAME)
    """The table that others wait for."""
    min_seconds: float = Field(30.0, ge=0.1, le=604_800)
    """Only if somebody has waited for that long."""
    max_n: int = Field(1, ge=1, le=20)
    """If more connections hold it, none is touched."""

    @property
    def place(self) -> str:
        """The table as the server writes it."""
        return f"{self.database}.{self.table}"


@dataclass(frozen=True, slots=True)
class Jam:
    """What a table's lock looks like now.

    Attributes:
        blockers: who holds it, waits for nobody and may be touched.
        skipped: how many hold it but may not be touched, by reason.
        waiting: how many wait for it.
        seconds: how long the first of them has waited.
        is_blind: the server does not show who holds metadata locks, and somebody waits for one.
    """

    blockers: tuple[Thread, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    seconds: float = 0.0
    is_blind: bool = False


class KillLockBlocker(MySQLExecutor):
    """Ends the connection that holds a table's lock while others wait for it."""

    spec = ActionSpec(
        id="mysql.kill_lock_blocker",
        summary="End the connection that holds a table's lock while others wait for it.",
        target_kind=KIND,
        params=BlockerParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="the server rolls its transaction back; its client connects again",
        deadline_seconds=90.0,
        cost=0.1,
        family="kill",
        blast_radius=20,
        exemptions={"rollback_restores": "the server rolls its transaction back; its client connects again"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._chosen: LRUCache[str, tuple[Thread, ...]] = LRUCache(1024)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse unless who blocks is proven, waits for nobody and may be ended."""
        jam, lack = await self.ask(ctx, lambda db: (self._jam(db, ctx), self._lack(db)))
        reason = protected(ctx) or lack or objection(jam, ctx.params)
        facts = {
            **_facts(jam),
            "skipped": jam.skipped,
            "threads": [one.as_facts() for one in jam.blockers[:_MAX_SHOWN]],
        }
        return Check(ok=not reason, reason=reason, instances=max(1, len(jam.blockers)), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """End who still blocks and still does the same."""
        known = self._chosen.get(ctx.idempotency_key)
        blockers = await self._choose(ctx) if known is None else known
        facts: dict[str, Any] = {"victims": [one.key for one in blockers]}
        if ctx.dry_run:
            return self.receipt(ctx, facts)
        self._chosen[ctx.idempotency_key] = blockers
        try:
            facts["ended"] = await self.ask(ctx, lambda db: self._end(db, ctx, blockers))
        except ActionError as error:
            error.receipt_facts = facts
            raise
        return self.receipt(ctx, facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether these connections are gone and nobody waits for the table."""
        victims = {key[0] for key in receipt.facts.get("victims") or ()}

        def look(db: Conversation) -> Check:
            found = threads(db)
            left = sum(one.id in victims for one in found)
            jam = jam_of(db, found, ctx.params, self.mysql.settings)
            reason = f"{jam.waiting} threads wait for {ctx.params.place}" if jam.waiting else ""
            reason = f"{left} of the connections are still there" if left else reason
            return Check(ok=not reason, reason=reason, facts={"waiting": jam.waiting})

        return await self.until(ctx, look)

    async def _choose(self, ctx: ActionContext) -> tuple[Thread, ...]:
        jam = await self.ask(ctx, lambda db: self._jam(db, ctx))
        if len(jam.blockers) > ctx.params.max_n or jam.is_blind:
            raise PermanentError(objection(jam, ctx.params))
        # Who has waited since the attempt began only is not part of it.
        return jam.blockers if jam.seconds - elapsed(ctx) >= ctx.params.min_seconds else ()

    def _jam(self, db: Conversation, ctx: ActionContext) -> Jam:
        return jam_of(db, threads(db), ctx.params, self.mysql.settings)

    def _end(self, db: Conversation, ctx: ActionContext, blockers: Sequence[Thread]) -> int:
        now = {one.id for one in self._jam(db, ctx).blockers}
        return kill_connections(db, [one for one in blockers if one.id in now])

    def _lack(self, db: Conversation) -> str:
        return lacking(db, db.dialect.needs[self.spec.id])


def jam_of(db: Conversation, found: Sequence[Thread], params: BlockerParams, settings: MySQLSettings) -> Jam:
    """Read who waits for the table and who holds it."""
    holders = db.rows_if_known(db.dialect.holders)
    rows = [one for one in row_waits(db) if one.place == params.place]
    metadata = table_waits(found, holders or (), params)
    return judge(found, [*rows, *metadata], params, settings, is_blind=holders is None)


def table_waits(found: Sequence[Thread], holders: Sequence[JsonObject], params: BlockerParams) -> list[Wait]:
    """Give who waits for whose metadata lock on the table.

    Where the server shows holders only, who waits is told by the thread's state, and for which table by its query.
    """
    here = [row for row in holders if row["place"] == params.place]
    queued = {one.id for one in found if waits_for_table(one, params)}
    waiting = {int(row["holder"]) for row in here if row["waiting"]}
    if all(row["waiting"] is None for row in here):
        waiting = queued
    holding = {int(row["holder"]) for row in here if not row["waiting"]}
    return [
        Wait(one, other, params.place) for one in sorted(waiting) for other in sorted(holding) if one != other
    ]


def waits_for_table(one: Thread, params: BlockerParams) -> bool:
    """Say whether a thread's state and query say that it waits for the table's metadata lock."""
    if not _WAITS_FOR_TABLE.match(one.state):
        return False
    named = re.search(rf"\b{re.escape(params.table)}\b", one.query) is not None
    return named and (one.db == params.database or params.database in one.query)


def judge(
    found: Sequence[Thread],
    waits: Sequence[Wait],
    params: BlockerParams,
    settings: MySQLSettings,
    *,
    is_blind: bool,
) -> Jam:
    """Choose who holds the lock, waits for nobody and may be touched."""
    roots = roots_of(waits)
    holding = [one for one in found if one.id in roots]
    reasons = {one.id: untouchable(one, settings) for one in holding}
    queued = {one.waiting for one in waits} | {one.id for one in found if waits_for_table(one, params)}
    return Jam(
        blockers=tuple(one for one in holding if not reasons[one.id]),
        skipped=dict(Counter(reason for reason in reasons.values() if reason)),
        waiting=len(queued),
        seconds=max((one.seconds for one in found if one.id in queued), default=0.0),
        is_blind=is_blind and not waits and bool(queued),
    )


def objection(jam: Jam, params: BlockerParams) -> str:
    """Give the reason why nobody may be ended, or an empty text."""
    if not jam.waiting:
        return f"nobody waits for {params.place}"
    if jam.is_blind:
        return NO_VIEW
    if jam.seconds < params.min_seconds:
        return f"the longest has waited for {params.place} only {jam.seconds:.1f} s"
    if not jam.blockers:
        skipped = ", ".join(f"{count} {reason}" for reason, count in jam.skipped.items())
        return f"nobody is proven to block {params.place}{f' that may be touched ({skipped})' if skipped else ''}"
    if len(jam.blockers) > params.max_n:
        return f"{len(jam.blockers)} connections block {params.place}, at most {params.max_n} may be ended"
    return ""


def _facts(jam: Jam) -> dict[str, Any]:
    return {
        "victims": [one.key for one in jam.blockers],
        "waiting": jam.waiting,
        "seconds": round(jam.seconds, 1),
    }
