"""Freeing space below an allow-listed folder: files move into a quarantine, and leave for good later.

No symbolic link is ever followed and no other filesystem entered: every step goes through folder descriptors.
Bytes in quarantine count as free, because they are released at the end of their time, or at once when the
filesystem is about to run full.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from actions.fs_quarantine import QUARANTINE, Limits, Quarantine, root_of, space_of, tree_bytes
from actions.fs_settings import FilesystemSettings
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Clock,
    Executor,
    Params,
    PermanentError,
    Prober,
    Reading,
    Receipt,
    RiskClass,
    Signals,
    SystemClock,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject

_SWEEP_SECONDS = 60.0


class PurgeParams(Params):
    """Which files may go."""

    glob: str = Field("*", min_length=1, max_length=200, pattern=r"^[^/\x00]+$")
    """Over the file's name, at any depth."""
    older_than_seconds: float = Field(3_600.0, ge=0, le=315_360_000)
    """Since it was last changed."""
    max_bytes: int = Field(1_073_741_824, ge=1)
    max_files: int = Field(10_000, ge=1, le=100_000)


class Purge(Executor):
    """Moves old files out of the way; rollback moves them back."""

    spec = ActionSpec(
        id="filesystem.purge",
        summary="Move old files below an allow-listed folder into quarantine.",
        target_kind="directory",
        params=PurgeParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.1,
        family="cache",
        exemptions={"secrets_redacted": "it is given no secret and reads no file's content"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._settings = FilesystemSettings.model_validate(dict(settings))
        self._clock: Clock = SystemClock()
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._settings.kept_in:
            self._sweeper = asyncio.create_task(self._sweep(), name="filesystem-quarantine")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect how full the filesystem is."""
        try:
            found: dict[str, Any] = await self._run(ctx, space_of)
        except (PermanentError, TransientError) as error:
            return {"reason": error.message}
        return found

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse folders off the list; show what would go."""
        try:
            plan = await self._run(ctx, lambda root: self._quarantine(ctx, root).plan(self._limits(ctx)))
        except PermanentError as error:
            return Check(ok=False, reason=error.message)
        if not plan["files"]:
            return Check(ok=False, reason="no file may go", facts=plan)
        return Check(ok=True, facts=plan)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Move the files; what a former call under the same key moved is not added to."""
        if ctx.dry_run:
            plan = await self._run(ctx, lambda root: self._quarantine(ctx, root).plan(self._limits(ctx)))
            return Receipt(self.spec.id, ctx.clock.now(), plan, planned=True)
        expires_at = ctx.clock.now() + self._settings.quarantine_seconds
        moved = await self._run(
            ctx, lambda root: self._quarantine(ctx, root).fill(self._limits(ctx), expires_at)
        )
        return Receipt(self.spec.id, ctx.clock.now(), moved)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the files are in quarantine and no others of the kind are left beyond the limits."""
        held, plan = await self._run(ctx, self._look(ctx))
        facts = {"held": held, "left": {"files": plan["files"], "bytes": plan["bytes"]}}
        if not held["files"]:
            return Check(ok=False, reason="nothing is in quarantine", facts=facts)
        was_cut = held["bytes"] >= ctx.params.max_bytes or held["files"] >= ctx.params.max_files
        if plan["files"] and not (was_cut or receipt.facts.get("is_cut")):
            return Check(
                ok=False, reason=f"{plan['files']} files that should have gone are there", facts=facts
            )
        return Check(ok=True, facts=facts)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Move the files back to where they were; one that exists again by now is left in quarantine."""
        restored = await self._run(ctx, lambda root: self._quarantine(ctx, root).restore())
        ok = not restored["left"]
        return Check(
            ok=ok, reason="" if ok else f"{restored['left']} files could not go back", facts=restored
        )

    def _look(self, ctx: ActionContext) -> Any:
        limits = self._limits(ctx)
        return lambda root: (self._quarantine(ctx, root).held(), self._quarantine(ctx, root).plan(limits))

    def _limits(self, ctx: ActionContext) -> Limits:
        age = max(ctx.params.older_than_seconds, self._settings.min_age_seconds)
        return Limits(ctx.params.glob, ctx.started_at - age, ctx.params.max_bytes, ctx.params.max_files)

    def _quarantine(self, ctx: ActionContext, root: str) -> Quarantine:
        return Quarantine(root, ctx.idempotency_key)

    async def _run(self, ctx: ActionContext, work: Any) -> Any:
        root = root_of(ctx.target, self._settings.roots)
        try:
            async with asyncio.timeout(max(ctx.seconds_left, 0.05)):
                return await ctx.run_blocking(partial(work, root))
        except TimeoutError:
            raise TransientError("the filesystem does not answer in time") from None
        except OSError as error:
            raise PermanentError(f"the folder can't be worked on: {error.strerror}") from error

    async def _sweep(self) -> None:
        while True:
            for root in self._settings.kept_in:
                with contextlib.suppress(OSError, PermanentError):
                    await asyncio.to_thread(self._sweep_root, root)
            await self._clock.sleep(_SWEEP_SECONDS)

    def _sweep_root(self, root: str) -> None:
        is_urgent = space_of(root)["free"] < self._settings.emergency_free
        Quarantine.sweep(root, self._clock.now(), is_urgent=is_urgent)


class DiskParams(Params):
    """When a folder counts as too full."""

    path: str | None = None
    """The default is the target's `root`."""
    high_water: float = Field(0.9, gt=0, le=1)
    """Used fraction of the filesystem from which it is not up; bytes in quarantine count as free."""
    quota_bytes: int | None = Field(None, ge=1)
    """Also not up when the files below the folder (without quarantine) are more than this."""


class DiskProber(Prober):
    """Up means: below the high-water mark. Usage is in the facts: it is neither memory nor errors."""

    kind = "disk"
    params = DiskParams

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Ask the filesystem; with a quota also count the files."""
        path = params.path or target.address.get("root")
        if not isinstance(path, str):
            raise TransientError(f"target {target.name} has no root")
        try:
            async with asyncio.timeout(timeout_seconds):
                facts = await run_blocking(_usage, path, params.quota_bytes is not None)
        except (OSError, TimeoutError) as error:
            raise TransientError(f"the folder can't be read ({type(error).__name__})") from error
        is_over = params.quota_bytes is not None and facts["bytes"] > params.quota_bytes
        return Reading(Signals(up=facts["used"] < params.high_water and not is_over), facts)


def _usage(path: str, is_counted: bool) -> dict[str, Any]:
    facts = space_of(path)
    if is_counted:
        facts["bytes"] = tree_bytes(path, skip=QUARANTINE)
    return facts
