"""Kill -9 at random moments under load, again and again: no alert vanishes, no action happens twice.

A daemon as an operator runs it, on SQLite; a sender that repeats until it gets 202, as Alertmanager does; a target that
counts every effect under its Idempotency-Key and answers repeats like any first call. After each kill the daemon is started
again on what it left. At the end every alert must be accounted for, and no attempt may have had more than one effect.

    python scripts/bench_crash.py [--kills 200] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from load import HOST, framed, free_port, listening

TARGETS = 300
RATE = 120.0
SENDERS = 8
_LONGEST_LIFE_SECONDS = 1.2


class Target(asyncio.Protocol):
    """Counts: POST /N/fix acts, GET /N/status tells, GET /effects gives the counts by key."""

    fixed: set[bytes] = set()
    effects: dict[str, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (head := self.received.find(b"\r\n\r\n")) >= 0:
            lines = self.received[:head].split(b"\r\n")
            fields = {
                key.lower(): value.strip() for key, _, value in (line.partition(b":") for line in lines[1:])
            }
            length = int(fields.get(b"content-length", b"0"))
            if len(self.received) < head + 4 + length:
                return
            self.received = self.received[head + 4 + length :]
            method, path = lines[0].split(b" ", 2)[:2]
            self.answer(method, path, fields.get(b"idempotency-key", b"").decode())

    def answer(self, method: bytes, path: bytes, key: str) -> None:
        name = path.split(b"/")[1]
        value: Any = {"ok": name in self.fixed}
        if method == b"POST":
            self.effects[key] = self.effects.get(key, 0) + 1
            self.fixed.add(name)
        elif path == b"/effects":
            value = self.effects
        elif path == b"/sicken":
            self.fixed.clear()
        body = json.dumps(value).encode()
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n" % len(body)
            + body
        )


async def serve_target(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Target, HOST, port)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.close()


def configuration(folder: Path, target_port: int) -> Path:
    runbook = {
        "name": "fix",
        "class": "crash",
        "match": {"alertname": "Crash"},
        "candidates": [{"action": "http.call", "params": {"endpoint": "fix"}, "prior": 1.0}],
    }
    config = {
        "store": {"url": f"sqlite:///{folder / 'crash.db'}"},
        "autonomy": {"default": "auto"},
        "grouping": {"labels": ["run"]},
        "guard": {
            "cooldown_seconds": {"http.call": 0},
            "rate_per_action": 10**6,
            "rate_per_service": 10**6,
            "storm": {"reversible_only_at": 10**6, "stop_at": 10**6},
        },
        "telemetry": {"level": "warning"},
        "paging": {"per_minute": 10_000},
        "workers": {"max_claims": 50},
        "backends": {
            "http": {
                "endpoints": {
                    "fix": {
                        "url": "/fix",
                        "verify": {"url": "/status", "assertion": "ok", "within_seconds": 0},
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
                "address": {"url": f"http://{HOST}:{target_port}/{number}"},
            }
            for number in range(TARGETS)
        ],
    }
    (folder / "runbooks").mkdir()
    (folder / "runbooks" / "crash.yaml").write_text(json.dumps([runbook]))
    file = folder / "oncall-agent.yaml"
    file.write_text(json.dumps(config))
    return file


def alert(number: int) -> bytes:
    one = {
        "status": "firing",
        "labels": {
            "alertname": "Crash",
            "service": f"t{number % TARGETS}",
            "severity": "critical",
            "run": str(number),
        },
        "annotations": {},
        "startsAt": "2026-11-21T07:15:42.883Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": f"{number:016x}",
    }
    return json.dumps(
        {"version": "4", "status": "firing", "receiver": "c", "groupKey": "{}", "alerts": [one]}
    ).encode()


class Sender:
    """Posts numbered alerts at a steady rate and repeats each until it is acknowledged."""

    def __init__(self, port: int) -> None:
        self.port, self.number, self.acknowledged, self.repeats, self.stopping = port, 0, 0, 0, False

    async def run(self) -> None:
        await asyncio.gather(*(self._lane() for _ in range(SENDERS)))

    async def _lane(self) -> None:
        while not self.stopping:
            self.number += 1
            request = framed("/webhooks/alertmanager", alert(self.number))
            while not await self._send(request):
                self.repeats += 1
                await asyncio.sleep(0.02)
            self.acknowledged += 1
            await asyncio.sleep(SENDERS / RATE)

    async def _send(self, request: bytes) -> bool:
        try:
            async with asyncio.timeout(3.0):
                reader, writer = await asyncio.open_connection(HOST, self.port)
                try:
                    writer.write(request)
                    return (await reader.readline()).startswith(b"HTTP/1.1 202")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False


def start(file: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "oncall_agent", "run", "--config", str(file), "--port", str(port)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


async def torment(file: Path, port: int, kills: int, rng: random.Random) -> tuple[Sender, int]:
    """Run, kill, start again; a random life after it serves, and sometimes already while it starts."""
    sender = Sender(port)
    daemon = start(file, port)
    await asyncio.to_thread(listening, port)
    sending = asyncio.create_task(sender.run())
    early = 0
    for done in range(kills):
        await asyncio.sleep(rng.uniform(0.0, _LONGEST_LIFE_SECONDS))
        daemon.kill()
        daemon.wait()
        daemon = start(file, port)
        if rng.random() < 0.1:
            early += 1
            await asyncio.sleep(rng.uniform(0.0, 0.8))
        else:
            await asyncio.to_thread(listening, port)
        if (done + 1) % 20 == 0:
            print(
                f"{done + 1} kills, {sender.acknowledged} acknowledged, {sender.repeats} repeats", flush=True
            )
    await asyncio.to_thread(listening, port)
    sender.stopping = True
    await sending
    file.with_suffix(".pid").write_text(str(daemon.pid))
    return sender, early


def settle(port: int, seconds: float) -> dict[str, Any]:
    """Wait until nothing is open."""
    end = time.monotonic() + seconds
    while True:
        balance: dict[str, Any] = read(f"http://{HOST}:{port}/api/v1/conservation")
        if balance["open"] == 0 or time.monotonic() > end:
            return balance
        time.sleep(0.1)


def measure(kills: int, seed: int) -> int:
    port, target_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name:
        file = configuration(Path(name), target_port)
        target = subprocess.Popen([sys.executable, __file__, "target", str(target_port)])
        try:
            listening(target_port)
            sender, early = asyncio.run(torment(file, port, kills, random.Random(seed)))
            balance = settle(port, 120)
            effects = read(f"http://{HOST}:{target_port}/effects")
            audit = read(f"http://{HOST}:{port}/api/v1/audit/verify")
            return report(sender, early, kills, balance, effects, audit)
        finally:
            pid = file.with_suffix(".pid")
            if pid.exists():
                os.kill(int(pid.read_text()), signal.SIGTERM)
            target.terminate()
            target.wait(10)


def report(
    sender: Sender,
    early: int,
    kills: int,
    balance: dict[str, Any],
    effects: dict[str, int],
    audit: dict[str, Any],
) -> int:
    suppressed = sum(balance["suppressed"].values())
    kept = sum(balance[term] for term in ("open", "resolved", "escalated", "dead_lettered"))
    twice = {key: count for key, count in effects.items() if count > 1 or not key}
    rows = (
        ("kills (while starting)", f"{kills} ({early})", "", True),
        ("alerts acknowledged with 202", f"{sender.acknowledged:,}", "", sender.acknowledged > 0),
        ("posts that had to be repeated", f"{sender.repeats:,}", "", True),
        ("alerts in incidents", f"{kept:,}", f"{sender.acknowledged:,}", kept == sender.acknowledged),
        ("still open", str(balance["open"]), "0", balance["open"] == 0),
        (
            "resolved / escalated",
            f"{balance['resolved']:,} / {balance['escalated']:,}",
            "",
            balance["resolved"] > 0,
        ),
        ("duplicates told apart", str(suppressed), "", True),
        ("conservation", "balanced" if balance["balanced"] else "BROKEN", "balanced", balance["balanced"]),
        ("attempts that had an effect", f"{len(effects):,}", "", len(effects) > 0),
        ("attempts with more than one effect", str(len(twice)), "0", not twice),
        ("audit log", "whole" if audit["ok"] else "BROKEN", "whole", audit["ok"]),
    )
    for text, value, bar, good in rows:
        print(f"{text:<38} {value:>16}  {bar:>10}  {'' if not bar else 'ok' if good else 'MISSED'}")
    return 0 if all(good for *_, good in rows) else 1


def main() -> int:
    if sys.argv[1:2] == ["target"]:
        import uvloop

        uvloop.run(serve_target(int(sys.argv[2])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    return measure(arguments.kills, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
