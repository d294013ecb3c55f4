"""Figures of the store alone, to be run by hand: `python tests/store/bench_store.py [--rows 1000000]`."""
# ruff: noqa: T201, TID251 - a script run by hand

from __future__ import annotations

import argparse
import asyncio
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from oncall_agent.contract import SystemClock
from oncall_agent.models import (
    Alert,
    AlertStatus,
    Attempt,
    Autonomy,
    Candidate,
    Check,
    Decision,
    EndReason,
    IncidentState,
    Measurement,
    Mode,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Permitted,
    Phase,
    PlacedAlert,
    Receipt,
    Reward,
    Scored,
)
from oncall_agent.policy.base import PolicyUpdate
from oncall_agent.settings.model import StoreSettings
from oncall_agent.store import (
    BeginLimits,
    Change,
    Claimed,
    Finished,
    Move,
    Store,
    TimelineEntry,
    new_id,
)

_LABELS = {"alertname": "HighErrorRate", "service": "checkout", "severity": "warning", "cluster": "eu-1"}
_NOTES = {"summary": "error rate of checkout is above 5 %", "runbook": "https://runbooks.example/checkout"}


def placed(number: int, *, target: str | None = None, key: str | None = None) -> PlacedAlert:
    labels = {**_LABELS, "instance": f"host-{number}:9100"}
    alert = Alert(
        "alertmanager", f"{number:016x}", AlertStatus.FIRING, "HighErrorRate", labels, _NOTES, 1.7e9 + number
    )
    name = target or f"target-{number}"
    return PlacedAlert(alert, "error_rate", name, f"service-{number % 50}", key or f"{number:032x}")


def spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def opened(path: Path) -> Store:
    settings = StoreSettings(url=f"sqlite:///{path}", max_open_incidents=10_000_000)
    return await Store.open(settings, clock=SystemClock())


async def ingest(store: Store, *, per_request: int, seconds: float, merged: bool, callers: int = 32) -> None:
    clock = SystemClock()
    numbers = iter(range(10**8 * per_request + 10**7 * merged, 10**10))
    end, waits = time.perf_counter() + seconds, list[float]()

    async def caller() -> None:
        while (begun := time.perf_counter()) < end:
            batch = [
                placed(next(numbers), key=f"merged-{i % 100}" if merged else None) for i in range(per_request)
            ]
            await store.accept(batch, clock.now())
            waits.append(time.perf_counter() - begun)

    cpu, begun, commits = spent(), time.perf_counter(), (await store.stats()).committed
    await asyncio.gather(*(caller() for _ in range(callers)))
    took, used = time.perf_counter() - begun, spent() - cpu
    count = len(waits) * per_request
    waits.sort()
    print(
        f"accept {per_request:3d} per request, {'merged' if merged else 'all opened'}: {len(waits) / took:7.0f}"
        f" requests/s {count / took:7.0f} alerts/s  {used / count * 1e6:5.1f} us of CPU per alert"
        f"  p50 {waits[len(waits) // 2] * 1e3:.1f} ms p99 {waits[int(len(waits) * 0.99)] * 1e3:.1f} ms"
        f"  {(await store.stats()).committed - commits} commits"
    )


def _changes(claimed: Claimed, version: int, now: float) -> list[Change]:
    incident = claimed.incident
    candidates = [Candidate(f"app.action_{i}", incident.target, {"n": i}, 0.1, "runbook") for i in range(6)]
    decision = Decision(
        new_id(), now, Permitted(candidates[0], Autonomy.AUTO), 0.5, Mode.BALANCED, "linear", version, 7,
        tuple(i / 7 for i in range(40)), "schema", tuple(Scored(c, 0.1, 0.2, 0.16) for c in candidates), (),
        "because",
    )  # fmt: skip
    attempt = Attempt(
        new_id(), incident.id, decision.id, 1, "app.action_0", incident.target, incident.service, {"n": 0},
        new_id(), incident.fence, now,
    )  # fmt: skip
    before = Measurement(now, 40.0, healthy=False, detail={"http": {"status": 500}})
    receipt = Receipt("app.action_0", now, {"was": "x"})
    outcome = Outcome(
        OutcomeStatus.SUCCEEDED, OutcomeReason.VERIFIED, precheck=Check(ok=True), receipt=receipt,
        verification=Check(ok=True), timings={"execute": 0.01},
    )  # fmt: skip
    common = {"incident_id": incident.id, "fence": incident.fence, "at": now}
    return [
        Change(
            **common, decision=decision, context={"labels": dict(incident.labels)}, before=before, begin=attempt,
            limits=BeginLimits(300, 10**9, 10**9, 3600),
            timeline=(TimelineEntry("decision.made", {"action": "app.action_0"}), TimelineEntry("attempt.begun")),
            move=Move(IncidentState.RUNNING, Phase.ATTEMPTING, keep_lease=True),
        ),
        Change(**common, receipt=(attempt.id, receipt)),
        Change(
            **common,
            outcome=Finished(attempt.id, outcome, Reward(0.5, {"health": 0.5}), before, before),
            update=PolicyUpdate(version, "app.action_0", decision.features, 0.5, 0.1),
            timeline=(TimelineEntry("attempt.finished", {"status": "succeeded"}),),
            move=Move(IncidentState.RESOLVED, end_reason=EndReason.FIXED),
        ),
    ]  # fmt: skip


async def cycles(store: Store, count: int, *, start: int, workers: int = 16) -> float:
    """Drive incidents through accept, claim and three commits; give CPU seconds per incident."""
    clock = SystemClock()
    numbers, versions = iter(range(start, start + count)), iter(range(start, 10**10))
    done = 0

    async def worker(name: str) -> None:
        nonlocal done
        while done < count:
            number = next(numbers, None)
            if number is not None:
                await store.accept([placed(number)], clock.now())
            for claimed in await store.claim(name, limit=1, lease_seconds=30, now=clock.now()):
                for change in _changes(claimed, next(versions), clock.now()):
                    await store.commit(change)
                done += 1

    cpu, begun = spent(), time.perf_counter()
    await asyncio.gather(*(worker(f"w{i}") for i in range(workers)))
    took, used = time.perf_counter() - begun, spent() - cpu
    print(f"cycles: {count / took:6.0f} incidents/s, {used / count * 1e3:.3f} ms of CPU per incident")
    return used / count


def multiply(path: Path, rows: int) -> None:
    """Copy the one resolved incident of a database into `rows` of them, with everything that belongs to it."""
    connection = sqlite3.connect(path)
    connection.create_function("moved_id", 2, lambda text, n: f"{n:012x}{text[12:]}", deterministic=True)
    connection.execute("PRAGMA synchronous=OFF")
    number = f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n<{rows})"
    own = {"id": "moved_id(id, n)", "incident_id": "moved_id(incident_id, n)"}
    tables: dict[str, dict[str, str]] = {
        "incidents": {**own, "key": "printf('%032x', n * 2654435761)", "target": "'old-' || (n % 5000)",
                      "opened_at": "opened_at - 86400 * 30 + n", "closed_at": "opened_at - 86400 * 30 + n + 1"},
        "alerts": {**own, "signal": "printf('41%014x', n) || '|alertmanager|' || printf('%016x', n * 2654435761)"},
        "decisions": {**own},
        "attempts": {**own, "idempotency_key": "printf('%032x', n * 40503)", "target": "'old-' || (n % 5000)",
                     "started_at": "started_at - 86400 * 30 + n"},
        "timeline": {**own},
    }  # fmt: skip
    for table, changed in tables.items():
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        columns = [column for column in columns if column != "number" or table == "attempts"]
        values = ", ".join(changed.get(column, f'"{column}"') for column in columns)
        names = ", ".join(f'"{column}"' for column in columns)
        source = f"(SELECT * FROM {table} LIMIT 1)"
        connection.execute(f"INSERT INTO {table} ({names}) {number} SELECT {values} FROM {source}, n")
    connection.execute(
        "UPDATE counters SET value = value + ? WHERE name IN ('accepted', 'state.resolved')", (rows,)
    )
    connection.commit()
    connection.close()


async def timed(name: str, count: int, ask: Callable[[], object]) -> None:
    waits = []
    for _ in range(count):
        begun = time.perf_counter()
        await ask()  # type: ignore[misc]
        waits.append(time.perf_counter() - begun)
    waits.sort()
    print(f"{name}: p50 {statistics.median(waits) * 1e3:.2f} ms, p99 {waits[int(count * 0.99)] * 1e3:.2f} ms")


def resident() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


async def main(rows: int, seconds: float, folder: Path) -> None:
    store = await opened(folder / "ingest.db")
    print(f"resident after opening: {resident():.0f} MB")
    await ingest(store, per_request=1, seconds=seconds, merged=False)
    await ingest(store, per_request=1, seconds=seconds, merged=True)
    await ingest(store, per_request=10, seconds=seconds, merged=False)
    await ingest(store, per_request=10, seconds=seconds, merged=True)
    print((await store.conservation()).balanced, f"resident: {resident():.0f} MB")
    await store.close()

    path = folder / "growth.db"
    store = await opened(path)
    await cycles(store, 1_000, start=1)
    few = await cycles(store, 2_000, start=10_000)
    await store.close()
    multiply(path, rows)
    store = await opened(path)
    await cycles(store, 1_000, start=10_000_000)
    many = await cycles(store, 2_000, start=20_000_000)
    print(f"{rows} stored against 3,000: {many / few:.2f} times the CPU per incident")
    await timed(f"incidents() at {rows} stored", 200, lambda: store.incidents(limit=50))
    await timed("  state=open", 200, lambda: store.incidents("open", limit=50))
    await timed(
        "  state=resolved and a class", 200, lambda: store.incidents("resolved", "error_rate", limit=50)
    )
    await timed("  target", 200, lambda: store.incidents(target="old-77", limit=50))
    await timed("conservation()", 5, store.conservation)
    print(f"balanced: {(await store.conservation()).balanced}, resident: {resident():.0f} MB")
    await store.close()

    path = folder / "open.db"
    store = await opened(path)
    for start in range(0, 100_000, 2_000):
        await store.accept([placed(i) for i in range(start, start + 2_000)], time.time())
    await store.close()
    begun = time.perf_counter()
    store = await opened(path)
    await store.release_all(time.time())
    print(f"opening with 100,000 open: {(time.perf_counter() - begun) * 1e3:.0f} ms")
    await cycles(store, 1_000, start=100_000_000)
    await timed("incidents() at 100,000 open", 200, lambda: store.incidents("open", limit=100))
    print(f"resident: {resident():.0f} MB")
    await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        uvloop.run(main(options.rows, options.seconds, Path(name)))
