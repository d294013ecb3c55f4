"""One started server process: its own session, its own log file, stopped by its process group."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from backends.base import MissingBackendError

POLL_SECONDS = 0.02
LOG_TAIL_BYTES = 800


class Server:
    """A server process on loopback; `stop` ends the whole group with TERM, then KILL."""

    def __init__(self, name: str, argv: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None):
        self.name = name
        self.argv = list(argv)
        self.folder = folder
        self.log_path = folder / f"{name}.log"
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; only valid after `start`."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def start(self, is_ready: Callable[[], bool], *, timeout_seconds: float = 30.0) -> None:
        """Start it and wait until `is_ready`; raises MissingBackendError with the end of its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self.folder,
                start_new_session=True,
            )
        if not wait_until(lambda: is_ready() or self.has_ended(), timeout_seconds=timeout_seconds):
            self.stop()
            raise MissingBackendError(
                f"{self.name} was not ready in {timeout_seconds:g} s: {self.log_tail()}"
            )
        if self.has_ended():
            raise MissingBackendError(f"{self.name} ended at once: {self.log_tail()}")

    def has_ended(self) -> bool:
        """True when the process is gone or was never there."""
        return self._process is None or self._process.poll() is not None

    def log_tail(self) -> str:
        """The end of what it printed, on one line."""
        with contextlib.suppress(OSError):
            text = self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
            return " | ".join(text.strip().splitlines()[-4:])
        return "no log"

    def stop(self, *, timeout_seconds: float = 15.0) -> None:
        """TERM to the group, then KILL to what is left of it; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_seconds)
        signal_group(process.pid, signal.SIGKILL)
        process.wait(5)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the session that a server leads; nothing when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def wait_until(is_true: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Poll until the condition holds; False when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if is_true():
            return True
        time.sleep(POLL_SECONDS)
    return is_true()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts_connections(port: int, host: str = "127.0.0.1") -> bool:
    """True when something listens on this port, of loopback unless a host is given."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
        return True
    return False


def run_quietly(argv: Sequence[str], *, timeout_seconds: float = 120.0, show_errors: bool = False) -> str:
    """Run a command and return its output; raises MissingBackendError with what it printed."""
    try:
        code, output, errors = RUNNING.run(argv, timeout_seconds, None if show_errors else subprocess.PIPE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingBackendError(f"{argv[0]}: {error}") from error
    if code != 0:
        said = " | ".join((errors or output).strip().splitlines()[-3:])
        raise MissingBackendError(f"{Path(argv[0]).name} failed ({code}): {said}")
    return output


def version_of(program: str) -> str:
    """What a program says about its version: its first line, without what was built where."""
    lines = run_quietly([program, "--version"], timeout_seconds=30.0).strip().splitlines() or [""]
    return lines[0].split("(branch")[0].split(" malloc")[0].strip()[:70]


class RunningCommands:
    """The commands that are running now, so that an interrupted run can end them from its main thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pids: set[int] = set()
        self._is_closed = False

    def run(self, argv: Sequence[str], timeout_seconds: float, stderr: int | None) -> tuple[int, str, str]:
        """Run one to its end, in its own session; returns exit code, output, errors."""
        with self._lock:
            if self._is_closed:
                raise MissingBackendError("interrupted")
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
            self._pids.add(process.pid)
        try:
            output, errors = process.communicate(timeout=timeout_seconds)
        finally:
            if process.poll() is None:
                signal_group(process.pid, signal.SIGKILL)
                process.wait(5)
            with self._lock:
                self._pids.discard(process.pid)
        return process.returncode, output, errors or ""

    def interrupt(self) -> None:
        """End all of them and start no more."""
        with self._lock:
            self._is_closed = True
            for pid in self._pids:
                signal_group(pid, signal.SIGTERM)

    def reopen(self) -> None:
        """Allow commands again: stopping the backends needs some."""
        with self._lock:
            self._is_closed = False


RUNNING = RunningCommands()


def processes_with(variable: str, value: str) -> list[int]:
    """The processes that were started with this environment variable."""
    wanted = f"{variable}={value}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
