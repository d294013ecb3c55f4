"""Processes of a benchmark: how they are started, what they cost, and what a daemon among them says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
_STOP_SECONDS = 60.0
Process = subprocess.Popen[bytes]


# --- processes -------------------------------------------------------------------------------------------


@contextmanager
def folder() -> Iterator[Path]:
    """Give a folder for as long as a measurement lasts; BENCH_FOLDER says on which disk."""
    with tempfile.TemporaryDirectory(prefix="oncall-bench-", dir=os.environ.get("BENCH_FOLDER")) as name:
        yield Path(name)


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def listening(port: int, seconds: float = 60.0) -> None:
    """Wait until somebody listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((HOST, port), timeout=0.5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit("a server did not start") from None
            time.sleep(0.01)


def spawn(*command: str, **options: Any) -> Process:
    """Start Python as an operator would: with its compiled files kept from one start to the next."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen([sys.executable, *command], env=environment, **options)


def spawn_daemon(file: Path, port: int) -> Process:
    """Start a daemon; its log goes nowhere."""
    command = ("-m", "oncall_agent", "run", "--config", str(file), "--port", str(port))
    return spawn(*command, stdout=subprocess.DEVNULL, cwd=file.parent)


def stop(process: Process) -> None:
    """End a process and wait for it."""
    process.terminate()
    process.wait(_STOP_SECONDS)


@contextmanager
def started(*command: str, port: int) -> Iterator[Process]:
    """Run a server until the block ends."""
    process = spawn(*command)
    try:
        listening(port)
        yield process
    finally:
        stop(process)


async def serving() -> None:
    """Wait for SIGTERM; for the servers themselves."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


# --- what a process costs --------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Give the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Memory:
    """Megabytes resident: all pages, and with shared pages divided among those who share them."""

    rss: float
    pss: float


def memory(pid: int) -> Memory:
    """Give what a process keeps in memory."""
    return Memory(
        _megabytes(f"/proc/{pid}/status", "VmRSS:"), _megabytes(f"/proc/{pid}/smaps_rollup", "Pss:")
    )


def _megabytes(file: str, key: str) -> float:
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


# --- a daemon --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Daemon:
    """A daemon that serves."""

    process: Process
    port: int
    seconds_to_ready: float

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    @property
    def memory(self) -> Memory:
        return memory(self.process.pid)

    def read(self, path: str) -> Any:
        """Give what a path of its API says."""
        return read(self.port, path)

    def drain(self, *, draining: bool) -> None:
        """Keep it from taking up incidents, or let it."""
        post(self.port, "/api/v1/control", {"draining": draining})

    def wait_until_done(self, seconds: float = 120.0) -> None:
        """Wait until no incident is open; asks what costs little however much is stored."""
        end = time.monotonic() + seconds
        while self.read("/api/v1/incidents?state=open&limit=1")["items"]:
            if time.monotonic() > end:
                raise SystemExit(f"incidents are still open after {seconds:g} s")
            time.sleep(0.02)


@contextmanager
def daemon(file: Path) -> Iterator[Daemon]:
    """Run a daemon until the block ends."""
    port, begun = free_port(), time.monotonic()
    process = spawn_daemon(file, port)
    try:
        ready(process, port)
        yield Daemon(process, port, time.monotonic() - begun)
    finally:
        stop(process)


def ready(process: Process, port: int, seconds: float = 60.0) -> None:
    """Wait until a daemon says that all its parts work."""
    end = time.monotonic() + seconds
    while True:
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("the daemon did not get ready")
        try:
            read(port, "/readyz")
            return
        except OSError:
            time.sleep(0.005)


def read(port: int, path: str) -> Any:
    """Give the JSON that a server answers."""
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=60) as answer:
        return json.load(answer)


def post(port: int, path: str, value: Any) -> Any:
    """Send JSON and give the answer."""
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{HOST}:{port}{path}", json.dumps(value).encode(), head)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
