"""The folder that the operator names for drills: it has to be empty, and it is emptied again. Blocking."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from actions.fs_quarantine import root_of
from actions.fs_settings import FilesystemSettings
from oncall_agent.contract import PermanentError, Target

MARK = ".oncall-drill"
_MOUNT = "/usr/bin/mount"
_UMOUNT = "/usr/bin/umount"
_POLL_SECONDS = 0.01


class Sandbox:
    """One folder, for one drill at a time."""

    def __init__(self, root: str, conf: FilesystemSettings) -> None:
        self.root, self._conf = root, conf
        self._writer: subprocess.Popen[bytes] | None = None

    def take(self) -> None:
        """Make sure that it is listed and empty, and mark it as ours.

        Raises:
            PermanentError: it is not; the message says what to name.
        """
        for name, listed in (("roots", self._conf.roots), ("log_roots", self._conf.log_roots)):
            if self.root not in listed:
                raise PermanentError(f"the sandbox's root must be listed in backends.filesystem.{name}")
        root_of(Target("sandbox", "directory", address={"root": self.root}), self._conf.roots)
        self.give_back()
        if any(Path(self.root).iterdir()):
            raise PermanentError("the sandbox's root must be an empty folder")
        self._mark()

    def give_back(self) -> None:
        """Empty it, if it is marked as ours; safe at any time."""
        self.stop_writer()
        while Path(self.root, MARK).exists() and Path(self.root).is_mount():
            _run([_UMOUNT, self.root])
        if not Path(self.root, MARK).exists():
            return
        for path in Path(self.root).iterdir():
            if path.name != MARK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        Path(self.root, MARK).unlink(missing_ok=True)

    def mount_small(self, size_bytes: int) -> None:
        """Put a small filesystem of its own on it.

        Raises:
            PermanentError: this process may not mount.
        """
        options = f"size={size_bytes},mode=0755,uid={os.geteuid()},gid={os.getegid()}"
        _run([_MOUNT, "-t", "tmpfs", "-o", options, "oncall-drill", self.root])
        self._mark()

    def start_writer(self, name: str) -> str:
        """Start a service that writes this log; give the log's path."""
        path = Path(self.root, name)
        argv = [sys.executable, "-m", "actions.fs_drill_writer", str(path), str(self.pid_file)]
        self._writer = subprocess.Popen(  # noqa: S603 - our own module with our own arguments
            argv, stdin=subprocess.DEVNULL, start_new_session=True
        )
        until(path.exists, "the drill's writer does not start")
        return str(path)

    @property
    def pid_file(self) -> Path:
        """Where the writer says which process it is; the operator's holder names it."""
        return Path(self.root, "oncall-drill.pid")

    def stop_writer(self) -> None:
        """End the writer."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.terminate()
            try:
                writer.wait(5)
            except subprocess.TimeoutExpired:
                writer.kill()
                writer.wait(5)

    def _mark(self) -> None:
        Path(self.root, MARK).write_bytes(b"")


def fill(path: Path, size: int, *, append: bool = False) -> None:
    """Write that many bytes."""
    block = b"x" * 65_535 + b"\n"
    with path.open("ab" if append else "wb") as stream:
        while size > 0:
            size -= stream.write(block[:size])


def grow_old(path: Path, now: float, seconds: float) -> None:
    """Make a file look as if it had not been changed for so long."""
    os.utime(path, (now - seconds, now - seconds))


def until(is_true: Callable[[], bool], trouble: str, seconds: float = 10.0) -> None:
    """Wait for a condition.

    Raises:
        PermanentError: it does not come.
    """
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            raise PermanentError(trouble)
        time.sleep(_POLL_SECONDS)


def _run(argv: list[str]) -> None:
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)  # noqa: S603
    if ended.returncode:
        raise PermanentError(f"{Path(argv[0]).name}: {ended.stderr.decode(errors='replace').strip()[:200]}")
