"""Logs that grow: cutting their head while they are written, and forcing their rotation."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from actions.fs_executor import KIND, NO_SECRET, FsExecutor
from actions.fs_record import Record
from actions.fs_rotate import is_rotated, listed, rotate, trouble_of
from actions.fs_settings import Rotation
from actions.fs_truncate import (
    cut_head,
    facts_of,
    log_in,
    look_at,
    put_head,
    refusal,
    starts_with,
    writers_on,
)
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    held,
)
from oncall_agent.models import JsonObject

_HEAD, _TAIL = "head.gz", "tail.gz"


class TruncateParams(Params):
    """Which log, and what stays of it."""

    path: str = Field(min_length=1, max_length=1_000, pattern=r"^[^/\x00][^\x00]*$")
    """Below the target's root."""
    keep_tail_bytes: int = Field(1_048_576, ge=0, le=1_099_511_627_776)
    """So much of the end stays at least; what goes is whole blocks of the filesystem."""
    must_grow: bool = True
    """The writer has to write again before the fix counts; turn it off for a log that may be quiet."""
    within_seconds: float = Field(30.0, gt=0, le=600)
    """How long to wait for the writer's next line."""


class _LogExecutor(FsExecutor):
    def roots(self) -> tuple[str, ...]:
        """Give the folders with logs."""
        return self.conf.log_roots


class TruncateLog(_LogExecutor):
    """Cuts the head of a log that a process has open; what is cut is kept compressed and can come back."""

    spec = ActionSpec(
        id="filesystem.truncate_log",
        summary="Cut the head of a log that is being written; keep it compressed for a while.",
        target_kind=KIND,
        params=TruncateParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.1,
        family="cache",
        exemptions=NO_SECRET,
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a log that nobody writes, that does not append, that is short, or that is not below a log root."""
        return await self.asked(ctx, lambda root: self._looked(ctx, root))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Save the head, then take it off; a former call under the same key is gone on with."""
        facts = await self.run(ctx, lambda root: self._cut(ctx, root, ctx.clock.now()))
        return Receipt(self.spec.id, ctx.clock.now(), facts, planned=ctx.dry_run)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the same file is shorter than it was and its writer goes on writing it."""
        before = receipt.facts
        first = await self.run(ctx, lambda root: self._now(ctx, root))

        async def sample() -> Check:
            now = await self.run(ctx, lambda root: self._now(ctx, root))
            return _judged(before, first, now, must_grow=ctx.params.must_grow)

        return await held(
            ctx, sample, hold_seconds=0.0, within_seconds=ctx.params.within_seconds, interval_seconds=0.05
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Put the head back before what was written since."""
        return await self.run(ctx, lambda root: self._put_back(ctx, root, ctx.clock.now()))

    def _looked(self, ctx: ActionContext, root: str) -> Check:
        with log_in(root, ctx.params.path) as log:
            now, writers = look_at(log), writers_on(log)
        reason = refusal(now, writers, ctx.params.keep_tail_bytes)
        return Check(ok=not reason, reason=reason, facts=facts_of(now, writers, ctx.params.keep_tail_bytes))

    def _now(self, ctx: ActionContext, root: str) -> dict[str, Any]:
        with log_in(root, ctx.params.path) as log:
            return facts_of(look_at(log), writers_on(log), ctx.params.keep_tail_bytes)

    def _cut(self, ctx: ActionContext, root: str, now: float) -> dict[str, Any]:
        record = self.record(ctx, root)
        known = {} if ctx.dry_run else record.read()
        if known.get("done"):
            return _told(known, record)
        with log_in(root, ctx.params.path) as log:
            if not known:
                found, writers = look_at(log), writers_on(log)
                reason = refusal(found, writers, ctx.params.keep_tail_bytes)
                facts = facts_of(found, writers, ctx.params.keep_tail_bytes)
                if ctx.dry_run:
                    return {**facts, **({"refused": reason} if reason else {})}
                if reason:
                    raise PermanentError(reason)
                known = record.keep(facts, now)
                record.save(_HEAD, log, 0, known["cut"])
            self._take_off(log, known, record)
        return _told(record.keep({**known, "done": True}, now), record)

    def _take_off(self, log: int, known: JsonObject, record: Record) -> None:
        found = look_at(log)
        if found.inode != known["inode"]:
            raise PermanentError("the log is another file by now")
        if not record.digest(_HEAD):
            record.save(_HEAD, log, 0, known["cut"])
        # A call that died between the cut and its record left a log that begins otherwise.
        if found.size >= known["bytes"] and starts_with(log, record, _HEAD):
            cut_head(log, known["cut"])

    def _put_back(self, ctx: ActionContext, root: str, now: float) -> Check:
        record = self.record(ctx, root)
        known = record.read()
        if known.get("undone"):
            return Check(ok=True, reason="it was put back before")
        if not known.get("done"):
            return Check(ok=False, reason="what was cut is no longer kept, or nothing was cut")
        with log_in(root, ctx.params.path) as log:
            found = look_at(log)
            if found.inode != known["inode"]:
                return Check(ok=False, reason="the log is another file by now")
            known = record.keep({**known, "from": known.get("from", found.size)}, now)
            put_head(log, record, _HEAD, _TAIL, known["cut"], known["from"])
            record.keep({**known, "undone": True}, now)
            return Check(ok=True, facts={"bytes": look_at(log).size})


def _told(known: JsonObject, record: Record) -> dict[str, Any]:
    kept = {name: known[name] for name in ("bytes", "inode", "cut", "writers")}
    return {**kept, "saved": record.place}


def _judged(before: JsonObject, first: JsonObject, now: JsonObject, *, must_grow: bool) -> Check:
    if now["inode"] != before.get("inode"):
        return Check(ok=False, reason="the log is another file", facts=now)
    if now["bytes"] >= before.get("bytes", 0):
        return Check(ok=False, reason="the log is not shorter than it was", facts=now)
    if not now["writers"]:
        return Check(ok=False, reason="nobody writes the log any more", facts=now)
    if must_grow and now["bytes"] <= first["bytes"]:
        return Check(ok=False, reason="the writer has not written since", facts=now)
    return Check(ok=True, facts=now)


class RotateParams(Params):
    """Which rotation."""

    rotation: str = Field(min_length=1, max_length=64)
    """A name under `backends.filesystem.rotations`."""
    hold_seconds: float = Field(1.0, ge=0, le=600)
    """The new files must be in use for so long."""
    within_seconds: float = Field(30.0, gt=0, le=600)
    """How long to wait for that."""


class RotateLogs(_LogExecutor):
    """Forces logrotate with a configuration of the operator."""

    spec = ActionSpec(
        id="filesystem.rotate_logs",
        summary="Force the rotation of logs by logrotate.",
        target_kind=KIND,
        params=RotateParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="the rotated file stays beside the new one; nothing is lost that would have to come back",
        deadline_seconds=120.0,
        cost=0.05,
        family="cache",
        exemptions={**NO_SECRET, "rollback_restores": "nothing is lost that would have to come back"},
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a configuration that logrotate does not accept, that others may write, or that leaves the root."""

        def look(root: str) -> Check:
            rotation = self._rotation(ctx)
            reason = trouble_of(rotation.config)
            logs = [] if reason else listed(self.conf.logrotate, rotation, root, ctx.seconds_left)
            facts = {"logs": [one.facts() for one in logs[:20]]}
            return Check(ok=bool(logs), reason=reason or ("" if logs else "no log is there"), facts=facts)

        return await self.asked(ctx, look)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Run `logrotate --force` once per key."""
        facts = await self.run(ctx, lambda root: self._rotated(ctx, root, ctx.clock.now()))
        return Receipt(self.spec.id, ctx.clock.now(), facts, planned=ctx.dry_run)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether every log is a new file and nobody writes the old one."""

        async def sample() -> Check:
            return await self.bounded(ctx, lambda: is_rotated(receipt.facts.get("logs", [])))

        return await held(
            ctx,
            sample,
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.params.within_seconds,
            interval_seconds=0.1,
        )

    def _rotated(self, ctx: ActionContext, root: str, now: float) -> dict[str, Any]:
        rotation, record = self._rotation(ctx), self.record(ctx, root)
        known = {} if ctx.dry_run else record.read()
        if not known:
            reason = trouble_of(rotation.config)
            if reason:
                raise PermanentError(reason)
            logs = listed(self.conf.logrotate, rotation, root, ctx.seconds_left)
            known = {"logs": [one.facts() for one in logs]}
            if ctx.dry_run:
                return known
            record.keep(known, now)
        if not known.get("done") and not is_rotated(known["logs"], asks_writers=False).ok:
            rotate(self.conf.logrotate, rotation, ctx.seconds_left)
        record.keep({**known, "done": True}, now)
        return {"logs": known["logs"]}

    def _rotation(self, ctx: ActionContext) -> Rotation:
        rotation = self.conf.rotations.get(ctx.params.rotation)
        if rotation is None:
            raise PermanentError(f"no rotation is named {ctx.params.rotation!r}")
        return rotation
