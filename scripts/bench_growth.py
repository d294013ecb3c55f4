"""What grows with the number of stored incidents, and what does not: start, memory, lists, cost per incident.

The daemon as an operator runs it, on SQLite. Start, memory and lists are measured with the configuration that is shipped
(shadow, every backend switched on), on an empty database, on one with many final incidents and on one with many open
ones. The cost per incident is that of the whole flow with an HTTP action, of two daemons in turn: one has handled little
before, the other has a long past. The past is made of incidents that a daemon handled for real, see filled.py.

    python scripts/bench_growth.py [--stored 100000] [--past 1000000] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import fleet
import running
import uvloop
from figures import Figure, below, echo, equal, finish, options_of
from filled import fill_open, fill_past
from load import Load, asking, drive, driving, echo_rate

SHIPPED = Path(__file__).resolve().parent.parent / "config"
FEW = 1_000
TARGETS = FEW  # so that each has a past: the attempts of each copy were on the same targets
STARTS = 3
IDLE_SECONDS = 10.0
ROUNDS, PER_ROUND = 5, 500
LIST_RATE, ALERT_RATE, STREAMS = 100, 5, 4
FILTERS = (
    "",
    "limit=200",
    "state=open",
    "state=final",
    "state=queued",
    "state=resolved",
    "state=escalated",
    "class=bench",
    "target=t77",
    "target=unheard-of",
    "state=open&class=bench",
    "state=resolved&target=t77",
)
BAR_EMPTY_SECONDS, BAR_FULL_SECONDS = 2.0, 5.0
BAR_IDLE_MB, BAR_STORED_MB = 130.0, 300.0
BAR_LIST_MS = 100.0
BAR_RATIO = 1.2


# --- databases -------------------------------------------------------------------------------------------


def seed(folder: Path, targets: int) -> Path:
    """Let a daemon handle some incidents for real; gives its configuration file."""
    folder.mkdir()
    file = fleet.configure(folder, targets, TARGETS)
    with running.daemon(file) as daemon:
        drive(daemon.port, fleet.alerts(0, FEW, TARGETS))
        daemon.wait_until_done()
    return file


def shipped(folder: Path, database: Path | None = None) -> Path:
    """Give the configuration that is shipped, beside a copy of a database."""
    shutil.copytree(SHIPPED, folder)
    if database is not None:
        shutil.copy(database, folder / "oncall-agent.db")
    return folder / "oncall-agent.yaml"


# --- start and memory ------------------------------------------------------------------------------------


def start_seconds(file: Path) -> float:
    """Give the median of a few starts, from the process's birth to the first 200 of /readyz."""
    taken = []
    for _ in range(STARTS):
        with running.daemon(file) as daemon:
            taken.append(daemon.seconds_to_ready)
    return statistics.median(taken)


def empty(folder: Path) -> list[Figure]:
    file = shipped(folder)
    start_seconds(file)  # compiles what was never imported here
    seconds = start_seconds(file)
    with running.daemon(file) as daemon:
        time.sleep(IDLE_SECONDS)
        memory = daemon.memory
    return [
        below("start to ready, nothing stored, s", seconds, BAR_EMPTY_SECONDS, digits=2),
        below(f"resident memory, idle for {IDLE_SECONDS:g} s, MB", memory.rss, BAR_IDLE_MB, digits=0),
        Figure("  proportional share (PSS), MB", f"{memory.pss:.0f}"),
    ]


# --- traffic ---------------------------------------------------------------------------------------------


def spread_ids(database: Path, count: int) -> list[str]:
    """Give ids of incidents from the newest to the oldest, evenly."""
    connection = sqlite3.connect(database)
    (number,) = connection.execute("SELECT count(*) FROM incidents").fetchone()
    sql = "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id DESC) AS place FROM incidents) WHERE place % ? = 0"
    found = [row[0] for row in connection.execute(sql, (max(1, number // count),))]
    connection.close()
    return found


def lists(ids: list[str]) -> Iterator[bytes]:
    """Ask for lists of all kinds, again and again: first pages and deep ones, with filters and without."""
    for number in itertools.count():
        asked = FILTERS[number % len(FILTERS)]
        cursor = f"&cursor={ids[number * 7919 % len(ids)]}" if number // len(FILTERS) % 2 else ""
        yield asking(f"/api/v1/incidents?{asked}{cursor}".replace("?&", "?"))


def details(ids: list[str]) -> Iterator[bytes]:
    """Ask for one incident after the other, and for the pages that people look at."""
    for number in itertools.count():
        if number % 10 == 0:
            yield asking("/" if number % 20 else "/api/v1/attempts")
        else:
            yield asking(f"/api/v1/incidents/{ids[number * 7919 % len(ids)]}")


async def watch(port: int) -> None:
    """Read what changes until cancelled."""
    reader, writer = await asyncio.open_connection(running.HOST, port)
    writer.write(asking("/api/v1/stream"))
    try:
        while await reader.read(65_536):
            pass
    finally:
        writer.close()


@dataclass(frozen=True)
class Traffic:
    """What people and machines asked at the same time."""

    lists: Load
    others: Load
    alerts: Load

    @property
    def bad(self) -> int:
        return self.lists.bad + self.others.bad + self.alerts.bad


async def traffic(port: int, ids: list[str], seconds: float, first: int) -> Traffic:
    """Lists, single incidents, open streams and new alerts together."""
    streams = [asyncio.create_task(watch(port)) for _ in range(STREAMS)]
    alerts = fleet.alerts(first, 10**9, TARGETS)
    loads = await asyncio.gather(
        driving(port, lists(ids), seconds=seconds, rate=LIST_RATE),
        driving(port, details(ids), seconds=seconds, rate=LIST_RATE / 2),
        driving(port, alerts, seconds=seconds, rate=ALERT_RATE),
    )
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return Traffic(*loads)


def _listed(words: str, load: Load) -> list[Figure]:
    return [
        Figure(f"  p50 of lists, {words}, ms", f"{load.within_ms(0.5):.1f}"),
        below(f"  p99 of lists, {words}, ms", load.within_ms(0.99), BAR_LIST_MS),
    ]


# --- many stored -----------------------------------------------------------------------------------------


def many_final(folder: Path, database: Path, stored: int, seconds: float) -> list[Figure]:
    file = shipped(folder, database)
    fill_past(folder / "oncall-agent.db", stored - FEW)
    ids = spread_ids(folder / "oncall-agent.db", 1_000)
    started = start_seconds(file)
    with running.daemon(file) as daemon:
        found = uvloop.run(traffic(daemon.port, ids, seconds, 10**7))
        memory = daemon.memory
        balance = daemon.read("/api/v1/conservation")
    asked = found.lists.requests + found.others.requests
    return [
        Figure(f"with {stored:,} final incidents: start to ready, s", f"{started:.2f}"),
        below(f"  resident memory after {asked:,} reads, MB", memory.rss, BAR_STORED_MB, digits=0),
        Figure("  proportional share (PSS), MB", f"{memory.pss:.0f}"),
        *_listed(f"{LIST_RATE}/s beside other traffic", found.lists),
        equal("  requests that failed", found.bad, 0),
        equal("  conservation", "balanced" if balance["balanced"] else "BROKEN", "balanced"),
    ]


def many_open(folder: Path, database: Path, stored: int, seconds: float) -> list[Figure]:
    file = shipped(folder, database)
    fill_open(folder / "oncall-agent.db", stored)
    ids = spread_ids(folder / "oncall-agent.db", 1_000)
    started = start_seconds(file)
    with running.daemon(file) as daemon:
        handling = drive(daemon.port, lists(ids), seconds=seconds / 2, rate=LIST_RATE)
        daemon.drain(draining=True)
        at_rest = drive(daemon.port, lists(ids), seconds=seconds / 2, rate=LIST_RATE)
        memory = daemon.memory
        left = daemon.read("/api/v1/conservation")["open"]
    return [
        below(f"with {stored:,} open incidents: start to ready, s", started, BAR_FULL_SECONDS, digits=2),
        below("  resident memory, MB", memory.rss, BAR_STORED_MB, digits=0),
        *_listed("while draining", at_rest),
        *_listed("while they are being handled", handling),
        Figure("  still open at the end", f"{left:,}"),
        equal("  requests that failed", handling.bad + at_rest.bad, 0),
    ]


# --- cost per incident -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Milliseconds per incident."""

    cpu: float
    wall: float


def cost(daemon: running.Daemon, first: int) -> Cost:
    """Post alerts as fast as they are taken, and wait until the last incident has ended."""
    used, begun = daemon.cpu_seconds, time.monotonic()
    drive(daemon.port, fleet.alerts(first, PER_ROUND, TARGETS))
    daemon.wait_until_done()
    wall = time.monotonic() - begun
    return Cost(1000 * (daemon.cpu_seconds - used) / PER_ROUND, 1000 * wall / PER_ROUND)


def growth(folder: Path, file: Path, targets: int, past: int) -> list[Figure]:
    long = folder / "long"
    shutil.copytree(file.parent, long)
    shutil.rmtree(long / "runbooks")
    (long / file.name).unlink()
    long_file = fleet.configure(long, targets, TARGETS)
    begun = time.monotonic()
    fill_past(long / fleet.DATABASE, past - FEW)
    filled = time.monotonic() - begun
    size = (long / fleet.DATABASE).stat().st_size / 1e9
    with ExitStack() as stack:
        daemons = [stack.enter_context(running.daemon(found)) for found in (file, long_file)]
        few, many = in_turn(daemons, targets)
        resident = daemons[1].memory.rss
        balance = daemons[1].read("/api/v1/conservation")
    return [
        Figure(f"{past:,} stored: filled in s, GB", f"{filled:.0f}, {size:.1f}"),
        *_compared("CPU", [found.cpu for found in few], [found.cpu for found in many], past),
        *_compared("wall", [found.wall for found in few], [found.wall for found in many], past),
        Figure(f"  resident memory with {past:,} stored, MB", f"{resident:.0f}"),
        equal("  conservation", "balanced" if balance["balanced"] else "BROKEN", "balanced"),
    ]


def in_turn(daemons: list[running.Daemon], targets: int) -> list[list[Cost]]:
    """Measure both again and again, so that a change of the machine's pace meets both; the first round warms."""
    found: list[list[Cost]] = [[] for _ in daemons]
    for turn in range(ROUNDS + 1):
        fleet.sicken(targets)
        for place, daemon in enumerate(daemons):
            measured = cost(daemon, 10**6 * (1 + place) + turn * PER_ROUND)
            if turn:
                found[place].append(measured)
    return found


def _compared(what: str, few: list[float], many: list[float], past: int) -> list[Figure]:
    low, high = statistics.median(few), statistics.median(many)
    return [
        Figure(f"  {what} per incident at {FEW:,} stored, ms", f"{low:.2f}"),
        Figure(f"  {what} per incident at {past:,} stored, ms", f"{high:.2f}"),
        Figure("    one to the other", f"{high / low:.2f}", f"<= {BAR_RATIO:g}", high / low <= BAR_RATIO),
    ]


# --- the run ---------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> list[Figure]:
    found = [echo(echo_rate(2.0))]
    with running.folder() as folder, fleet.serving_targets() as targets:
        found += empty(folder / "empty")
        file = seed(folder / "few", targets)
        database = file.parent / fleet.DATABASE
        found += many_final(folder / "final", database, options.stored, options.seconds)
        found += many_open(folder / "open", database, options.stored, options.seconds)
        found += growth(folder, file, targets, options.past)
    return found


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--stored", type=int, default=100_000)
    parser.add_argument("--past", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of traffic on each database")
    options = parser.parse_args()
    return finish(measure(options), options)


if __name__ == "__main__":
    sys.exit(main())
