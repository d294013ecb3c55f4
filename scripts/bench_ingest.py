"""Durable ingest beside the machine's own echo limit, in one run.

Starts a bare aiohttp + uvloop JSON echo and the daemon's own web application on a real SQLite store
(`synchronous=FULL`), each in a process of its own and driven by the same load generator in another process:
32 keep-alive connections over raw sockets. Every alert has a new fingerprint. At the end the conservation
equation says whether everything that was acknowledged is stored.

    python scripts/bench_ingest.py [--seconds 4] [--rounds 2]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from oncall_agent.contract import SystemClock
from oncall_agent.rules.placement import Placement
from oncall_agent.settings.model import Settings
from oncall_agent.store import Store
from oncall_agent.telemetry import log
from oncall_agent.telemetry.metrics import Metrics
from oncall_agent.web.app import build
from oncall_agent.web.parts import Parts

CONNECTIONS = 32
PACED_RATE = 2_000
BAR_RATIO = 0.5
BAR_P99_MS = 50.0
BAR_ALERTS = 15_000
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Load:
    """What one run of the generator saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bad: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


# --- the servers -----------------------------------------------------------------------------------------


def serve_echo(port: int) -> None:
    """The limit of the machine: the least that an aiohttp server can do with a JSON body."""

    async def echo(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    app = web.Application()
    app.router.add_post("/echo", echo)
    uvloop.run(_serve(app, port))


def serve_ingest(port: int, database: str) -> None:
    """The daemon's web application and its store; no worker takes the incidents up."""
    uvloop.run(_serve_ingest(port, database))


async def _serve_ingest(port: int, database: str) -> None:
    log.configure("warning")
    store_settings = {"url": f"sqlite:///{database}", "max_open_incidents": 10_000_000}
    settings = Settings.model_validate({"server": {"port": port}, "store": store_settings})
    clock = SystemClock()
    store = await Store.open(
        settings.store,
        clock=clock,
        flap=settings.guard.flapping,
        grouping=settings.grouping,
        rate_window_seconds=3600.0,
    )

    async def explain(_: str) -> dict[str, Any]:
        return {}

    parts = Parts(
        settings=settings,
        store=store,
        placement=Placement(settings, ()),
        clock=clock,
        metrics=Metrics(),
        actions=list,
        backends=list,
        readiness=Ready,
        explain=explain,
        policy=dict,
    )
    try:
        await _serve(build(parts), port)
    finally:
        await store.close()


@dataclass(frozen=True)
class Ready:
    ok: bool = True
    parts: Mapping[str, str] = field(default_factory=dict)


async def _serve(app: Any, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await runner.cleanup()


# --- the load --------------------------------------------------------------------------------------------


ALERT = json.dumps(
    {
        "status": "firing",
        "labels": {
            "alertname": "HighErrorRate",
            "cluster": "prod-eu",
            "instance": "10.0.0.1:NUMBER",
            "job": "checkout",
            "service": "svc-NUMBER",
            "severity": "critical",
        },
        "annotations": {
            "summary": "error ratio 42 on checkout/pay",
            "runbook_url": "http://127.0.0.1/runbooks/x",
        },
        "startsAt": "2026-11-21T07:15:42.883Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus:9090/graph?g0.expr=app_error_ratio",
        "fingerprint": "NUMBER",
    }
).encode()
TEMPLATE = ALERT.replace(b"NUMBER", b"%(number)016x")
"""Filled in and not dumped anew: the generator shares the machine and must not be its limit."""


def notification(first: int, count: int) -> bytes:
    """One Alertmanager body; each of its alerts is new and opens an incident of its own, the dearest case."""
    alerts = b",".join(TEMPLATE % {b"number": number} for number in range(first, first + count))
    return b'{"receiver":"oncall","status":"firing","alerts":[' + alerts + b'],"version":"4","groupKey":"{}"}'


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request is sent when the answer to the last one is complete."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answered: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self._received.lower().find(b"content-length:", 0, head) + 15
        length = int(self._received[start : self._received.find(b"\r", start)])
        if len(self._received) >= head + 4 + length and self._answered is not None:
            status = int(self._received[9:12])
            self._received.clear()
            answered, self._answered = self._answered, None
            if not answered.done():
                answered.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError("closed"))

    def close(self) -> None:
        self._transport.close()

    async def ask(self, request: bytes) -> int:
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered


def framed(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass(frozen=True)
class Order:
    """What the generator shall do; `rate` 0 is as fast as it is answered."""

    port: int
    path: str
    seconds: float
    per_request: int
    first: int
    rate: float = 0.0


async def drive(order: Order) -> Load:
    """Keep every connection busy for so long, or start requests at the given rate."""
    bodies = _bodies(order.per_request, order.first)
    # Not loop.time(): uvloop rounds it to milliseconds.
    clock = time.perf_counter
    latencies: list[float] = []
    bad = 0
    begun = clock()

    async def work(number: int) -> None:
        nonlocal bad
        _, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, order.port)
        turn = number
        while (now := clock()) < begun + order.seconds:
            due = begun + turn / order.rate if order.rate else now
            if due > now:
                await asyncio.sleep(due - now)
            request = framed(order.path, next(bodies))
            # From when it was due, not from when it was sent: a stalled server must not hide its queue.
            started = due if order.rate else clock()
            bad += await connection.ask(request) not in (200, 202)
            latencies.append(clock() - started)
            turn += CONNECTIONS
        connection.close()

    await asyncio.gather(*(work(number) for number in range(CONNECTIONS)))
    seconds = clock() - begun
    latencies.sort()
    p50, p99 = (1000 * latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99))
    return Load(len(latencies), seconds, p50, p99, bad)


def _bodies(per_request: int, first: int) -> Iterator[bytes]:
    for number in itertools.count(first, per_request):
        yield notification(number, per_request)


# --- the run ---------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*arguments: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen([sys.executable, __file__, *arguments])
    try:
        until(lambda: answers(port))
        yield running
    finally:
        running.terminate()
        running.wait(20)


def answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=0.5):
            return True
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("a server did not start")
        time.sleep(0.05)


def loaded(order: Order) -> Load:
    """Run the generator in a process of its own."""
    command = [sys.executable, __file__, "drive", json.dumps(asdict(order))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return Load(**json.loads(done.stdout))


def conservation(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{HOST}:{port}/api/v1/conservation", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@dataclass
class Figures:
    """All that was measured; `sent` counts the alerts that were acknowledged."""

    echo: list[Load] = field(default_factory=list)
    single: list[Load] = field(default_factory=list)
    paced: list[Load] = field(default_factory=list)
    many: list[Load] = field(default_factory=list)
    sent: int = 0
    balance: dict[str, Any] = field(default_factory=dict)


def measure(seconds: float, rounds: int) -> Figures:
    """Measure echo and ingest in turn, so that both see the same machine."""
    echo_port, port = free_port(), free_port()
    figures = Figures()
    first = itertools.count(1, 10_000_000)

    def ingest(per_request: int, rate: float = 0.0) -> Load:
        load = loaded(Order(port, "/webhooks/alertmanager", seconds, per_request, next(first), rate))
        figures.sent += (load.requests - load.bad) * per_request
        return load

    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        database = str(Path(folder) / "bench.db")
        with (
            process("echo", str(echo_port), port=echo_port),
            process("ingest", str(port), database, port=port),
        ):
            for _ in range(rounds):
                figures.echo.append(loaded(Order(echo_port, "/echo", seconds, 1, next(first))))
                figures.single.append(ingest(1))
            figures.paced.append(ingest(1, PACED_RATE))
            figures.many.append(ingest(10))
            figures.balance = conservation(port)
    return figures


def rows_of(figures: Figures) -> Iterator[tuple[str, str, str, bool]]:
    """Give figure, value, bar, and whether the bar is met."""
    limit = sum(load.rate for load in figures.echo) / len(figures.echo)
    rate = sum(load.rate for load in figures.single) / len(figures.single)
    paced, alerts = figures.paced[0], 10 * figures.many[0].rate
    stored, sent = figures.balance["accepted"], figures.sent
    bad = sum(load.bad for load in (*figures.echo, *figures.single, *figures.paced, *figures.many))
    is_met = paced.p99_ms < BAR_P99_MS
    yield "echo, requests/s (the machine's limit)", f"{limit:,.0f}", "", True
    yield "durable ingest, 1 alert per request, requests/s", f"{rate:,.0f}", "", True
    yield "  as a share of echo", f"{rate / limit:.2f}", f">= {BAR_RATIO}", rate / limit >= BAR_RATIO
    yield f"  reached of {PACED_RATE:,} requests/s", f"{paced.rate:,.0f}", "", paced.rate > 0.95 * PACED_RATE
    yield f"  p50 at {PACED_RATE:,} requests/s, ms", f"{paced.p50_ms:.1f}", "", True
    yield f"  p99 at {PACED_RATE:,} requests/s, ms", f"{paced.p99_ms:.1f}", f"< {BAR_P99_MS:.0f}", is_met
    yield (
        "durable ingest, 10 alerts per request, alerts/s",
        f"{alerts:,.0f}",
        f">= {BAR_ALERTS:,}",
        alerts >= BAR_ALERTS,
    )
    yield "requests not answered 200 or 202", f"{bad:,}", "0", bad == 0
    is_kept = bool(figures.balance["balanced"]) and stored == sent
    yield "alerts acknowledged / stored", f"{sent:,} / {stored:,}", "equal, balanced", is_kept


def report(figures: Figures) -> int:
    """Print the table; 1 when a bar is missed."""
    rows = list(rows_of(figures))
    print(f"{'figure':<52}{'measured':>22}  {'bar':<16}")
    for name, value, bar, is_met in rows:
        print(f"{name:<52}{value:>22}  {bar:<16}{'' if is_met else 'MISSED'}")
    return 0 if all(is_met for *_, is_met in rows) else 1


def main(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else ""
    if verb == "echo":
        serve_echo(int(arguments[1]))
    elif verb == "ingest":
        serve_ingest(int(arguments[1]), arguments[2])
    elif verb == "drive":
        load = uvloop.run(drive(Order(**json.loads(arguments[1]))))
        print(json.dumps(asdict(load)))
    else:
        parser = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
        parser.add_argument(
            "--rounds", type=int, default=2, help="echo and ingest are measured in turn so often"
        )
        options = parser.parse_args(arguments)
        return report(measure(options.seconds, options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
