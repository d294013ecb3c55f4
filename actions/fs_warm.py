"""Filling a cache folder again with a program that the operator has declared: an argument list, never a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from pathlib import Path
from typing import Any

from pydantic import Field

from actions.fs_executor import KIND, NO_SECRET, FsExecutor
from actions.fs_quarantine import QUARANTINE, Limits, Quarantine, count_of
from actions.fs_settings import Command
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

_SAID_BYTES = 2_048
_PATH = "/usr/local/bin:/usr/bin:/bin"
_NO_LIMIT = 1 << 62


class WarmParams(Params):
    """Which program, and when the folder counts as warm."""

    command: str = Field(min_length=1, max_length=64)
    """A name under `backends.filesystem.commands`."""
    min_entries: int = Field(1, ge=1, le=1_000_000)
    """Files that must be below the folder afterwards."""
    hold_seconds: float = Field(0.0, ge=0, le=600)
    """They must be there for so long."""
    within_seconds: float = Field(5.0, gt=0, le=600)
    """How long to wait for that."""


class WarmOrRebuild(FsExecutor):
    """Runs one declared program in the folder; rollback moves what it made into quarantine."""

    spec = ActionSpec(
        id="filesystem.warm_or_rebuild",
        summary="Fill a cache folder again with a declared program.",
        target_kind=KIND,
        params=WarmParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=300.0,
        cost=0.1,
        family="cache",
        exemptions=NO_SECRET,
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse programs that are not declared or may be changed by others, and a machine that is busy."""

        def look(root: str) -> Check:
            command = self._command(ctx)
            reason = trouble_of(command) or _busy(command)
            facts = {"entries": count_of(root), "load": round(os.getloadavg()[0], 2)}
            if not reason and facts["entries"] >= ctx.params.min_entries:
                reason = f"the folder has {facts['entries']} entries: it is warm"
            return Check(ok=not reason, reason=reason, facts=facts)

        return await self.asked(ctx, look)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Run the program once per key; it does not outlive its time or the deadline."""
        command = self._command(ctx)
        if ctx.dry_run:
            facts = {"would": list(command.argv)[:8]}
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        known = await self.run(ctx, lambda root: self._begun(ctx, root, command))
        if not known.get("done"):
            said = await self._run(ctx, command)
            known = {**known, "done": True, "said": said}
            await self.run(ctx, lambda root: self.record(ctx, root).keep(known, ctx.clock.now()))
        return Receipt(
            self.spec.id, ctx.clock.now(), {name: known[name] for name in ("entries", "began", "said")}
        )

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether there are enough entries, and more than before."""
        before = int(receipt.facts.get("entries", 0))

        async def sample() -> Check:
            count = await self.run(ctx, count_of)
            ok = count >= max(ctx.params.min_entries, before + 1)
            reason = "" if ok else f"{count} entries, {before} before"
            return Check(ok=ok, reason=reason, facts={"entries": count, "before": before})

        return await held(
            ctx,
            sample,
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.params.within_seconds,
            interval_seconds=0.1,
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Move what was made since into quarantine."""
        began = receipt.facts.get("began")
        if began is None:
            return Check(ok=True, reason="the program was not started")
        limits = Limits("*", _NO_LIMIT, _NO_LIMIT, 100_000, changed_after=began)

        def purge(root: str) -> dict[str, Any]:
            quarantine = Quarantine(root, f"{ctx.idempotency_key}-undo")
            return quarantine.fill(limits, ctx.clock.now() + self.conf.quarantine_seconds)

        moved = await self.run(ctx, purge)
        ok = not moved["is_cut"]
        return Check(ok=ok, reason="" if ok else "not everything went", facts={"files": moved["files"]})

    def _begun(self, ctx: ActionContext, root: str, command: Command) -> dict[str, Any]:
        reason = trouble_of(command)
        if reason:
            raise PermanentError(reason)
        record = self.record(ctx, root)
        known = record.read()
        if known and not known.get("done") and not command.repeatable:
            raise PermanentError("a former call began, and how it ended is not known")
        # The folder's own clock: files are compared with it.
        return known or record.keep({"entries": count_of(root), "began": _touched(root)}, ctx.clock.now())

    async def _run(self, ctx: ActionContext, command: Command) -> str:
        root = await self.run(ctx, lambda root: root)
        seconds = min(command.timeout_seconds, ctx.seconds_left)
        code, said = await _ended(command, root, seconds)
        if code is None:
            raise PermanentError(f"the program did not end in {seconds:.1f} s and was killed")
        if code:
            raise PermanentError(f"the program ended with {code}: {said[-200:]}")
        return said[-300:]

    def _command(self, ctx: ActionContext) -> Command:
        command = self.conf.commands.get(ctx.params.command)
        if command is None:
            raise PermanentError(f"no command is named {ctx.params.command!r}")
        return command


def trouble_of(command: Command) -> str:
    """Give the reason why a program may not be run, or an empty text."""
    try:
        found = Path(os.path.realpath(command.argv[0])).stat()
    except OSError:
        return "the program is not there"
    if not stat.S_ISREG(found.st_mode) or not os.access(command.argv[0], os.X_OK):
        return "the program can't be run"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "the program may be changed by others"
    return ""


def _busy(command: Command) -> str:
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return f"the machine's load is {load:.1f} per processor" if load > command.max_load else ""


def _touched(root: str) -> float:
    """Give the filesystem's time of now."""
    path = Path(root) / QUARANTINE / f".now-{os.getpid()}"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(b"")
    at = path.stat().st_mtime
    path.unlink()
    return at


async def _ended(command: Command, folder: str, seconds: float) -> tuple[int | None, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env={"PATH": _PATH, **command.environment},
            start_new_session=True,
        )
    except OSError as error:
        raise PermanentError(f"the program can't be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds):
            said = await _tail(process)
            return await process.wait(), said
    except TimeoutError:
        return None, ""
    finally:
        # With everything that it started; also when this is cancelled.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _tail(process: asyncio.subprocess.Process) -> str:
    said = b""
    while process.stdout and (chunk := await process.stdout.read(65_536)):
        said = (said + chunk)[-_SAID_BYTES:]
    return said.decode(errors="replace").strip()
