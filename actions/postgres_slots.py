"""A replication slot that nobody reads and that keeps the write-ahead log from being removed: drop it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.postgres_client import Conversation
from actions.postgres_executor import PostgresExecutor, SettledParams, protected
from actions.postgres_settings import DRILL_PREFIX, KIND, PostgresSettings
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

_INACTIVE_SINCE = 17
_CHECKPOINTS_SINCE = 15
# The segment that holds the slot's position was last written when the server went past it: nobody has read
# anything newer since. Before 17 the server itself does not say for how long a slot has been inactive.
_SLOT = """
SELECT s.slot_name::text AS name, s.slot_type AS kind, s.active, coalesce(s.wal_status, '') AS wal_status,
  coalesce(s.restart_lsn::text, '') AS position,
  CASE WHEN s.restart_lsn IS NULL THEN '' ELSE pg_walfile_name(s.restart_lsn) END AS segment,
  coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint AS retained,
  {idle}::float8 AS idle_seconds,
  (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS may_drop
FROM pg_replication_slots s WHERE s.slot_name = $1
"""
_BY_SEGMENT = """coalesce((SELECT extract(epoch FROM clock_timestamp() - w.modification) FROM pg_ls_waldir() w
    WHERE s.restart_lsn IS NOT NULL AND w.name = pg_walfile_name(s.restart_lsn)), 0)"""
_BY_SERVER = "coalesce(extract(epoch FROM clock_timestamp() - s.inactive_since), 0)"
_WAL = """
SELECT coalesce(sum(size), 0)::bigint AS bytes, count(*) FILTER (WHERE name <= $1)::int AS old
FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'
"""
# The same statement looks again and drops: a slot that somebody took up in between stays.
_DROP = """
SELECT pg_drop_replication_slot(s.slot_name) FROM pg_replication_slots s
WHERE s.slot_name = $1 AND NOT s.active AND s.restart_lsn::text = $2
"""
_MAY_CHECKPOINT = "SELECT pg_has_role(current_user, 'pg_checkpoint', 'USAGE')"


class SlotParams(SettledParams):
    """Which slot, and when it is bad enough."""

    slot: str = Field(pattern=r"^[a-z0-9_]{1,63}$")
    """It must stand in `backends.postgres.droppable_slots`: its owner agreed."""
    min_seconds: float = Field(3_600.0, ge=0, le=31_536_000)
    """Only if nobody has read from it for that long."""
    min_bytes: int = Field(1_073_741_824, ge=1)
    """Only if it holds back at least that much of the log."""
    checkpoint: bool = True
    """Ask the server for a checkpoint afterwards, if our role may: only then the files go."""
    hold_seconds: float = Field(0.0, ge=0, le=300)
    """The slot must stay away for that long."""
    within_seconds: float = Field(60.0, ge=0.1, le=600)
    """Give up waiting for the files to go after that long."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What the server says of a slot."""

    name: str
    kind: str
    active: bool
    wal_status: str
    position: str
    segment: str
    retained: int
    idle_seconds: float
    may_drop: bool

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence."""
        shown = asdict(self)
        del shown["may_drop"]
        return {**shown, "idle_seconds": round(self.idle_seconds, 1)}


class DropInactiveSlot(PostgresExecutor):
    """Drops a replication slot that nobody reads any more."""

    is_server_wide = True
    spec = ActionSpec(
        id="postgres.drop_inactive_slot",
        summary="Drop an inactive replication slot that fills the disk with write-ahead log.",
        target_kind=KIND,
        params=SlotParams,
        risk=RiskClass.R3,
        reversible=False,
        irreversible_reason="a dropped slot's position is lost: its reader has to be copied anew",
        deadline_seconds=180.0,
        cost=0.5,
        family="kill",
        exemptions={
            "rollback_restores": "a dropped slot's position is lost: its reader has to be copied anew"
        },
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, dict[str, Any]] = LRUCache(1024)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is not agreed on, in use, read lately, or holds back little."""
        async with self.talk(ctx) as db:
            slot = await slot_of(db, ctx.params.slot)
            wal = await db.row(_WAL, slot.segment) if slot else None
        if slot is None:
            return Check(ok=False, reason=f"there is no slot {ctx.params.slot}")
        reason = protected(ctx) or refusal(slot, ctx.params, self.pg.settings)
        return Check(ok=not reason, reason=reason, facts={"before": {**slot.as_facts(), "wal": wal}})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Drop it if it still stands where it stood; then let the server remove the files."""
        async with self.talk(ctx) as db:
            slot = await slot_of(db, ctx.params.slot)
            known = self._before.get(ctx.idempotency_key)
            if slot is None:
                return self.receipt(ctx, {"before": known, "already": True})
            reason = refusal(slot, ctx.params, self.pg.settings)
            if reason:
                raise PermanentError(reason)
            before = {**slot.as_facts(), "wal": await db.row(_WAL, slot.segment)}
            if ctx.dry_run:
                return self.receipt(ctx, {"before": before})
            self._before[ctx.idempotency_key] = before
            if not await db.rows(_DROP, slot.name, slot.position):
                raise PermanentError(f"the slot {slot.name} was taken up in between")
        if ctx.params.checkpoint:
            await self._checkpoint(ctx)
        return self.receipt(ctx, {"before": before})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the slot is gone and so is the log that it held back."""
        segment = (receipt.facts.get("before") or {}).get("segment", "")

        async def look(db: Conversation) -> Check:
            if await slot_of(db, ctx.params.slot) is not None:
                return Check(ok=False, reason=f"the slot {ctx.params.slot} is there")
            wal = await db.row(_WAL, segment) or {}
            reason = "the log that it held back is still there" if wal.get("old") else ""
            return Check(ok=not reason, reason=reason, facts={"wal": wal})

        return await self.until(ctx, look)

    async def _checkpoint(self, ctx: ActionContext) -> None:
        # Its failure is not the drop's: the server makes one by itself, later.
        with suppress(ActionError):
            async with self.talk(ctx) as db:
                if db.version >= _CHECKPOINTS_SINCE and await db.value(_MAY_CHECKPOINT):
                    await db.run("CHECKPOINT")


async def slot_of(db: Conversation, name: str) -> Slot | None:
    """Read what the server says of a slot; None when it knows none."""
    if await db.value("SELECT pg_is_in_recovery()"):
        raise PermanentError("the server is a standby: its slots are left to people")
    idle = _BY_SERVER if db.version >= _INACTIVE_SINCE else _BY_SEGMENT
    row = await db.row(_SLOT.format(idle=idle), name)
    return None if row is None else Slot(**row)


def refusal(slot: Slot, params: SlotParams, settings: PostgresSettings) -> str:
    """Give the reason why a slot may not be dropped, or an empty text."""
    if slot.name not in settings.droppable_slots and not slot.name.startswith(DRILL_PREFIX):
        return f"{slot.name} is not on the list of backends.postgres.droppable_slots"
    if not slot.may_drop:
        return "our role may not drop slots: it needs REPLICATION"
    return _in_use(slot, params)


def _in_use(slot: Slot, params: SlotParams) -> str:
    if slot.active:
        return f"{slot.name} is in use"
    if not slot.segment or slot.wal_status == "lost":
        return f"{slot.name} holds back no log"
    if slot.idle_seconds < params.min_seconds:
        return f"{slot.name} was read {slot.idle_seconds:.0f} s ago or later"
    if slot.retained < params.min_bytes:
        return f"{slot.name} holds back only {slot.retained} bytes"
    return ""
