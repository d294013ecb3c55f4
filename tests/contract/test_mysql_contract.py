"""Every mysql action goes through the contract test, on a real MariaDB with the least-privilege account."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backends.mariadb_server import MariaPair
from scenes.mysql import PASSWORD, SLEEP, World, world
from scenes.mysql_replication import status, stop_over_a_lock

from actions.mysql_binlogs import PurgeBinlogs
from actions.mysql_blockers import KillLockBlocker
from actions.mysql_connections import KillConnections
from actions.mysql_queries import KillQuery
from actions.mysql_replica import RestartReplica
from actions.mysql_variables import SetGlobal
from oncall_agent.contract import Executor, SystemClock, Target
from oncall_agent.testing import Fault, FaultyProxy, Harness, Upstream, check_executor
from oncall_agent.testing.harness import run_in_thread

FAST = {"hold_seconds": 0.1, "within_seconds": 3.0}


@dataclass
class Sick:
    """How one action's fault is made, and what is counted and compared."""

    kind: type[Executor]
    params: dict[str, Any]
    make: Callable[[World], None]
    effects: Callable[[World], int]
    snapshot: Callable[[World], Any]
    at_replica: bool = False


def connected(db: World) -> list[dict[str, Any]]:
    return db.shown(f"USER = '{db.app}'")


def runaway(db: World) -> None:
    if not any(row["INFO"] == SLEEP for row in connected(db)):
        db.__dict__.setdefault("busy_ones", []).append(db.busy(SLEEP))
    db.age()


def killed(db: World) -> int:
    running = {int(row["ID"]) for row in connected(db) if row["INFO"] == SLEEP}
    return sum(one.ended() != 0 for one in db.__dict__.get("busy_ones", ()) if one.id not in running)


def full(db: World) -> None:
    while len(connected(db)) < 8:
        db.session()
    db.age()


def reaped(db: World) -> int:
    """One execution ends several connections: count the times that there were fewer than before."""
    now, seen = len(connected(db)), db.__dict__.setdefault("seen", [0, 0])
    seen[1] += now < seen[0]
    seen[0] = now
    return int(seen[1])


def jammed(db: World) -> None:
    if not waiting(db):
        made = "CREATE OR REPLACE TABLE stock (n INT PRIMARY KEY)"
        db.session(made, "INSERT INTO stock VALUES (1)", "BEGIN", "SELECT n FROM stock FOR UPDATE")
        db.busy("SELECT n FROM stock FOR UPDATE")
    db.age()


def unblocked(db: World) -> int:
    now, seen = waiting(db), db.__dict__.setdefault("waited", [0, 0])
    seen[1] += now < seen[0]
    seen[0] = now
    return int(seen[1])


def waiting(db: World) -> int:
    return sum("FOR UPDATE" in str(row["INFO"]) for row in connected(db))


def set_back(db: World) -> None:
    db.way.ask("SET GLOBAL slow_launch_time = 2")
    was_set(db)


def variable(db: World) -> int:
    return int(db.way.ask("SELECT @@GLOBAL.slow_launch_time AS n")[0]["n"])


def was_set(db: World) -> int:
    now, seen = variable(db), db.__dict__.setdefault("values", [2, 0])
    seen[1] += now != seen[0] and now == 9
    seen[0] = now
    return int(seen[1])


def stopped(db: World) -> None:
    if status(db)["Last_SQL_Errno"] != 1205:
        assert db.replica is not None
        db.replica.ask("START REPLICA")
        stop_over_a_lock(db).close()
    started(db)


def runs(db: World) -> object:
    return status(db)["Replica_SQL_Running"]


def started(db: World) -> int:
    """How often the applier was found running after it had stood."""
    now, seen = status(db)["Replica_SQL_Running"], db.__dict__.setdefault("applier", ["Yes", 0])
    seen[1] += (seen[0], now) == ("No", "Yes")
    seen[0] = now
    return int(seen[1])


def grown(db: World) -> None:
    while len(logs(db)) < 5:
        db.way.ask("FLUSH BINARY LOGS")
    db.until(lambda: replica_log(db) == logs(db)[-1])
    purged(db)


def replica_log(db: World) -> object:
    assert db.replica is not None
    return db.replica.ask("SHOW REPLICA STATUS")[0]["Relay_Master_Log_File"]


def logs(db: World) -> list[str]:
    return [str(row["Log_name"]) for row in db.way.ask("SHOW BINARY LOGS")]


def purged(db: World) -> int:
    now, seen = logs(db)[0], db.__dict__.setdefault("oldest", ["", 0])
    seen[1] += bool(seen[0]) and now != seen[0]
    seen[0] = now
    return int(seen[1])


def cases(db: World, backup: Path) -> dict[str, Sick]:
    reaping = {"users": (db.app,), "full_share": 0.04, "target_share": 0.03, "min_idle": 0, "max_n": 50}
    settings = {"min_seconds": 0.1}
    backup.write_text(logs(db)[-1])
    return {
        "query": Sick(KillQuery, {**settings, "database": db.database}, runaway, killed, waiting),
        "connections": Sick(KillConnections, {**settings, **reaping}, full, reaped, waiting),
        "blocker": Sick(
            KillLockBlocker,
            {**settings, "database": db.database, "table": "stock"},
            jammed,
            unblocked,
            waiting,
        ),
        "replica": Sick(RestartReplica, {}, stopped, started, runs, at_replica=True),
        "variable": Sick(SetGlobal, {"name": "slow_launch_time", "value": 9}, set_back, was_set, variable),
        "binlogs": Sick(PurgeBinlogs, {"keep_files": 1, "min_bytes": 1}, grown, purged, logs),
    }


@pytest.fixture
def db(own_maria_pair: MariaPair, monkeypatch) -> Iterator[World]:
    """Servers of this test's own: connections, variables and binary logs belong to all of them."""
    source, replica = own_maria_pair.source.way, own_maria_pair.replica.way
    with world("mariadb", source, monkeypatch, replica=replica) as made:
        made.until(lambda: replica.ask(f"SELECT 1 FROM mysql.user WHERE User = '{made.agent}'"))
        yield made


@pytest.mark.parametrize("name", ["query", "connections", "blocker", "replica", "variable", "binlogs"])
async def test_the_contract(db: World, tmp_path: Path, name: str) -> None:
    backup = tmp_path / "position"
    sick = cases(db, backup)[name]
    assert db.replica is not None
    port = db.replica.port if sick.at_replica else db.way.port

    async def make_sick() -> None:
        await asyncio.to_thread(sick.make, db)
        backup.write_text(logs(db)[-1])
        await asyncio.to_thread(sick.effects, db)

    async with FaultyProxy(Upstream(port=port)) as proxy:
        own = {"replicas": [f"127.0.0.1:{db.replica.port}"], "backup_position_file": str(backup)}
        harness = Harness(
            factory=lambda: sick.kind(db.settings(port=proxy.port, **own)),
            target=Target("shop-db", "mysql_server", address={}),
            make_sick=make_sick,
            count_effects=lambda: asyncio.to_thread(sick.effects, db),
            snapshot=lambda: asyncio.to_thread(sick.snapshot, db),
            hang=lambda: proxy.become(Fault.BLACK_HOLE),
            release=lambda: proxy.become(Fault.NONE),
            secret=PASSWORD,
            params={**FAST, **sick.params},
            clock=SystemClock(),
            run_blocking=run_in_thread,
        )
        scorecard = await check_executor(harness)
    assert scorecard.ok, scorecard
