"""The whole flow under load: webhook to executor, and webhook to terminal state, with an HTTP action.

A daemon as an operator runs it (`oncall-agent run`, SQLite with `synchronous=FULL`, autonomy auto), a target server that
counts and times every effect, and a load generator, each in a process of its own on this machine. Every incident has a
target of its own. Beside the figures stands what a bare aiohttp echo reaches here in the same run.

    python scripts/bench_flow.py [--seconds 10]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from load import HOST, Connection, echo_rate, framed, free_port, listening

TARGETS = 4_000
LATENCY_RATE, LATENCY_P50_MS, LATENCY_P99_MS = 100, 25.0, 100.0
FLOW_RATE = 300


class Target(asyncio.Protocol):
    """Answers by hand, so that the target costs little: POST /N/fix, GET /N/status, GET /times."""

    fixed: dict[bytes, list[float]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (head := self.received.find(b"\r\n\r\n")) >= 0:
            top = self.received[:head]
            low = top.lower()
            at = low.find(b"content-length:")
            length = int(low[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.received) < head + 4 + length:
                return
            self.received = self.received[head + 4 + length :]
            self.answer(top.split(b" ", 2)[:2])

    def answer(self, asked: list[bytes]) -> None:
        method, path = asked
        if method == b"POST":
            self.fixed.setdefault(path.split(b"/")[1], []).append(time.time())
            body = b"{}"
        elif path == b"/times":
            body = json.dumps({key.decode(): times for key, times in self.fixed.items()}).encode()
        else:
            body = b'{"ok": true}' if path.split(b"/")[1] in self.fixed else b'{"ok": false}'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)


async def serve_target(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Target, HOST, port)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.close()


def configuration(folder: Path, target_port: int) -> Path:
    """Everything an operator would write, for many targets; limits wide open, since they are not what is measured."""
    (folder / "runbooks").mkdir()
    (folder / "runbooks" / "bench.yaml").write_text(
        json.dumps(
            [
                {
                    "name": "fix",
                    "class": "bench",
                    "match": {"alertname": "Bench"},
                    "candidates": [{"action": "http.call", "params": {"endpoint": "fix"}, "prior": 1.0}],
                }
            ]
        )
    )
    base = f"http://{HOST}:{target_port}"
    config = {
        "server": {"port": 0},
        "store": {"url": f"sqlite:///{folder / 'bench.db'}"},
        "autonomy": {"default": "auto"},
        "policy": {"noise_scale": 0.01},
        "guard": {
            "rate_per_action": 10**6,
            "rate_per_service": 10**6,
            "storm": {"reversible_only_at": 10**6, "stop_at": 10**6},
        },
        "workers": {"count": 64},
        "telemetry": {"level": "warning"},
        "backends": {
            "http": {
                "endpoints": {
                    "fix": {
                        "url": "/fix",
                        "idempotent": True,
                        "verify": {"url": "/status", "assertion": "ok"},
                    }
                }
            },
            "escalate": {"file": str(folder / "pages.jsonl")},
        },
        "targets": [
            {
                "name": f"t{number}",
                "kind": "http_endpoint",
                "service": f"t{number}",
                "settle_seconds": 0,
                "address": {"url": f"{base}/{number}"},
            }
            for number in range(TARGETS)
        ],
    }
    file = folder / "oncall-agent.yaml"
    file.write_text(json.dumps(config))
    return file


def alert(number: int) -> bytes:
    labels = {
        "alertname": "Bench",
        "service": f"t{number % TARGETS}",
        "severity": "critical",
        "run": str(number),
    }
    one = {
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": "bench"},
        "startsAt": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": f"{number:016x}",
    }
    return json.dumps(
        {"version": "4", "status": "firing", "receiver": "b", "groupKey": "{}", "alerts": [one]}
    ).encode()


async def post(port: int, first: int, count: int, rate: float) -> list[float]:
    """Post alerts at a steady rate; gives when each was sent."""
    loop = asyncio.get_running_loop()
    sent = [0.0] * count
    begun = loop.time()

    async def work(lane: int) -> None:
        _, connection = await loop.create_connection(Connection, HOST, port)
        for number in range(lane, count, 16):
            due = begun + number / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            sent[number] = time.time()
            status = await connection.ask(framed("/webhooks/alertmanager", alert(first + number)))
            if status != 202:
                raise SystemExit(f"status {status}")
        connection.close()

    await asyncio.gather(*(work(lane) for lane in range(16)))
    return sent


def read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def terms(port: int) -> dict[str, Any]:
    found: dict[str, Any] = read(f"http://{HOST}:{port}/api/v1/conservation")
    return found


def wait_until_done(port: int, resolved: int, seconds: float) -> tuple[float, dict[str, Any]]:
    begun = time.monotonic()
    while True:
        now = terms(port)
        if now["resolved"] >= resolved or time.monotonic() - begun > seconds:
            return time.monotonic() - begun, now
        time.sleep(0.02)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(seconds: float) -> int:
    target_port = free_port()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name:
        file = configuration(Path(name), target_port)
        target = subprocess.Popen([sys.executable, __file__, "target", str(target_port)])
        daemon = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "oncall_agent",
                "run",
                "--config",
                str(file),
                "--port",
                str(port := free_port()),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            listening(target_port)
            listening(port)
            return run(port, target_port, daemon.pid, seconds)
        finally:
            daemon.terminate()
            daemon.wait(40)
            target.terminate()
            target.wait(10)


def run(port: int, target_port: int, daemon: int, seconds: float) -> int:
    echo = echo_rate(2.0)
    asyncio.run(post(port, 0, 50, 50))  # warm: imports, connections, compiled statements
    wait_until_done(port, 50, 20)
    slow = int(LATENCY_RATE * min(seconds, 8))
    sent = asyncio.run(post(port, 50, slow, LATENCY_RATE))
    wait_until_done(port, 50 + slow, 30)
    times = read(f"http://{HOST}:{target_port}/times")
    path = latencies(times, sent)
    count = int(FLOW_RATE * min(seconds, (TARGETS - 50 - slow) / FLOW_RATE))
    used = cpu_seconds(daemon)
    begun = time.monotonic()
    asyncio.run(post(port, 50 + slow, count, FLOW_RATE))
    posted = time.monotonic() - begun
    behind, balance = wait_until_done(port, 50 + slow + count, 60)
    used = cpu_seconds(daemon) - used
    twice = sum(len(done) > 1 for done in read(f"http://{HOST}:{target_port}/times").values())
    return report(echo, path, count, posted, behind, used, balance, 50 + slow + count, twice)


def latencies(times: dict[str, list[float]], sent: list[float]) -> list[float]:
    return sorted(1000 * (times[str((50 + number) % TARGETS)][0] - at) for number, at in enumerate(sent))


def report(
    echo: float,
    path: list[float],
    count: int,
    posted: float,
    behind: float,
    used: float,
    balance: dict[str, Any],
    expected: int,
    twice: int,
) -> int:
    rate = count / (posted + behind)
    p50, p99 = statistics.median(path), path[int(0.99 * len(path))]
    resolved = balance["resolved"]
    rows = (
        ("bare echo, requests/s (the machine's limit)", f"{echo:,.0f}", "", True),
        (
            f"webhook to executor p50 at {LATENCY_RATE}/s, ms",
            f"{p50:.1f}",
            f"< {LATENCY_P50_MS:g}",
            p50 < LATENCY_P50_MS,
        ),
        (
            f"webhook to executor p99 at {LATENCY_RATE}/s, ms",
            f"{p99:.1f}",
            f"< {LATENCY_P99_MS:g}",
            p99 < LATENCY_P99_MS,
        ),
        (
            "incidents/s, webhook to terminal state",
            f"{rate:.0f}",
            f">= {FLOW_RATE * 0.97:.0f}",
            rate >= FLOW_RATE * 0.97,
        ),
        ("seconds behind when the last was posted", f"{behind:.2f}", "", True),
        ("daemon CPU per incident, ms", f"{1000 * used / count:.2f}", "", True),
        ("incidents resolved", f"{resolved:,}", f"{expected:,}", resolved == expected),
        ("effects beyond one per incident", str(twice), "0", twice == 0),
        ("conservation", "balanced" if balance["balanced"] else "BROKEN", "balanced", balance["balanced"]),
    )
    for text, value, bar, good in rows:
        print(f"{text:<46} {value:>12}  {bar:>10}  {'' if not bar else 'ok' if good else 'MISSED'}")
    return 0 if all(good for *_, good in rows) else 1


def main() -> int:
    if sys.argv[1:2] == ["target"]:
        import uvloop

        uvloop.run(serve_target(int(sys.argv[2])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=8.0)
    return measure(parser.parse_args().seconds)


if __name__ == "__main__":
    sys.exit(main())
