"""Binary logs that fill the disk: removed up to what every replica and the newest backup no longer need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.mysql_client import Conversation, Row
from actions.mysql_executor import MySQLExecutor, SettledParams, protected
from actions.mysql_sessions import lacking, threads
from actions.mysql_settings import KIND, replica_places
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

_MAX_POSITION_BYTES = 4_096


class PurgeParams(SettledParams):
    """How much to keep whatever else is true, and from when on it is worth it."""

    keep_files: int = Field(3, ge=1, le=10_000)
    """Keep at least that many of the newest files."""
    min_bytes: int = Field(1_073_741_824, ge=1)
    """Only if at least that much is freed."""
    hold_seconds: float = Field(0.0, ge=0, le=300)
    """The files must stay away for that long."""


@dataclass(frozen=True, slots=True)
class Source:
    """What the server says of its binary logs and of who reads them; files in their order."""

    files: tuple[tuple[str, int], ...]
    server_id: int
    readers: frozenset[int]
    dumps: int

    @property
    def names(self) -> list[str]:
        """The files' names."""
        return [name for name, _ in self.files]


@dataclass(frozen=True, slots=True)
class Reader:
    """A replica that the operator named: its id, and the file that it has applied up to."""

    place: str
    server_id: int
    applied: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The file that becomes the oldest one, and what goes; or the reason why nothing does."""

    target: str = ""
    files: int = 0
    size: int = 0
    reason: str = ""

    @property
    def is_done(self) -> bool:
        """Whether nothing is there that could go."""
        return bool(self.target) and not self.files

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence."""
        return {"target": self.target, "files": self.files, "bytes": self.size}


class PurgeBinlogs(MySQLExecutor):
    """Removes binary logs that neither a replica nor the newest backup needs."""

    spec = ActionSpec(
        id="mysql.purge_binlogs",
        summary="Remove binary logs that every replica has applied and the newest backup does not need.",
        target_kind=KIND,
        params=PurgeParams,
        risk=RiskClass.R3,
        reversible=False,
        irreversible_reason="a removed binary log is gone: recovery to a moment in it is no longer possible",
        deadline_seconds=120.0,
        cost=0.5,
        family="cache",
        exemptions={"rollback_restores": "a removed binary log is gone"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._plans: LRUCache[str, Plan] = LRUCache(1024)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse unless every replica and the backup are known, past it, and it is worth it."""
        if ctx.target.protected:
            return Check(ok=False, reason=protected(ctx))
        plan = await self._plan(ctx)
        return Check(ok=not plan.reason, reason=plan.reason, facts={"plan": plan.as_facts()})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Ask everybody once more and remove."""
        known = self._plans.get(ctx.idempotency_key)
        if known is not None:
            return self.receipt(ctx, {"plan": known.as_facts(), "already": True})
        plan = await self._plan(ctx)
        facts = {"plan": plan.as_facts()}
        if plan.is_done:
            return self.receipt(ctx, {**facts, "already": True})
        if plan.reason:
            raise PermanentError(plan.reason)
        if ctx.dry_run:
            return self.receipt(ctx, facts)
        try:
            await self.ask(ctx, lambda db: db.run("PURGE BINARY LOGS TO %s", plan.target))
        except ActionError as error:
            error.receipt_facts = facts
            raise
        self._plans[ctx.idempotency_key] = plan
        return self.receipt(ctx, facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the files before the target are gone, and no others could go since."""
        target = (receipt.facts.get("plan") or {}).get("target", "")

        async def look() -> Check:
            files = await self.ask(ctx, files_of)
            facts = {"files": len(files), "bytes": sum(size for _, size in files)}
            if not target or not files or files[0][0] < target:
                return Check(ok=False, reason="older binary logs are still there", facts=facts)
            again = await self._plan(ctx)
            reason = "" if again.reason else f"{again.size} bytes of binary logs can go"
            return Check(ok=not reason, reason=reason, facts=facts)

        return await self.settled(ctx, look)

    async def _plan(self, ctx: ActionContext) -> Plan:
        source, lack = await self.ask(
            ctx, lambda db: (source_of(db), lacking(db, db.dialect.needs[self.spec.id]))
        )
        if lack:
            return Plan(reason=lack)
        readers: list[Reader] = []
        for place in replica_places(self.mysql.settings):
            ask = partial(readers_of, place=f"{place.host}:{place.port}", source_id=source.server_id)
            readers += await self.ask_at(ctx, place, ask)
        backup = await ctx.run_blocking(read_position, self.mysql.settings.backup_position_file)
        missing = sorted(set(self.mysql.settings.replicas) - {one.place for one in readers})
        if missing:
            return Plan(reason=f"{missing[0]} is no replica of this server")
        return plan_of(source, readers, backup, ctx.params)


def source_of(db: Conversation) -> Source:
    """Read the server's binary logs, the replicas that are registered, and how many connections read logs."""
    rows = [_lower(row) for row in db.rows(db.dialect.replica_hosts)]
    return Source(
        files=files_of(db),
        server_id=int((db.row("SELECT @@GLOBAL.server_id AS id") or {})["id"]),
        readers=frozenset(int(row["server_id"]) for row in rows),
        dumps=sum(one.command.startswith("Binlog Dump") for one in threads(db)),
    )


def files_of(db: Conversation) -> tuple[tuple[str, int], ...]:
    """Read the names and sizes of the binary logs, the oldest first."""
    return tuple((str(row["Log_name"]), int(row["File_size"])) for row in db.rows("SHOW BINARY LOGS"))


def readers_of(db: Conversation, place: str, source_id: int) -> list[Reader]:
    """Read what a replica has applied of the source with this id; one for each of its channels from there."""
    words = db.dialect.replica
    own = int((db.row("SELECT @@GLOBAL.server_id AS id") or {})["id"])
    return [
        Reader(place, own, str(row[words["applied_file"]] or ""))
        for row in db.rows(db.dialect.replica_status_all)
        if int(row[words["source_id"]] or 0) == source_id
    ]


def read_position(path: str) -> str:
    """Read the binary log with which recovery from the newest backup begins; empty when that is not known."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as stream:
            words = stream.read(_MAX_POSITION_BYTES).split()
    except OSError:
        return ""
    return words[0].rpartition("/")[2] if words else ""


def plan_of(source: Source, readers: Sequence[Reader], backup: str, params: PurgeParams) -> Plan:
    """Choose the file that becomes the oldest: the oldest one that anybody needs."""
    names = source.names
    if reason := _objection(source, readers, backup):
        return Plan(reason=reason)
    kept = max(0, len(names) - params.keep_files)
    first = min([kept, names.index(backup), *(names.index(one.applied) for one in readers)])
    size = sum(size for _, size in source.files[:first])
    plan = Plan(names[first], first, size)
    if size < params.min_bytes:
        return Plan(plan.target, first, size, f"only {size} bytes would be freed")
    return plan


def _objection(source: Source, readers: Sequence[Reader], backup: str) -> str:
    names = source.names
    if not names:
        return "the server writes no binary logs"
    if not backup:
        return "backends.mysql.backup_position_file can't be read: nothing is known of the newest backup"
    if backup not in names:
        return f"the newest backup begins with {backup}, which is not among the binary logs"
    unnamed = source.readers - {one.server_id for one in readers}
    if unnamed:
        return (
            f"a replica is connected that is not named in backends.mysql.replicas (server id {min(unnamed)})"
        )
    if source.dumps > len(source.readers):
        return "somebody reads the binary logs who is not registered as a replica"
    lost = next((one for one in readers if one.applied not in names), None)
    return (
        f"{lost.place} has applied {lost.applied or 'nothing'}, which is not among the binary logs"
        if lost
        else ""
    )


def _lower(row: Row) -> Row:
    return {key.lower(): value for key, value in row.items()}
