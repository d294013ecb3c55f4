"""Many targets behind one small server, the configuration of a daemon that looks after them, and their alerts.

    python scripts/fleet.py PORT

The server counts and times every effect, and answers repeats like any first call: it would show an action that
was done twice.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from load import framed
from running import HOST, free_port, read, serving, started

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_MANY = 10**6
DATABASE = "bench.db"


# --- the server ------------------------------------------------------------------------------------------


class Targets(asyncio.Protocol):
    """POST /N/fix acts, GET /N/status tells, /times and /effects give what was done, /sicken undoes it.

    Parsed and answered by hand, so that the targets cost little beside the daemon.
    """

    healthy: set[bytes] = set()
    times: dict[str, list[float]] = {}
    effects: dict[str, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            length = int(_field(head, b"content-length") or 0)
            if len(self.received) < end + 4 + length:
                return
            self.received = self.received[end + 4 + length :]
            self.transport.write(self.answer(head))

    def answer(self, head: bytes) -> bytes:
        method, path = head.split(b" ", 2)[:2]
        value: Any = {}
        if method == b"post":
            self.fix(path.split(b"/")[1], _field(head, b"idempotency-key").decode())
        elif path in (b"/times", b"/effects"):
            value = getattr(self, path[1:].decode())
        elif path == b"/sicken":
            self.healthy.clear()
        else:
            value = {"ok": path.split(b"/")[1] in self.healthy}
        body = json.dumps(value).encode()
        return _OK % len(body) + body

    def fix(self, name: bytes, key: str) -> None:
        self.healthy.add(name)
        self.times.setdefault(name.decode(), []).append(time.time())
        self.effects[key] = self.effects.get(key, 0) + 1


def _field(head: bytes, name: bytes) -> bytes:
    at = head.find(b"\r\n" + name + b":")
    return head[at + len(name) + 3 :].split(b"\r\n", 1)[0].strip() if at >= 0 else b""


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Targets, HOST, port)
    await serving()
    server.close()


@contextmanager
def serving_targets() -> Iterator[int]:
    """Run the targets until the block ends; gives their port."""
    port = free_port()
    with started(__file__, str(port), port=port):
        yield port


def sicken(port: int) -> None:
    """Make every target ill again."""
    read(port, "/sicken")


# --- what an operator writes -----------------------------------------------------------------------------


def configure(
    folder: Path,
    target_port: int,
    targets: int,
    *,
    idempotent: bool = True,
    within_seconds: float = 20.0,
    **changed: Any,
) -> Path:
    """Write the configuration of a daemon for so many targets.

    Limits are wide open, since they are not what is measured.

    Args:
        idempotent: whether the daemon may send a call again whose answer it did not get.
        within_seconds: how long it waits until a call has helped.
        changed: top-level parts in place of those written here.
    """
    runbook = {
        "name": "fix",
        "class": "bench",
        "match": {"alertname": "Bench"},
        "candidates": [{"action": "http.call", "params": {"endpoint": "fix"}, "prior": 1.0}],
    }
    verify = {"url": "/status", "assertion": "ok", "within_seconds": within_seconds}
    config = {
        "store": {"url": f"sqlite:///{folder / DATABASE}", "max_open_incidents": _MANY},
        "autonomy": {"default": "auto"},
        "policy": {"noise_scale": 0.01},
        "guard": {
            "cooldown_seconds": {"http.call": 0},
            "rate_per_action": _MANY,
            "rate_per_service": _MANY,
            "storm": {"reversible_only_at": _MANY, "stop_at": _MANY},
        },
        "paging": {"per_minute": 10_000},
        "workers": {"count": 64},
        "telemetry": {"level": "warning"},
        "backends": {
            "http": {"endpoints": {"fix": {"url": "/fix", "idempotent": idempotent, "verify": verify}}},
            "escalate": {"file": str(folder / "pages.jsonl")},
        },
        "targets": [_target(number, target_port) for number in range(targets)],
    }
    (folder / "runbooks").mkdir()
    (folder / "runbooks" / "bench.yaml").write_text(json.dumps([runbook]))
    file = folder / "oncall-agent.yaml"
    file.write_text(json.dumps(config | changed))
    return file


def _target(number: int, port: int) -> dict[str, Any]:
    return {
        "name": f"t{number}",
        "kind": "http_endpoint",
        "service": f"t{number}",
        "settle_seconds": 0,
        "address": {"url": f"http://{HOST}:{port}/{number}"},
    }


# --- their alerts ----------------------------------------------------------------------------------------


def alert(number: int, targets: int) -> bytes:
    """Give the webhook of one alert that is new, about one of the targets in turn."""
    labels = {
        "alertname": "Bench",
        "service": f"t{number % targets}",
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
    body = {"version": "4", "status": "firing", "receiver": "b", "groupKey": "{}", "alerts": [one]}
    return framed("/webhooks/alertmanager", json.dumps(body).encode())


def alerts(first: int, count: int, targets: int) -> Iterator[bytes]:
    """Give the webhooks of so many alerts, each made when it is sent."""
    return (alert(number, targets) for number in range(first, first + count))


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
