"""A table full of dead rows, or close to transaction wraparound: vacuum it within a budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.postgres_client import Conversation
from actions.postgres_executor import PostgresExecutor, SettledParams, elapsed, protected
from actions.postgres_settings import KIND, PostgresSettings
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    PermanentError,
    Receipt,
    RiskClass,
    TransientError,
)
from oncall_agent.models import JsonObject

_TABLE = """
SELECT c.oid::bigint AS oid, pg_total_relation_size(c.oid)::bigint AS size,
  coalesce(pg_stat_get_dead_tuples(c.oid), 0)::bigint AS dead, age(c.relfrozenxid)::bigint AS age,
  coalesce(extract(epoch FROM clock_timestamp() - pg_stat_get_last_vacuum_time(c.oid)), 1e12)::float8
    AS vacuumed_seconds_ago,
  EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.relid = c.oid AND v.datname = current_database())
    AS is_running,
  pg_is_in_recovery() AS in_recovery,
  pg_has_role(current_user, c.relowner, 'USAGE')
    OR pg_has_role(current_user, d.datdba, 'USAGE') AS may_vacuum
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_database d ON d.datname = current_database()
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'm')
"""
_MAY_MAINTAIN = "SELECT has_table_privilege($1::oid, 'MAINTAIN')"
_MAINTAIN_SINCE = 17
_STATEMENT = "SELECT format('VACUUM (ANALYZE, FREEZE %s) %I.%I', $3::text, $1::text, $2::text)"
_BUDGET = """
SELECT set_config('vacuum_cost_delay', $1, false), set_config('statement_timeout', $2, false)
"""
_SPARE_SECONDS = 5.0


class VacuumParams(SettledParams):
    """Which table, when it is bad enough, and how hard to work."""

    table: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,62}\.[A-Za-z_][A-Za-z0-9_$]{0,62}$")
    """`schema.table`, as the catalogue spells it."""
    freeze: bool = False
    """Also freeze all rows: against wraparound."""
    min_dead_rows: int = Field(10_000, ge=1)
    """From that many dead rows on it is worth it."""
    min_age: int = Field(150_000_000, ge=1)
    """Or from that age of the oldest unfrozen transaction on."""
    max_seconds: float = Field(900.0, ge=1, le=3_000)
    """The server stops the vacuum after that long."""
    cost_delay_ms: int = Field(2, ge=0, le=100)
    """Pause of the vacuum each time it used up its I/O budget; 0: full speed."""
    hold_seconds: float = Field(0.0, ge=0, le=300)
    """The symptom must stay away for that long."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the server says of a table."""

    oid: int
    size: int
    dead: int
    age: int
    vacuumed_seconds_ago: float
    is_running: bool
    in_recovery: bool
    may_vacuum: bool

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence."""
        shown = asdict(self)
        return {key: shown[key] for key in ("oid", "size", "dead", "age")}


class VacuumAnalyze(PostgresExecutor):
    """Vacuums and analyzes one table."""

    spec = ActionSpec(
        id="postgres.vacuum_analyze",
        summary="Vacuum and analyze a table with many dead rows or an old transaction horizon.",
        target_kind=KIND,
        params=VacuumParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="dead rows don't come back and nobody misses them; the server stops one that takes too long",
        deadline_seconds=3_600.0,
        cost=0.05,
        family="cache",
        exemptions={"rollback_restores": "dead rows don't come back and nobody misses them"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        # Attempt -> the table before it.
        self._before: LRUCache[str, dict[str, Any]] = LRUCache(1024)

    def patience(self, ctx: ActionContext) -> float:
        """A vacuum takes its time."""
        return super().patience(ctx) + (ctx.params.max_seconds if ctx.params else 0.0)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is not there, well enough, too large, not ours to vacuum, or being vacuumed."""
        async with self.talk(ctx) as db:
            table = await table_of(db, ctx.params.table)
        if table is None:
            return Check(ok=False, reason=f"there is no table {ctx.params.table}")
        reason = protected(ctx) or refusal(table, ctx.params, self.pg.settings)
        return Check(ok=not reason, reason=reason, facts={"before": table.as_facts()})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Vacuum, unless somebody did since the attempt began."""
        async with self.talk(ctx) as db:
            table = await table_of(db, ctx.params.table)
            if table is None:
                raise PermanentError(f"there is no table {ctx.params.table}")
            before = self._before.get(ctx.idempotency_key) or table.as_facts()
            if ctx.dry_run:
                return self.receipt(ctx, {"before": before})
            self._before[ctx.idempotency_key] = before
            if table.vacuumed_seconds_ago <= elapsed(ctx):
                return self.receipt(ctx, {"before": before, "already": True})
            if table.is_running:
                raise TransientError(f"{ctx.params.table} is being vacuumed", retry_after_seconds=5.0)
            await self._vacuum(db, ctx)
        return self.receipt(ctx, {"before": before})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the dead rows are gone and, after a freeze, the table is young again."""

        async def look(db: Conversation) -> Check:
            table = await table_of(db, ctx.params.table)
            if table is None:
                return Check(ok=False, reason=f"there is no table {ctx.params.table}")
            reason = complaint(table, ctx.params)
            return Check(ok=not reason, reason=reason, facts=table.as_facts())

        return await self.until(ctx, look)

    async def _vacuum(self, db: Conversation, ctx: ActionContext) -> None:
        params = ctx.params
        limit = max(1.0, min(params.max_seconds, ctx.seconds_left - _SPARE_SECONDS))
        await db.row(_BUDGET, f"{params.cost_delay_ms}ms", f"{limit * 1000:.0f}ms")
        schema, name = params.table.split(".")
        # The server quotes the names itself; they were found in its catalogue just before.
        await db.run(await db.value(_STATEMENT, schema, name, "true" if params.freeze else "false"))


async def table_of(db: Conversation, name: str) -> Table | None:
    """Read what the server says of `schema.table`; None when it knows none."""
    row = await db.row(_TABLE, *name.split("."))
    if row is None:
        return None
    if not row["may_vacuum"] and db.version >= _MAINTAIN_SINCE:
        row["may_vacuum"] = await db.value(_MAY_MAINTAIN, row["oid"])
    return Table(**row)


def refusal(table: Table, params: VacuumParams, settings: PostgresSettings) -> str:
    """Give the reason why a table may not be vacuumed now, or an empty text."""
    if table.in_recovery:
        return "the server is a standby"
    if not table.may_vacuum:
        return "our role may not vacuum it: it needs pg_maintain (from 17 on) or to be a member of its owner"
    if table.is_running:
        return "it is being vacuumed"
    if table.size > settings.max_vacuum_bytes:
        return f"{table.size} bytes are more than {settings.max_vacuum_bytes}: left to people"
    return "" if complaint(table, params) else f"only {table.dead} dead rows, age {table.age}: it is well"


def complaint(table: Table, params: VacuumParams) -> str:
    """Give what is wrong with a table, or an empty text."""
    if table.dead >= params.min_dead_rows:
        return f"{table.dead} dead rows"
    return f"its oldest transaction is {table.age} old" if table.age >= params.min_age else ""
