"""The whole flow under load: webhook to executor, and webhook to terminal state, with an HTTP action.

A daemon as an operator runs it (`oncall-agent run`, SQLite with `synchronous=FULL`, autonomy auto), a target server
that counts and times every effect, and a load generator, each in a process of its own on this machine. Every incident
has a target of its own. Beside the figures stands what a bare aiohttp echo reaches here in the same run.

    python scripts/bench_flow.py [--seconds 8]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import fleet
import running
from figures import Figure, at_least, below, echo, equal, finish, options_of
from load import drive, echo_rate, share

TARGETS = 4_000
WARM = 50
LATENCY_RATE, LATENCY_P50_MS, LATENCY_P99_MS = 100, 25.0, 100.0
FLOW_RATE = 300
_REACHED = 0.97  # of a rate: the last incident ends a little after the last alert


@dataclass(frozen=True)
class Flow:
    """What a run of the whole flow at a steady rate showed."""

    count: int
    posted_seconds: float
    behind_seconds: float
    cpu_seconds: float


def measure(seconds: float) -> list[Figure]:
    limit = echo_rate(2.0)
    with running.folder() as folder, fleet.serving_targets() as targets:
        file = fleet.configure(folder, targets, TARGETS)
        with running.daemon(file) as daemon:
            flow(daemon, 0, WARM, WARM)  # imports, connections, compiled statements
            slow = int(LATENCY_RATE * min(seconds, 8))
            sent = drive(daemon.port, fleet.alerts(WARM, slow, TARGETS), rate=LATENCY_RATE).sent
            daemon.wait_until_done()
            path = latencies(running.read(targets, "/times"), sent)
            count = int(min(FLOW_RATE * seconds, TARGETS - WARM - slow))
            found = flow(daemon, WARM + slow, count, FLOW_RATE)
            balance = daemon.read("/api/v1/conservation")
            times = running.read(targets, "/times")
    twice = sum(len(done) > 1 for done in times.values())
    return [
        echo(limit),
        *_figures(path, found, balance, WARM + slow + count),
        equal("effects beyond one", twice, 0),
    ]


def flow(daemon: running.Daemon, first: int, count: int, rate: float) -> Flow:
    """Post alerts at a rate and wait until all their incidents have ended."""
    used, begun = daemon.cpu_seconds, time.monotonic()
    load = drive(daemon.port, fleet.alerts(first, count, TARGETS), rate=rate)
    if load.bad:
        raise SystemExit(f"{load.bad} webhooks were refused")
    posted = time.monotonic() - begun
    daemon.wait_until_done()
    return Flow(count, posted, time.monotonic() - begun - posted, daemon.cpu_seconds - used)


def latencies(times: dict[str, list[float]], sent: list[float]) -> list[float]:
    """Give the milliseconds from webhook to effect, sorted."""
    return sorted(1000 * (times[str(WARM + number)][0] - at) for number, at in enumerate(sent))


def _figures(path: list[float], found: Flow, balance: dict[str, Any], expected: int) -> list[Figure]:
    rate = found.count / (found.posted_seconds + found.behind_seconds)
    return [
        below(f"webhook to executor p50 at {LATENCY_RATE}/s, ms", share(path, 0.5), LATENCY_P50_MS),
        below(f"webhook to executor p99 at {LATENCY_RATE}/s, ms", share(path, 0.99), LATENCY_P99_MS),
        at_least("incidents/s, webhook to terminal state", rate, FLOW_RATE * _REACHED),
        Figure("  seconds behind when the last was posted", f"{found.behind_seconds:.2f}"),
        Figure("  daemon CPU per incident, ms", f"{1000 * found.cpu_seconds / found.count:.2f}"),
        equal("incidents resolved", balance["resolved"], expected),
        equal("conservation", "balanced" if balance["balanced"] else "BROKEN", "balanced"),
    ]


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    return finish(measure(options.seconds), options)


if __name__ == "__main__":
    sys.exit(main())
