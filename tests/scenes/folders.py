"""Folders to act on: one on the disk, one on another filesystem, and a service that writes a log."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actions.fs_sandbox import Sandbox
from actions.fs_settings import FilesystemSettings
from oncall_agent.contract import ActionContext, Executor, SystemClock, SystemContext, Target
from oncall_agent.testing import RecordingLog, context_for
from oncall_agent.testing.harness import run_in_thread

CLOCK = SystemClock()
OTHER_FILESYSTEM = "/dev/shm"
OLD = 1_600_000_000.0


@dataclass
class Folders:
    """The folders of one test and the settings that list them."""

    base: Path
    root: Path
    logs: Path
    saved: Path
    cold: Path
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "roots": [str(self.root)],
            "log_roots": [str(self.logs), str(self.root)],
            "cold_roots": [str(self.cold)],
            "min_age_seconds": 0,
            **self.more,
        }

    def attempt(
        self,
        kind: type[Executor],
        where: Path,
        *,
        key: str = "",
        seconds: float = 20.0,
        dry_run: bool = False,
        is_protected: bool = False,
        **params: Any,
    ) -> ActionContext:
        return context_for(
            kind.spec.params.model_validate(params),
            Target("folder", "directory", address={"root": str(where)}, protected=is_protected),
            clock=CLOCK,
            key=key,
            seconds=seconds,
            dry_run=dry_run,
            run_blocking=run_in_thread,
        )

    @contextmanager
    def writer(self, name: str = "app.log") -> Iterator[Path]:
        """A service that writes this log all the time and reopens it on HUP."""
        box = Sandbox(str(self.logs), FilesystemSettings())
        try:
            yield Path(box.start_writer(name))
        finally:
            box.stop_writer()


@contextmanager
def folders(base: Path, **more: Any) -> Iterator[Folders]:
    """Give folders below `base`, and a cold one elsewhere that goes away."""
    cold = Path(tempfile.mkdtemp(prefix="oncall-cold-", dir=OTHER_FILESYSTEM))
    made = Folders(base, base / "cache", base / "logs", base / "saved", cold, more)
    for folder in (made.root, made.logs, made.saved):
        folder.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(cold, ignore_errors=True)


def put(path: Path, content: bytes = b"x" * 1_000, at: float = OLD) -> Path:
    """Write a file that looks old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (at, at))
    return path


def names(root: Path) -> set[str]:
    """Give the files below a folder, quarantine aside."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and ".oncall-quarantine" not in path.parts
    }


def system_context(seconds: float = 30.0) -> SystemContext:
    """Give what an inspection or drill is given."""
    return SystemContext(CLOCK, RecordingLog(), CLOCK.monotonic() + seconds, run_in_thread)
