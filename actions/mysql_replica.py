"""A replica that stopped over something passing: started again, and never made to skip anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.mysql_client import Conversation
from actions.mysql_dialect import Dialect, channel
from actions.mysql_executor import MySQLExecutor, SettledParams, protected
from actions.mysql_sessions import lacking
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


class ReplicaParams(SettledParams):
    """Which channel, and from when on it counts as well."""

    channel: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,64}$")
    """Name of the replication channel; empty: the default one."""
    max_lag_seconds: float = Field(60.0, ge=0, le=86_400)
    """A lag up to that is well; a longer one has to be falling."""


@dataclass(frozen=True, slots=True)
class Replica:
    """What the replica says of one channel."""

    receiver: str
    applier: str
    receiver_error: int
    applier_error: int
    lag: float | None
    skips: int

    @property
    def runs(self) -> bool:
        """Whether both threads run."""
        return self.receiver == self.applier == "Yes"

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence; the server's error texts may hold rows and are left out."""
        return asdict(self)


class RestartReplica(MySQLExecutor):
    """Starts the threads of a replica again after an error that passes by itself."""

    spec = ActionSpec(
        id="mysql.restart_replica",
        summary="Start a replica again that stopped over a passing error; nothing is ever skipped.",
        target_kind=KIND,
        params=ReplicaParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.1,
        family="restart",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, dict[str, Any]] = LRUCache(1024)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what runs, what somebody stopped on purpose, and errors that are not on the list."""

        def look(db: Conversation) -> tuple[Replica | None, str]:
            lack = lacking(db, db.dialect.needs[self.spec.id])
            return (None if lack else replica_of(db, ctx.params.channel)), lack

        replica, lack = await self.ask(ctx, look)
        reason = protected(ctx) or lack or refusal(replica, self.mysql.settings)
        facts = {"before": replica.as_facts()} if replica else {}
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Start what is stopped."""
        replica = await self.ask(ctx, lambda db: replica_of(db, ctx.params.channel))
        if replica is None:
            raise PermanentError(refusal(None, self.mysql.settings))
        before = self._before.get(ctx.idempotency_key) or replica.as_facts()
        facts = {"before": before}
        if ctx.dry_run:
            return self.receipt(ctx, facts)
        if replica.runs or ctx.idempotency_key in self._before:
            return self.receipt(ctx, {**facts, "already": True})
        if reason := refusal(replica, self.mysql.settings):
            raise PermanentError(reason)
        self._before[ctx.idempotency_key] = before
        try:
            await self.ask(ctx, lambda db: _carry_out(db, db.dialect.start_replica, ctx.params.channel))
        except ActionError as error:
            error.receipt_facts = facts
            raise
        return self.receipt(ctx, facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether both threads run and the lag is small or falls."""
        seen: list[float] = []

        def look(db: Conversation) -> Check:
            replica = replica_of(db, ctx.params.channel)
            reason = complaint(replica, seen, ctx.params.max_lag_seconds)
            if replica is not None and replica.lag is not None:
                seen[:] = [*seen[:1], replica.lag]
            return Check(ok=not reason, reason=reason, facts=replica.as_facts() if replica else {})

        return await self.until(ctx, look)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Stop again what was stopped before."""
        before = receipt.facts.get("before")
        if before is None:
            return Check(ok=False, reason="the receipt does not say what was before")
        stopped = [part for part in ("receiver", "applier") if before[part] == "No"]

        def undo(db: Conversation) -> Replica | None:
            for part in stopped:
                _carry_out(db, _stopping(db.dialect, part), ctx.params.channel)
            return replica_of(db, ctx.params.channel)

        replica = await self.ask(ctx, undo)
        is_back = replica is not None and all(getattr(replica, part) == "No" for part in stopped)
        return Check(ok=is_back, reason="" if is_back else "the replica still runs")


def replica_of(db: Conversation, name: str) -> Replica | None:
    """Read what the server says of a channel; None when it has no such channel."""
    found = db.rows(db.dialect.replica_status.format(channel=channel(db.dialect, name)))
    row = next((one for one in found if str(one.get("Channel_Name") or "") == name or len(found) == 1), None)
    if row is None:
        return None
    words = db.dialect.replica
    lag = row[words["lag"]]
    return Replica(
        receiver=str(row[words["receiver"]]),
        applier=str(row[words["applier"]]),
        receiver_error=int(row[words["receiver_error"]] or 0),
        applier_error=int(row[words["applier_error"]] or 0),
        lag=None if lag is None else float(lag),
        skips=int(row[words["skips"]] or 0),
    )


def refusal(replica: Replica | None, settings: MySQLSettings) -> str:
    """Give the reason why a replica should not be started, or an empty text."""
    if replica is None:
        return "the server is no replica, or has no such channel"
    if replica.skips:
        return f"it is set to skip {replica.skips} events: left to people"
    stopped = {"receiver": replica.receiver_error, "applier": replica.applier_error}
    errors = [error for part, error in stopped.items() if getattr(replica, part) == "No"]
    if not errors:
        return "the replica runs" if replica.runs else "the receiver connects again by itself"
    if not any(errors):
        return "it was stopped without an error: somebody wanted that"
    bad = [error for error in errors if error and error not in settings.transient_errors]
    return f"error {bad[0]} does not pass by itself: left to people" if bad else ""


def complaint(replica: Replica | None, seen: list[float], max_lag_seconds: float) -> str:
    """Give what is still wrong, or an empty text; `seen` holds the first and the last lag."""
    if replica is None:
        return "the server is no replica"
    if not replica.runs:
        return f"receiver {replica.receiver}, applier {replica.applier}, error {replica.applier_error}"
    if replica.lag is None:
        return "the lag is not known"
    if replica.lag <= max_lag_seconds:
        return ""
    is_falling = bool(seen) and replica.lag < seen[0]
    return "" if is_falling else f"{replica.lag:.0f} s behind and not catching up"


def _stopping(dialect: Dialect, part: str) -> str:
    return dialect.stop_receiver if part == "receiver" else dialect.stop_applier


def _carry_out(db: Conversation, form: str, name: str) -> None:
    db.run(form.format(channel=channel(db.dialect, name)))
