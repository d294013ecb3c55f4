"""Faults of folders, made on a sandbox: one empty folder that the operator names and lists in roots and log_roots."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from actions.fs_processes import deleted_bytes, writers_of
from actions.fs_quarantine import count_of, space_of
from actions.fs_sandbox import Sandbox, fill, grow_old, until
from actions.fs_settings import FilesystemSettings
from oncall_agent.contract import Check, Drill, DrillSpec, PermanentError, SystemContext, Target, Trial
from oncall_agent.models import JsonObject

_MIB = 1_048_576
_OLD_SECONDS = 8_000_000.0
_DISK_BYTES = 8 * _MIB
_FULL = 0.9


class _FolderDrill(Drill):
    """What the drills share: the sandbox, and that all of it blocks."""

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self.conf = FilesystemSettings.model_validate(dict(settings))
        self.box = Sandbox(str(sandbox.get("root", "")), self.conf)

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Take the sandbox."""
        for key in self.spec.sandbox_keys:
            if not self.sandbox.get(key):
                raise PermanentError(f"the sandbox of filesystem must name {key}")
        await ctx.run_blocking(self._made, ctx.clock.now())
        target = Target("drill", "directory", address={"root": self.box.root})
        return Trial(target, self.params())

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make the fault."""
        await ctx.run_blocking(self.broken, ctx.clock.now())

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Look at the folder."""
        return await ctx.run_blocking(self.looked)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Empty the sandbox."""
        if self.box.root:
            await ctx.run_blocking(self.box.give_back)

    def _made(self, now: float) -> None:
        self.box.take()
        self.made(now)

    def made(self, now: float) -> None:
        """Add what the drill needs to the empty folder."""

    @property
    def root(self) -> Path:
        """The sandbox's folder."""
        return Path(self.box.root)

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """Give the action's parameters."""

    @abstractmethod
    def broken(self, now: float) -> None:
        """Make the fault."""

    @abstractmethod
    def looked(self) -> Check:
        """Give the symptom."""


class FullDisk(_FolderDrill):
    """A small filesystem that runs full of old files; without the right to mount, a folder over its quota."""

    spec = DrillSpec(
        id="filesystem.full_disk",
        action="filesystem.purge",
        scenario="full_disk",
        summary="A small filesystem is filled with old temporary files.",
        sandbox="named",
        sandbox_keys=("root",),
    )

    def made(self, now: float) -> None:
        """Mount a small filesystem on the folder, if that is permitted."""
        try:
            self.box.mount_small(_DISK_BYTES)
        except (PermanentError, OSError):
            self._has_disk = False
        else:
            self._has_disk = True

    def params(self) -> dict[str, Any]:
        """Take what the drill made, and no more."""
        return {"glob": "oncall-drill-*.tmp", "older_than_seconds": _OLD_SECONDS / 2}

    def broken(self, now: float) -> None:
        """Fill it to 95 %."""
        for number in range(19):
            path = self.root / f"oncall-drill-{number}.tmp"
            fill(path, _DISK_BYTES // 20)
            grow_old(path, now, _OLD_SECONDS)

    def looked(self) -> Check:
        """Say whether it is below 90 %."""
        used = space_of(self.box.root)["used"] if self._has_disk else self._counted() / _DISK_BYTES
        return Check(
            ok=used < _FULL, reason="" if used < _FULL else f"{used:.0%} are used", facts={"used": used}
        )

    def _counted(self) -> int:
        return sum(path.stat().st_size for path in self.root.glob("oncall-drill-*"))


class GrowingLog(_FolderDrill):
    """A log that has grown large under a service that goes on writing it."""

    spec = DrillSpec(
        id="filesystem.growing_log",
        action="filesystem.truncate_log",
        scenario="growing_log",
        summary="A log grows to several megabytes while a service writes it.",
        sandbox="named",
        sandbox_keys=("root",),
    )

    def made(self, now: float) -> None:
        """Start the service."""
        self._log = Path(self.box.start_writer("oncall-drill.log"))

    def params(self) -> dict[str, Any]:
        """Keep a tail."""
        return {"path": "oncall-drill.log", "keep_tail_bytes": 65_536}

    def broken(self, now: float) -> None:
        """Let the log be large."""
        fill(self._log, 4 * _MIB, append=True)

    def looked(self) -> Check:
        """Say whether it is short and written."""
        found = self._log.stat()
        if found.st_size > 2 * _MIB:
            return Check(ok=False, reason=f"the log has {found.st_size} bytes")
        ok = bool(writers_of(found.st_dev, found.st_ino).seen)
        return Check(ok=ok, reason="" if ok else "nobody writes the log")


class UnrotatedLog(_FolderDrill):
    """A log that was not rotated when it should have been."""

    spec = DrillSpec(
        id="filesystem.unrotated_log",
        action="filesystem.rotate_logs",
        scenario="unrotated_log",
        summary="A log is far beyond the size at which it should have been rotated.",
        sandbox="named",
        sandbox_keys=("root", "rotation"),
    )

    def made(self, now: float) -> None:
        """Start the service."""
        self._log = Path(self.box.start_writer("oncall-drill.log"))

    def params(self) -> dict[str, Any]:
        """Take the rotation that the sandbox names; it has to be about oncall-drill.log and send HUP."""
        return {"rotation": self.sandbox["rotation"], "hold_seconds": 0.2}

    def broken(self, now: float) -> None:
        """Let the log be large."""
        fill(self._log, 2 * _MIB, append=True)

    def looked(self) -> Check:
        """Say whether the log in use is a small one."""
        size = self._log.stat().st_size if self._log.exists() else 0
        return Check(ok=size < _MIB, reason="" if size < _MIB else f"the log has {size} bytes")


class DeletedOpenLog(_FolderDrill):
    """A deleted log that its service still has open."""

    spec = DrillSpec(
        id="filesystem.deleted_open_log",
        action="filesystem.release_deleted_open",
        scenario="deleted_open_log",
        summary="A log was deleted, but its service still has it open and keeps the space.",
        sandbox="named",
        sandbox_keys=("root", "holder"),
    )

    def made(self, now: float) -> None:
        """Start the service."""
        self._log = Path(self.box.start_writer("oncall-drill.log"))
        until(self.box.pid_file.exists, "the drill's writer does not start")

    def params(self) -> dict[str, Any]:
        """Take the holder that the sandbox names; its pid file is oncall-drill.pid in the sandbox."""
        return {"holder": self.sandbox["holder"], "min_bytes": _MIB, "hold_seconds": 0.2}

    def broken(self, now: float) -> None:
        """Let the log be large, and delete it."""
        fill(self._log, 2 * _MIB, append=True)
        self._log.unlink()

    def looked(self) -> Check:
        """Say whether the service keeps deleted bytes."""
        pid = int(self.box.pid_file.read_text(encoding="ascii"))
        count = deleted_bytes(pid, self.root.stat().st_dev)
        return Check(ok=count < _MIB, reason="" if count < _MIB else f"{count} bytes are deleted but open")


class ColdFiles(_FolderDrill):
    """Files that nobody has changed for long, on the dearer filesystem."""

    spec = DrillSpec(
        id="filesystem.cold_files",
        action="filesystem.move_cold",
        scenario="cold_files",
        summary="Files that were not changed for months take space on the first filesystem.",
        sandbox="named",
        sandbox_keys=("root", "cold_root"),
    )

    def params(self) -> dict[str, Any]:
        """Take what the drill made, and no more."""
        return {
            "to": self.sandbox["cold_root"],
            "glob": "oncall-drill-*.dat",
            "older_than_seconds": _OLD_SECONDS / 2,
        }

    def broken(self, now: float) -> None:
        """Make cold files."""
        for number in range(4):
            path = self.root / f"oncall-drill-{number}.dat"
            fill(path, _MIB // 2)
            grow_old(path, now, _OLD_SECONDS)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Empty the sandbox; what an undo left at the other end goes, too."""
        await super().clean_up(ctx)
        await ctx.run_blocking(self._forget_moved)

    def _forget_moved(self) -> None:
        if str(self.sandbox.get("cold_root", "")) in self.conf.cold_roots:
            for path in Path(str(self.sandbox["cold_root"])).glob("oncall-drill-*.dat"):
                path.unlink(missing_ok=True)

    def looked(self) -> Check:
        """Say whether cold files are left."""
        count = len(list(self.root.glob("oncall-drill-*.dat")))
        return Check(ok=not count, reason=f"{count} cold files are here" if count else "")


class ColdCache(_FolderDrill):
    """A cache folder that has lost its entries."""

    spec = DrillSpec(
        id="filesystem.cold_cache",
        action="filesystem.warm_or_rebuild",
        scenario="cold_cache",
        summary="A cache folder has lost its entries.",
        sandbox="named",
        sandbox_keys=("root", "command"),
    )

    def made(self, now: float) -> None:
        """Put an entry into the cache."""
        (self.root / "oncall-drill-entry").write_bytes(b"x")

    def params(self) -> dict[str, Any]:
        """Take the command that the sandbox names; it has to make a file in its working folder."""
        return {"command": self.sandbox["command"], "min_entries": 2}  # one is the sandbox's mark

    def broken(self, now: float) -> None:
        """Take the entry away."""
        (self.root / "oncall-drill-entry").unlink()

    def looked(self) -> Check:
        """Say whether there are entries; the drill's own mark is none."""
        count = count_of(self.box.root) - 1
        return Check(ok=count > 0, reason="" if count > 0 else "the cache is empty")


DRILLS = (FullDisk, GrowingLog, UnrotatedLog, DeletedOpenLog, ColdFiles, ColdCache)
