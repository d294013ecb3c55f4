"""Queries that run too long or hold others up: killed, each only if it is still the same."""

from __future__ import annotations

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
    kill_queries,
    lacking,
    roots_of,
    row_waits,
    threads,
    untouchable,
    waiting_count,
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


class QueryParams(SettledParams):
    """Which queries."""

    min_seconds: float = Field(300.0, ge=0.1, le=604_800)
    """Only what has been running for that long."""
    user: str | None = Field(None, pattern=NAME)
    """Only this user's."""
    database: str | None = Field(None, pattern=NAME)
    """Only in this database."""
    query_contains: str | None = Field(None, min_length=1, max_length=100)
    """Only queries with this text in them."""
    only_blockers: bool = False
    """Only queries for whose row locks others wait, and that wait for nobody themselves."""
    max_n: int = Field(5, ge=1, le=100)
    """If more match, none is touched: the filter is too wide."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The threads that match, longest first, and how many matched but may not be touched, by reason."""

    chosen: tuple[Thread, ...]
    skipped: dict[str, int] = field(default_factory=dict)


class KillQuery(MySQLExecutor):
    """Kills queries that run too long or hold others up; their connections stay."""

    spec = ActionSpec(
        id="mysql.kill_query",
        summary="Kill queries that run too long or block others; their connections stay.",
        target_kind=KIND,
        params=QueryParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="the server itself rolls a killed statement back; it can be sent again",
        deadline_seconds=90.0,
        cost=0.05,
        family="kill",
        blast_radius=100,
        exemptions={"rollback_restores": "the server itself rolls a killed statement back"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._chosen: LRUCache[str, tuple[tuple[Thread, ...], int]] = LRUCache(1024)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when nothing matches, too much does, or our account may not kill."""
        found, waits, lack = await self.ask(ctx, self._read)
        selection = select(found, waits, ctx.params, self.mysql.settings, seconds_ago=elapsed(ctx))
        reason = protected(ctx) or lack or objection(selection, ctx.params.max_n)
        facts = {
            **_facts(selection.chosen, waiting_count(waits)),
            "skipped": selection.skipped,
            "threads": [one.as_facts() for one in selection.chosen[:_MAX_SHOWN]],
        }
        return Check(ok=not reason, reason=reason, instances=max(1, len(selection.chosen)), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Kill what the attempt is about, each query only if it still is the same one."""
        chosen, blocked = self._chosen.get(ctx.idempotency_key) or await self._choose(ctx)
        facts = _facts(chosen, blocked)
        if ctx.dry_run:
            return self.receipt(ctx, facts)
        self._chosen[ctx.idempotency_key] = (chosen, blocked)
        try:
            facts["killed"] = await self.ask(ctx, lambda db: kill_queries(db, chosen))
        except ActionError as error:
            error.receipt_facts = facts
            raise
        return self.receipt(ctx, facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether these queries are gone, nothing else matches, and fewer wait than before."""
        before = receipt.facts

        def look(db: Conversation) -> Check:
            found, waits = threads(db), row_waits(db)
            again = select(found, waits, ctx.params, self.mysql.settings)
            running = {tuple(one.key) for one in found if not one.is_idle}
            remaining = [key for key in before.get("victims") or () if tuple(key) in running]
            reason = ""
            if remaining:
                reason = f"{len(remaining)} of the queries still run"
            elif again.chosen:
                reason = f"{len(again.chosen)} queries match now"
            elif before.get("blocked") and waiting_count(waits) >= before["blocked"]:
                reason = f"{waiting_count(waits)} threads still wait for row locks"
            return Check(ok=not reason, reason=reason, facts={"blocked": waiting_count(waits)})

        return await self.until(ctx, look)

    def _read(self, db: Conversation) -> tuple[list[Thread], list[Wait], str]:
        return threads(db), row_waits(db), lacking(db, db.dialect.needs[self.spec.id])

    async def _choose(self, ctx: ActionContext) -> tuple[tuple[Thread, ...], int]:
        found, waits, _ = await self.ask(ctx, self._read)
        chosen = select(found, waits, ctx.params, self.mysql.settings, seconds_ago=elapsed(ctx)).chosen
        if len(chosen) > ctx.params.max_n:
            raise PermanentError(
                f"{len(chosen)} queries match now, at most {ctx.params.max_n} may be touched"
            )
        return chosen, waiting_count(waits)


def select(
    found: Sequence[Thread],
    waits: Sequence[Wait],
    params: QueryParams,
    settings: MySQLSettings,
    *,
    seconds_ago: float = 0.0,
) -> Selection:
    """Choose the queries that match and were old enough when the attempt began, `seconds_ago`."""
    blockers = roots_of(waits)
    matching = [
        one
        for one in found
        if not one.is_idle
        and one.query
        and one.seconds - seconds_ago >= params.min_seconds
        and params.user in (None, one.user)
        and params.database in (None, one.db)
        and (params.query_contains is None or params.query_contains in one.query)
        and (not params.only_blockers or one.id in blockers)
    ]
    reasons = {one.id: untouchable(one, settings) for one in matching}
    chosen = sorted((one for one in matching if not reasons[one.id]), key=lambda one: -one.seconds)
    return Selection(tuple(chosen), dict(Counter(reason for reason in reasons.values() if reason)))


def objection(selection: Selection, max_n: int) -> str:
    """Give the reason why a selection may not be touched, or an empty text."""
    if not selection.chosen:
        skipped = ", ".join(f"{count} {reason}" for reason, count in selection.skipped.items())
        return f"no query matches{f' that may be touched ({skipped})' if skipped else ''}"
    if len(selection.chosen) > max_n:
        return f"{len(selection.chosen)} queries match, at most {max_n} may be touched: narrow the filter"
    return ""


def _facts(chosen: Sequence[Thread], blocked: int) -> dict[str, Any]:
    return {"victims": [one.key for one in chosen], "blocked": blocked}
