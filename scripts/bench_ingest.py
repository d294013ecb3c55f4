"""Durable ingest beside the machine's own echo limit, in one run.

A daemon as an operator runs it, on SQLite with `synchronous=FULL`, told to drain so that nothing but taking alerts in is
measured, and a bare aiohttp + uvloop JSON echo; both driven in turn by the same load generator over 32 keep-alive
connections, with bodies as Alertmanager sends them. Every alert is new and, but where it says otherwise, opens an
incident of its own, the dearest case. At the end the conservation equation says whether everything that was acknowledged is stored.

    python scripts/bench_ingest.py [--seconds 4] [--rounds 2]
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import running
from figures import Figure, at_least, below, echo, equal, finish, options_of
from load import Load, drive, echo_rate, framed

PACED_RATE = 2_000
BAR_RATIO = 0.5
BAR_P99_MS = 50.0
BAR_ALERTS = 15_000
_MOST_OPEN = 10_000_000

ALERT = json.dumps(
    {
        "status": "firing",
        "labels": {
            "alertname": "HighErrorRate",
            "cluster": "prod-eu",
            "instance": "10.0.0.1:SERVICE",
            "job": "checkout",
            "pod": "checkout-NUMBER",
            "service": "svc-SERVICE",
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
TEMPLATE = ALERT.replace(b"NUMBER", b"%(number)016x").replace(b"SERVICE", b"%(service)x")
"""Filled in and not dumped anew: the generator shares the machine and must not be its limit."""


def notification(numbers: Iterator[int], count: int, *, together: bool = False) -> bytes:
    """Give one Alertmanager body of new alerts: each an incident of its own, or all of one service and incident."""
    own = list(itertools.islice(numbers, count))
    services = [own[0]] * count if together else own
    alerts = (
        TEMPLATE % {b"number": one, b"service": service} for one, service in zip(own, services, strict=True)
    )
    all_alerts = b",".join(alerts)
    return (
        b'{"receiver":"oncall","status":"firing","alerts":['
        + all_alerts
        + b'],"version":"4","groupKey":"{}"}'
    )


def configure(folder: Path) -> Path:
    file = folder / "oncall-agent.yaml"
    store = {"url": f"sqlite:///{folder / 'bench.db'}", "max_open_incidents": _MOST_OPEN}
    file.write_text(json.dumps({"store": store, "telemetry": {"level": "warning"}}))
    return file


class Ingest:
    """Posts alerts to one daemon; counts those that were acknowledged."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port, self._seconds, self._numbers = port, seconds, itertools.count(1)
        self.acknowledged = 0

    def run(self, per_request: int, rate: float = 0.0, *, together: bool = False) -> Load:
        bodies = (notification(self._numbers, per_request, together=together) for _ in itertools.count())
        requests = (framed("/webhooks/alertmanager", body) for body in bodies)
        load = drive(self._port, requests, seconds=self._seconds, rate=rate)
        self.acknowledged += (load.requests - load.bad) * per_request
        return load


def measure(seconds: float, rounds: int) -> list[Figure]:
    limits: list[float] = []
    single: list[Load] = []
    sample = notification(itertools.count(), 1)
    with running.folder() as folder, running.daemon(configure(folder)) as daemon:
        daemon.drain(draining=True)
        ingest = Ingest(daemon.port, seconds)
        for _ in range(rounds):
            limits.append(echo_rate(seconds, sample))
            single.append(ingest.run(1))
        paced, grouped, many = ingest.run(1, PACED_RATE), ingest.run(10, together=True), ingest.run(10)
        balance = daemon.read("/api/v1/conservation")
    return [
        echo(mean(limits)),
        *_figures(mean(limits), single, paced),
        at_least("10 alerts of one service per request, alerts/s", 10 * grouped.rate, BAR_ALERTS),
        at_least("10 alerts of ten services per request, alerts/s", 10 * many.rate, BAR_ALERTS),
        equal("requests not answered 202", sum(load.bad for load in (*single, paced, grouped, many)), 0),
        equal("alerts stored, of those acknowledged", balance["accepted"], ingest.acknowledged),
        equal("conservation", "balanced" if balance["balanced"] else "BROKEN", "balanced"),
    ]


def _figures(limit: float, single: list[Load], paced: Load) -> list[Figure]:
    rate = mean(load.rate for load in single)
    return [
        Figure("durable ingest, 1 alert per request, requests/s", f"{rate:,.0f}"),
        at_least("  as a share of echo", rate / limit, BAR_RATIO, digits=2),
        Figure(f"  p50 at {PACED_RATE:,} requests/s, ms", f"{paced.within_ms(0.5):.1f}"),
        below(f"  p99 at {PACED_RATE:,} requests/s, ms", paced.within_ms(0.99), BAR_P99_MS),
        at_least(f"  reached of {PACED_RATE:,} requests/s", paced.rate, 0.95 * PACED_RATE),
    ]


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="echo and ingest are measured in turn so often")
    options = parser.parse_args()
    return finish(measure(options.seconds, options.rounds), options)


if __name__ == "__main__":
    sys.exit(main())
