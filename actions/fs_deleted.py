"""Space that deleted files still take, because a service has them open: telling the service to let go."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from pydantic import Field

from actions.fs_executor import KIND, NO_SECRET, FsExecutor
from actions.fs_processes import Process, deleted_bytes, processes_of, send
from actions.fs_settings import Holder, SignalName
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

_SHOWN = 20


class ReleaseParams(Params):
    """Which service, and how it is told."""

    holder: str = Field(min_length=1, max_length=64)
    """A name under `backends.filesystem.holders`."""
    signal: SignalName | None = None
    """One of the holder's signals; the default is its first."""
    pid: int | None = Field(None, ge=2, le=4_194_304)
    """Only this process of the service."""
    min_bytes: int = Field(1_048_576, ge=1)
    """Fewer deleted-but-open bytes are not worth a signal."""
    hold_seconds: float = Field(1.0, ge=0, le=600)
    """The service must run, without the deleted files, for so long."""
    within_seconds: float = Field(30.0, gt=0, le=600)
    """How long to wait for that."""


class ReleaseDeletedOpen(FsExecutor):
    """Signals the processes of a declared service that keep deleted files of a filesystem open."""

    spec = ActionSpec(
        id="filesystem.release_deleted_open",
        summary="Signal a service that keeps deleted files open, so that their space is freed.",
        target_kind=KIND,
        params=ReleaseParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="a signal can't be taken back; the files were deleted before",
        deadline_seconds=60.0,
        cost=0.1,
        family="restart",
        exemptions={**NO_SECRET, "rollback_restores": "a signal can't be taken back"},
    )

    def roots(self) -> tuple[str, ...]:
        """Give the folders with logs."""
        return self.conf.log_roots

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse services and signals that are not declared, and a service that keeps too little."""
        return await self.asked(ctx, lambda root: self._looked(ctx, root))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Send the signal once per key, to exactly the processes that still keep deleted files."""
        facts = await self.run(ctx, lambda root: self._sent(ctx, root, ctx.clock.now()))
        return Receipt(self.spec.id, ctx.clock.now(), facts, planned=ctx.dry_run)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the bytes are released and the service runs."""

        async def sample() -> Check:
            return await self.run(ctx, lambda root: self._released(ctx, root))

        return await held(
            ctx,
            sample,
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.params.within_seconds,
            interval_seconds=0.05,
        )

    def _looked(self, ctx: ActionContext, root: str) -> Check:
        self._signal(ctx)
        kept = self._kept(ctx, root)
        total = sum(kept.values())
        facts = _facts(kept)
        if total < ctx.params.min_bytes:
            return Check(ok=False, reason=f"only {total} bytes are deleted but open", facts=facts)
        return Check(ok=True, instances=1, facts=facts)

    def _sent(self, ctx: ActionContext, root: str, now: float) -> dict[str, Any]:
        name, record = self._signal(ctx), self.record(ctx, root)
        known = {} if ctx.dry_run else record.read()
        if not known:
            kept = self._kept(ctx, root)
            known = {**_facts(kept), "signal": name, "left": [asdict(one) for one in kept]}
            if ctx.dry_run:
                return _told(known)
            record.keep(known, now)
        for one in [Process(**each) for each in known["left"]]:
            # Noted first: a signal that was sent must not be sent again, one that was not is seen by verify.
            known = record.keep(
                {**known, "left": [each for each in known["left"] if each["pid"] != one.pid]}, now
            )
            send(one, name)
        return _told(known)

    def _released(self, ctx: ActionContext, root: str) -> Check:
        try:
            running = processes_of(self._holder(ctx))
        except PermanentError as error:
            return Check(ok=False, reason=error.message)
        if not running:
            return Check(ok=False, reason="the service does not run")
        kept = self._kept(ctx, root)
        total = sum(kept.values())
        reason = f"{total} bytes are still deleted but open" if total >= ctx.params.min_bytes else ""
        return Check(ok=not reason, reason=reason, facts={**_facts(kept), "running": len(running)})

    def _kept(self, ctx: ActionContext, root: str) -> dict[Process, int]:
        device = os.stat(root).st_dev  # noqa: PTH116 - a path as text all along
        running = [one for one in processes_of(self._holder(ctx)) if ctx.params.pid in (None, one.pid)]
        try:
            kept = {one: deleted_bytes(one.pid, device) for one in running}
        except PermissionError:
            raise PermanentError("the service does not show us its open files") from None
        return {one: count for one, count in kept.items() if count}

    def _holder(self, ctx: ActionContext) -> Holder:
        holder = self.conf.holders.get(ctx.params.holder)
        if holder is None:
            raise PermanentError(f"no holder is named {ctx.params.holder!r}")
        return holder

    def _signal(self, ctx: ActionContext) -> str:
        holder = self._holder(ctx)
        name = ctx.params.signal or holder.signals[0]
        if name not in holder.signals:
            raise PermanentError(f"the holder may not be sent {name}")
        return name


def _facts(kept: dict[Process, int]) -> dict[str, Any]:
    shown = [{"pid": one.pid, "name": one.name, "bytes": count} for one, count in list(kept.items())[:_SHOWN]]
    return {"bytes": sum(kept.values()), "processes": shown}


def _told(known: dict[str, Any]) -> dict[str, Any]:
    return {name: known[name] for name in ("bytes", "processes", "signal")}
