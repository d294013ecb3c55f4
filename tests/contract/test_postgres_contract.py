"""Every postgres action goes through the contract test, on a real server with the least-privilege role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from scenes.postgres import PASSWORD, World, world

from actions.postgres_backends import CancelQuery, TerminateBackend
from actions.postgres_parameters import SetParam
from actions.postgres_reap import ReapIdle
from actions.postgres_slots import DropInactiveSlot
from actions.postgres_upkeep import VacuumAnalyze
from oncall_agent.contract import Executor, SystemClock
from oncall_agent.testing import Fault, FaultyProxy, Harness, Upstream, check_executor

FAST = {"hold_seconds": 0.1, "within_seconds": 1.0}
SLEEP = "SELECT pg_sleep(600)"


@dataclass
class Sick:
    """How one action's fault is made, and what is counted and compared."""

    kind: type[Executor]
    params: dict[str, Any]
    make: Callable[[World], Awaitable[None]]
    effects: Callable[[World], Awaitable[int]]
    snapshot: Callable[[World], Awaitable[Any]]


async def cancelled(db: World) -> int:
    await asyncio.sleep(0)
    return sum(one.done() for one in db.running)


async def ended(db: World) -> int:
    # The server tells the client in its own time.
    await asyncio.sleep(0.01)
    return sum(one.is_closed() for one in db.opened)


async def rounds(db: World) -> int:
    """One execution ends several connections: count the times that some were ended."""
    counts: list[int] = db.__dict__.setdefault("counts", [0])
    if (count := await ended(db)) > counts[-1]:
        counts.append(count)
    return len(counts)


async def sessions(db: World) -> Any:
    return await db.count("usename = $1 AND state <> 'idle'", db.app)


async def runaway(db: World) -> None:
    if not await db.count("query = $1 AND state = 'active'", SLEEP):
        await db.busy(SLEEP)


async def forgotten(db: World) -> None:
    if not await db.count("state = 'idle in transaction'"):
        await db.session("BEGIN", "SELECT 1")
        await db.aged("idle in transaction")


async def full(db: World) -> None:
    while await db.count("usename = $1", db.app) < 8:
        await db.session()
    await db.aged("idle", count=8)


async def dead(db: World) -> None:
    made = "CREATE TABLE IF NOT EXISTS stock (n int) WITH (autovacuum_enabled = false)"
    filled = "INSERT INTO stock SELECT generate_series(1, 1000)"
    await (await db.session(made, filled, "DELETE FROM stock")).close()
    db.opened.pop()
    await db.until(lambda: db.admin.fetchval("SELECT pg_stat_get_dead_tuples('stock'::regclass) >= 1000"))


async def vacuumed(db: World) -> int:
    found = await db.admin.fetchval("SELECT pg_stat_get_vacuum_count(to_regclass('stock'))")
    return int(found or 0)


async def parameter(db: World) -> None:
    await db.admin.execute("ALTER SYSTEM RESET maintenance_work_mem")
    await db.admin.fetchval("SELECT pg_reload_conf()")

    async def is_back() -> bool:
        return await setting(db) == ("65536", "default")

    await db.until(is_back)


async def setting(db: World) -> Any:
    fresh = await db.session()
    row = await fresh.fetchrow("SELECT setting, source FROM pg_settings WHERE name = 'maintenance_work_mem'")
    await fresh.close()
    return tuple(row)


async def reloads(db: World) -> int:
    # How often the server wrote its own file: each change gives the file a new time.
    text = "SELECT pg_stat_file('postgresql.auto.conf') AS file"
    found = str(await db.admin.fetchval(text))
    seen: list[str] = db.__dict__.setdefault("seen", [])
    if found not in seen:
        seen.append(found)
    return len(seen)


async def slot(db: World) -> None:
    name = f"oncall_drill_{db.database[-8:]}"
    if not await slots(db):
        await db.admin.execute(f"SELECT pg_create_physical_replication_slot('{name}', true)")
    for _ in range(40):
        await db.admin.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 65536))")


async def slots(db: World) -> Any:
    text = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1"
    return await db.admin.fetchval(text, f"oncall_drill_{db.database[-8:]}")


async def dropped(db: World) -> int:
    there = await slots(db)
    was = db.__dict__.setdefault("was", 0)
    db.__dict__["dropped"] = db.__dict__.get("dropped", 0) + (1 if was and not there else 0)
    db.__dict__["was"] = there
    return int(db.__dict__["dropped"])


def cases(db: World) -> dict[str, Sick]:
    young = {"min_seconds": 0.1, "max_n": 20}
    reaping = {"applications": ("shop",), "full_share": 0.1, "target_share": 0.08, "min_idle": 0}
    slot_params = {"slot": f"oncall_drill_{db.database[-8:]}", "min_seconds": 0, "min_bytes": 1}
    value = {"name": "maintenance_work_mem", "value": 32_768}
    return {
        "cancel": Sick(CancelQuery, young, runaway, cancelled, sessions),
        "terminate": Sick(TerminateBackend, young, forgotten, ended, sessions),
        "reap": Sick(ReapIdle, {**young, **reaping, "max_n": 50}, full, rounds, sessions),
        "vacuum": Sick(
            VacuumAnalyze, {"table": "public.stock", "min_dead_rows": 1000}, dead, vacuumed, vacuumed
        ),
        "set_param": Sick(SetParam, value, parameter, reloads, setting),
        "drop_slot": Sick(DropInactiveSlot, {**slot_params, "within_seconds": 2}, slot, dropped, slots),
    }


@pytest.fixture
async def db(own_cluster, monkeypatch) -> AsyncIterator[World]:
    """A server of this test's own: connections, parameters and slots belong to all of it."""
    cluster = own_cluster(max_connections="60")
    async with world(cluster.url, "postgres", monkeypatch) as made:
        yield made


@pytest.mark.parametrize("name", ["cancel", "terminate", "reap", "vacuum", "set_param", "drop_slot"])
async def test_the_contract(db: World, name: str) -> None:
    sick = cases(db)[name]
    async with FaultyProxy(Upstream(port=db.port)) as proxy:

        async def make_sick() -> None:
            await sick.make(db)
            await sick.effects(db)

        harness = Harness(
            factory=lambda: sick.kind(db.settings(port=proxy.port)),
            target=db.target,
            make_sick=make_sick,
            count_effects=lambda: sick.effects(db),
            snapshot=lambda: sick.snapshot(db),
            hang=lambda: proxy.become(Fault.BLACK_HOLE),
            release=lambda: proxy.become(Fault.NONE),
            secret=PASSWORD,
            params={**FAST, **sick.params},
            clock=SystemClock(),
        )
        scorecard = await check_executor(harness)
    assert scorecard.ok, scorecard
