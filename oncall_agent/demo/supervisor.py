"""Keeps the patient's app process: starts it, replaces it, lets it crash, and remembers its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any

from oncall_agent.contract.clock import Clock, SystemClock

FAULTS = ("db_timeouts", "memory_climb", "crash", "overload", "none")
_MAX_LINES = 200
_START_SECONDS = 15.0
_STOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class AppState:
    """How the app is started; a restart keeps it, a deployment changes it."""

    name: str
    version: str
    replicas: int
    memory_mib: int
    bad_versions: tuple[str, ...]
    overload: bool = False


class Supervisor:
    """The one that starts and stops the app process."""

    def __init__(self, state: AppState, host: str, port: int, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._state = state
        # Bound but not listening: the port stays ours while the app is down, and connecting is refused then.
        self._reserved = _reserve(host, port)
        self._host, self._port = self._reserved.getsockname()[:2]
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._old = state
        self._deployed_at, self._key, self._restarts = self._clock.now(), "", 0
        self._started_at = 0.0
        self.lines: deque[str] = deque(maxlen=_MAX_LINES)

    @property
    def url(self) -> str:
        """Where the app listens when it is up."""
        return f"http://{self._host}:{self._port}"

    def deployment(self) -> dict[str, Any]:
        """Say which version runs, what was before it, and under which key it came."""
        return {
            "version": self._state.version,
            "previous": self._old.version if self._old.version != self._state.version else None,
            "replicas": self._state.replicas,
            "previous_replicas": self._old.replicas,
            "deployed_at": self._deployed_at,
            "key": self._key,
            "restarts": self._restarts,
            "started_at": self._started_at,
        }

    async def start(self) -> None:
        """Start the app and wait until it answers."""
        async with self._lock:
            await self._start()

    async def restart(self) -> dict[str, Any]:
        """Stop the app, if it still runs, and start it as it was."""
        async with self._lock:
            await self._stop()
            await self._start()
            self._restarts += 1
            self._say("restarted")
            return {"restarts": self._restarts, "started_at": self._started_at}

    async def deploy(self, body: dict[str, Any]) -> dict[str, Any]:
        """Change version or replicas; what is not named stays."""
        async with self._lock:
            version, count = (
                str(body.get("version", self._state.version))[:64],
                body.get("replicas", self._state.replicas),
            )
            new = replace(self._state, version=version, replicas=max(1, min(int(count), 100)))
            self._old, self._state = self._state, new
            self._deployed_at, self._key = self._clock.now(), str(body.get("key", ""))
            await self._stop()
            await self._start()
            self._say(f"deployed version {new.version} with {new.replicas} replicas")
            return self.deployment()

    async def break_down(self, fault: str) -> None:
        """Make the app ill."""
        self._say(f"fault {fault}")
        if fault == "db_timeouts":
            await self.deploy({"version": self._state.bad_versions[0]})
        elif fault in ("overload", "none"):
            self._state = replace(self._state, overload=fault == "overload")
            await self._order("overload" if fault == "overload" else "calm")
        else:
            await self._order(fault)
            if fault == "crash" and self._process is not None:
                await self._process.wait()

    async def close(self) -> None:
        """Stop the app and give the port back."""
        async with self._lock:
            await self._stop()
        self._reserved.close()

    async def _order(self, order: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(f"{order}\n".encode())
                await self._process.stdin.drain()

    async def _start(self) -> None:
        command = (sys.executable, "-m", "oncall_agent.demo.app", json.dumps(asdict(self._state)), self._host)
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *command, str(self._port), stdin=pipe, stdout=pipe
        )
        async with asyncio.timeout(_START_SECONDS):
            ready = await self._stdout().readline()
        if not ready:
            raise RuntimeError("the app process did not start")
        self._started_at = float(json.loads(ready)["started_at"])
        self._reader = asyncio.create_task(self._read(self._stdout()), name="patient-log")

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self.lines.append(line.decode(errors="replace").rstrip()[:500])

    def _stdout(self) -> asyncio.StreamReader:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("the app process has no output")
        return self._process.stdout

    def _say(self, text: str) -> None:
        self.lines.append(f"{self._clock.now():.3f} supervisor {text}")


def _reserve(host: str, port: int) -> socket.socket:
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    return held
