"""The patient's app process: queries a small database pool, tells its own health, and can really fall ill.

Started by the supervisor with its state as JSON; takes orders as lines on standard input and ends with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from aiohttp import web

_QUERY_SECONDS = 0.02
_QUERY_TIMEOUT_SECONDS = 0.2
_QUIET_SECONDS = 0.1
_BUSY_SECONDS = 0.0125
_STEP_BYTES = 1_048_576
_STEP_SECONDS = 0.05
_HEADROOM_BYTES = 2 * _STEP_BYTES
_WINDOW = 30
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Clock:
    """The machine's clock; the one of the contract would bring half of the program into this small process."""

    @staticmethod
    def now() -> float:
        """Give the wall clock in seconds since the epoch (UTC)."""
        return time.time()  # noqa: TID251 - a process of its own has to read it somewhere

    @staticmethod
    def monotonic() -> float:
        """Give seconds from an arbitrary start that never go back."""
        return time.monotonic()


class Database:
    """A pool with one connection per replica; a bad version never gives its connections back."""

    def __init__(self, size: int, clock: Clock, *, leaks: bool) -> None:
        self._free = asyncio.Semaphore(size)
        self._clock, self._leaks = clock, leaks
        self.results: deque[tuple[float, bool]] = deque(maxlen=_WINDOW)

    async def query(self) -> None:
        """Run one query and note how long it took and whether it timed out."""
        began = self._clock.monotonic()
        try:
            await asyncio.wait_for(self._free.acquire(), _QUERY_TIMEOUT_SECONDS)
        except TimeoutError:
            self.results.append((self._clock.monotonic() - began, False))
            return
        try:
            await asyncio.sleep(_QUERY_SECONDS)
        finally:
            if not self._leaks:
                self._free.release()
        self.results.append((self._clock.monotonic() - began, True))

    @property
    def error_rate(self) -> float:
        """Fraction of the last queries that timed out, 0..1."""
        return sum(not ok for _, ok in self.results) / max(1, len(self.results))

    @property
    def seconds(self) -> float:
        """Mean time of the last queries."""
        return sum(seconds for seconds, _ in self.results) / max(1, len(self.results))


class App:
    """Serves traffic of its own making, so that an illness shows without anyone asking."""

    def __init__(self, state: dict[str, Any], clock: Clock) -> None:
        self._state, self._clock = state, clock
        self.database = Database(state["replicas"], clock, leaks=state["version"] in state["bad_versions"])
        self.is_busy, self.is_leaking = bool(state["overload"]), False
        self._is_asking = False
        self._hoard: list[bytearray] = []
        self._limit = state["memory_mib"] * 1_048_576
        self.started_at = clock.now()
        self._cpu = _CpuShare(clock)
        self._running: set[asyncio.Task[None]] = set()

    async def traffic(self) -> None:
        """Query without end, faster when overloaded; at most 64 queries wait at once."""
        while True:
            if len(self._running) < 64:  # noqa: PLR2004 - the bound that the docstring names
                query = asyncio.create_task(self.database.query(), name="patient-query")
                self._running.add(query)
                query.add_done_callback(self._running.discard)
            await asyncio.sleep(_BUSY_SECONDS if self.is_busy else _QUIET_SECONDS)

    async def leak(self) -> None:
        """Take real memory step by step while told to, and stop short of the limit."""
        while True:
            if self.is_leaking and _resident_bytes() < self._limit - _HEADROOM_BYTES:
                block = bytearray(_STEP_BYTES)
                block[::_PAGE] = b"x" * (_STEP_BYTES // _PAGE)
                self._hoard.append(block)
            await asyncio.sleep(_STEP_SECONDS)

    async def status(self, _request: web.Request) -> web.Response:
        """Answer `/api/v1/status` from what is measured now."""
        await self._ask_database()
        rate = self.database.error_rate
        return web.json_response(
            {
                "name": self._state["name"],
                "version": self._state["version"],
                "replicas": self._state["replicas"],
                "status": "ok" if rate < 0.05 else "degraded",  # noqa: PLR2004 - one in twenty
                "started_at": self.started_at,
                "response_seconds": round(self.database.seconds, 4),
                "error_rate": round(rate, 4),
                "error_lines": sum(not ok for _, ok in self.database.results),
                "memory_bytes": _resident_bytes(),
                "memory_limit_bytes": self._limit,
                "cpu": round(self._cpu.read(), 4),
            }
        )

    async def _ask_database(self) -> None:
        """Query for one status at a time: a sick database makes it slow, many readers don't make it sick."""
        if self._is_asking:
            return
        self._is_asking = True
        try:
            await self.database.query()
        finally:
            self._is_asking = False

    async def orders(self) -> None:
        """Obey the supervisor until it goes away."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().strip():
            if line == "crash":
                say(self._clock, "fatal: segmentation fault")
                os._exit(70)
            self.is_leaking = self.is_leaking or line == "memory_climb"
            self.is_busy = line == "overload" if line in ("overload", "calm") else self.is_busy
            say(self._clock, f"order {line}")

    async def report(self) -> None:
        """Write a log line per second while queries time out."""
        while True:
            await asyncio.sleep(1.0)
            if self.database.error_rate > 0:
                say(self._clock, f"error: database timeout, rate {self.database.error_rate:.2f}")


class _CpuShare:
    """CPU used by this process since the last reading, 0..1 of one core."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = (clock.monotonic(), sum(os.times()[:2]))

    def read(self) -> float:
        at, used = self._clock.monotonic(), sum(os.times()[:2])
        elapsed = at - self._last[0]
        share = (used - self._last[1]) / elapsed if elapsed > 0 else 0.0
        self._last = (at, used)
        return min(1.0, max(0.0, share))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def say(clock: Clock, text: str) -> None:
    """Write one log line for the supervisor to keep."""
    print(f"{clock.now():.3f} app {text}", flush=True)  # noqa: T201 - standard output is the log


async def serve(state: dict[str, Any], host: str, port: int) -> None:
    """Serve until SIGTERM or until the supervisor is gone."""
    clock = Clock()
    patient = App(state, clock)
    site_app = web.Application()
    site_app.router.add_get("/api/v1/status", patient.status)
    runner = web.AppRunner(site_app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, host, port, reuse_port=True).start()
    print(json.dumps({"started_at": patient.started_at}), flush=True)  # noqa: T201 - tells that it is up
    background = [
        asyncio.create_task(work, name=name)
        for name, work in (
            ("traffic", patient.traffic()),
            ("leak", patient.leak()),
            ("report", patient.report()),
        )
    ]
    orders = asyncio.create_task(patient.orders(), name="orders")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, orders.cancel)
    await asyncio.wait((orders,))
    for one in background:
        one.cancel()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
