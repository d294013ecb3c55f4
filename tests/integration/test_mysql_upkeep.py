"""Replicas, variables and binary logs of a real MariaDB and a real MySQL: the fix, the undo, every refusal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backends.mariadb_server import MariaPair, Way
from scenes.mysql import World, healed, refusal, world
from scenes.mysql_replication import at_copy, status, stop_over_a_lock

from actions.mysql_binlogs import PurgeBinlogs
from actions.mysql_drills import WrongVariable
from actions.mysql_replica import RestartReplica
from actions.mysql_variables import SetGlobal
from oncall_agent.contract import ActionContext, Executor, PermanentError, Receipt, Target, TransientError


@pytest.fixture
def maria(mariadb: Way, monkeypatch) -> Iterator[World]:
    with world("mariadb", mariadb, monkeypatch) as made:
        yield made


@pytest.fixture
def pair(own_maria_pair: MariaPair, monkeypatch) -> Iterator[World]:
    """Replication and binary logs belong to whole servers: two of this test's own."""
    way, replica = own_maria_pair.source.way, own_maria_pair.replica.way
    with world("mariadb", way, monkeypatch, replica=replica) as made:
        made.until(lambda: replica.ask(f"SELECT 1 FROM mysql.user WHERE User = '{made.agent}'"))
        yield made


@pytest.fixture
def oracle(mysql_port: int, mysql_replica_port: int, monkeypatch) -> Iterator[World]:
    """The MySQL servers of all tests; only one test changes their replication."""
    replica = Way(mysql_replica_port)
    with world("mysql", Way(mysql_port), monkeypatch, replica=replica) as made:
        made.until(lambda: replica.ask(f"SELECT 1 FROM mysql.user WHERE User = '{made.agent}'"))
        yield made
        replica.ask("START REPLICA")


# --- variables ------------------------------------------------------------------------------------------


async def test_a_variable_is_set_and_taken_back(maria: World, monkeypatch, mysql_port: int) -> None:
    await set_and_taken_back(maria)
    with world("mysql", Way(mysql_port), monkeypatch) as made:
        await set_and_taken_back(made)


async def set_and_taken_back(db: World) -> None:
    def value() -> int:
        return int(db.way.ask("SELECT @@GLOBAL.max_connect_errors AS n")[0]["n"])

    before, ctx = value(), db.attempt(SetGlobal, name="max_connect_errors", value=500)
    async with SetGlobal(db.settings()) as executor:
        assert (await executor.precheck(ctx)).ok
        assert (await executor.execute(replace(ctx, dry_run=True))).planned
        assert value() == before
        receipt = await healed(executor, ctx)
        assert value() == 500
        assert "already" in await refusal(executor, ctx)
        for _ in range(2):
            assert (await executor.rollback(ctx, Receipt("", 0, receipt.facts, partial=True))).ok
    assert value() == before


async def test_set_heals_the_drill(maria: World) -> None:
    # The application may set nothing for the whole server: the agent's account stands in.
    agent = {"user": maria.agent, "password": "env:TEST_MYSQL_AGENT"}
    async with maria.drill(WrongVariable, **agent, variable="slow_launch_time", bad_value=9) as (
        drill,
        trial,
    ):
        async with SetGlobal(maria.settings()) as executor:
            await healed(executor, maria.on(trial, SetGlobal))
        assert (await drill.symptom(maria.drilling(), trial)).ok


async def test_variable_refusals(maria: World) -> None:
    allowed = {
        "max_connections": {"minimum": 5, "maximum": 500},
        "port": {"minimum": 1, "maximum": 9999},
        "no_such_variable": {"minimum": 1, "maximum": 2},
        "innodb_print_all_deadlocks": {"values": ["ON", "OFF"]},
    }
    async with SetGlobal(maria.settings(variables=allowed)) as executor:

        async def said(name: str, value: Any) -> str:
            return await refusal(executor, maria.attempt(SetGlobal, name=name, value=value))

        assert "not on the list" in await said("wait_timeout", 10)
        assert "knows no global variable" in await said("no_such_variable", 1)
        assert "while the server runs" in await said("port", 4000)
        assert "outside 10..500" in await said("max_connections", 5)
        assert "a number is needed" in await said("max_connections", "many")
        assert "not one of the values" in await said("innodb_print_all_deadlocks", "MAYBE")
        assert "lacks SUPER" in await said("innodb_print_all_deadlocks", "ON")
        with pytest.raises(PermanentError, match="outside"):
            await executor.execute(maria.attempt(SetGlobal, name="max_connections", value=5))
        ctx = maria.attempt(SetGlobal, name="max_connections", value=200)
        kept = replace(ctx, target=replace(ctx.target, protected=True))
        assert "protected" in await refusal(executor, kept)


async def test_verify_sees_a_variable_that_somebody_changed_back(maria: World) -> None:
    ctx = maria.attempt(SetGlobal, name="connect_timeout", value=33, within_seconds=0.5)
    async with SetGlobal(maria.settings()) as executor:
        receipt = await executor.execute(ctx)
        assert (await executor.rollback(ctx, receipt)).ok
        assert "not 33" in (await executor.verify(ctx, receipt)).reason


# --- the replica ----------------------------------------------------------------------------------------


def at_replica(db: World, kind: type[Executor] = RestartReplica, **params: Any) -> ActionContext:
    assert db.replica is not None
    ctx = db.attempt(kind, within_seconds=15.0, **params)
    return replace(ctx, target=Target("copy", "mysql_server", address={"port": db.replica.port}))


async def test_a_replica_that_stopped_over_a_lock_is_started_again(pair: World) -> None:
    holder = stop_over_a_lock(pair)
    ctx = at_replica(pair)
    async with RestartReplica(pair.settings()) as executor:
        planned = await executor.execute(replace(ctx, dry_run=True))
        assert planned.planned
        assert status(pair)["Replica_SQL_Running"] == "No"
        holder.close()
        receipt = await healed(executor, ctx)
        assert at_copy(pair, "SELECT m AS n FROM %s.stock") == 1
        assert (await executor.execute(ctx)).facts["already"]
        for _ in range(2):
            assert (await executor.rollback(ctx, Receipt("", 0, receipt.facts, partial=True))).ok
        assert status(pair)["Replica_SQL_Running"] == "No"
        assert status(pair)["Replica_IO_Running"] == "Yes"


async def test_replica_refusals(pair: World) -> None:
    assert pair.replica is not None
    ctx = at_replica(pair)
    async with RestartReplica(pair.settings()) as executor:
        assert "the replica runs" in await refusal(executor, ctx)
        assert "is no replica" in await refusal(executor, pair.attempt(RestartReplica))
        with pytest.raises(PermanentError, match="is no replica"):
            await executor.execute(pair.attempt(RestartReplica))
        assert (await executor.execute(ctx)).facts["already"]
        kept = replace(ctx, target=replace(ctx.target, protected=True))
        assert "protected" in await refusal(executor, kept)
        pair.replica.ask("STOP REPLICA")
        assert "somebody wanted that" in await refusal(executor, ctx)
        with pytest.raises(PermanentError, match="somebody wanted"):
            await executor.execute(ctx)
        assert "receiver No" in (await executor.verify(at_replica(pair), Receipt("", 0.0))).reason
        pair.replica.ask("SET GLOBAL sql_slave_skip_counter = 1")
        assert "skip 1 events" in await refusal(executor, ctx)
        pair.replica.ask("SET GLOBAL sql_slave_skip_counter = 0", "START REPLICA")
        # What stands there already can't be inserted: no retry makes that better.
        pair.session("CREATE TABLE orders (n INT PRIMARY KEY)")
        pair.until(
            lambda: at_copy(
                pair, "SELECT COUNT(*) AS n FROM information_schema.TABLES WHERE TABLE_SCHEMA = %r"
            )
        )
        pair.replica.ask(f"INSERT INTO {pair.database}.orders VALUES (1)")
        pair.session("INSERT INTO orders VALUES (1)")
        pair.until(lambda: status(pair)["Last_SQL_Errno"] == 1062)
        assert "error 1062 does not pass" in await refusal(executor, ctx)
        with pytest.raises(PermanentError, match="left to people"):
            await executor.execute(ctx)
        pair.way.ask(f"REVOKE REPLICATION SLAVE ADMIN ON *.* FROM {pair.agent}@'%'")
        pair.replica.ask(f"REVOKE REPLICATION SLAVE ADMIN ON *.* FROM {pair.agent}@'%'")
        assert "lacks REPLICATION SLAVE ADMIN" in await refusal(executor, ctx)


# --- binary logs ----------------------------------------------------------------------------------------


def filled(db: World, count: int = 5) -> list[str]:
    """Begin some more binary logs; wait until the replica has applied up to the newest; give their names."""
    for _ in range(count):
        db.way.ask("FLUSH BINARY LOGS")
    db.session(f"CREATE TABLE t{count} (n INT)")
    where = f"TABLE_NAME = 't{count}' AND TABLE_SCHEMA = '{db.database}'"
    db.until(lambda: db.replica and db.replica.ask(f"SELECT 1 FROM information_schema.TABLES WHERE {where}"))
    return names(db)


def names(db: World) -> list[str]:
    return [str(row["Log_name"]) for row in db.way.ask("SHOW BINARY LOGS")]


def purging(db: World, tmp_path: Path, backup: str, **changes: Any) -> dict[str, Any]:
    assert db.replica is not None
    position = tmp_path / "position"
    position.write_text(f"{backup}\t4711\n")
    own = {"replicas": [f"127.0.0.1:{db.replica.port}"], "backup_position_file": str(position)}
    return db.settings(**{**own, **changes})


async def test_binary_logs_go_up_to_what_is_needed(pair: World, tmp_path: Path) -> None:
    listed = filled(pair)
    ctx = pair.attempt(PurgeBinlogs, keep_files=2, min_bytes=1)
    async with PurgeBinlogs(purging(pair, tmp_path, listed[-3])) as executor:
        assert (await executor.execute(replace(ctx, dry_run=True))).planned
        assert names(pair) == listed
        receipt = await healed(executor, ctx)
        assert receipt.facts["plan"]["target"] == listed[-3]
        assert names(pair) == listed[-3:]
        assert (await executor.execute(ctx)).facts["already"]
    async with PurgeBinlogs(purging(pair, tmp_path, listed[-1])) as executor:
        # Now the files to keep decide.
        assert (await healed(executor, replace(ctx, idempotency_key="2"))).facts["plan"]["target"] == listed[
            -2
        ]
        older = Receipt("", 0.0, {"plan": {"target": listed[-1]}})
        soon = pair.attempt(PurgeBinlogs, keep_files=2, min_bytes=1, within_seconds=0.3)
        assert "still there" in (await executor.verify(soon, older)).reason


async def test_a_replica_that_is_behind_keeps_its_logs(pair: World, tmp_path: Path) -> None:
    assert pair.replica is not None
    applied = filled(pair, 2)[-1]
    pair.replica.ask("STOP REPLICA")
    for _ in range(3):
        pair.way.ask("FLUSH BINARY LOGS")
    async with PurgeBinlogs(purging(pair, tmp_path, names(pair)[-1])) as executor:
        ctx = pair.attempt(PurgeBinlogs, keep_files=1, min_bytes=1)
        await healed(executor, ctx)
        assert names(pair)[0] == applied


async def test_purge_refusals(pair: World, tmp_path: Path) -> None:
    assert pair.replica is not None
    listed = filled(pair)
    ctx = pair.attempt(PurgeBinlogs, keep_files=1, min_bytes=1)

    async def said(backup: str = listed[-1], *, at: ActionContext = ctx, **changes: Any) -> str:
        async with PurgeBinlogs(purging(pair, tmp_path, backup, **changes)) as executor:
            return await refusal(executor, at)

    assert "nothing is known of the newest backup" in await said(backup_position_file=str(tmp_path / "none"))
    assert "not among the binary logs" in await said("binlog.999999")
    assert "not named in backends.mysql.replicas" in await said(replicas=[])
    assert "is no replica of this server" in await said(
        replicas=[f"127.0.0.1:{pair.replica.port}", f"127.0.0.1:{pair.way.port}"]
    )
    assert "bytes would be freed" in await said(at=pair.attempt(PurgeBinlogs, keep_files=1))
    assert "bytes would be freed" in await said(at=pair.attempt(PurgeBinlogs, keep_files=99, min_bytes=1))
    assert "protected" in await said(at=replace(ctx, target=replace(ctx.target, protected=True)))
    with pytest.raises(TransientError):
        await said(replicas=["127.0.0.1:1"])
    async with PurgeBinlogs(purging(pair, tmp_path, "binlog.999999")) as executor:
        with pytest.raises(PermanentError, match="not among"):
            await executor.execute(ctx)
    assert names(pair) == listed
    pair.way.ask(f"REVOKE BINLOG ADMIN ON *.* FROM {pair.agent}@'%'")
    assert "lacks BINLOG ADMIN" in await said()


async def test_mysql_starts_its_replica_again_and_removes_its_logs(oracle: World, tmp_path: Path) -> None:
    holder, ctx = stop_over_a_lock(oracle), at_replica(oracle)
    async with RestartReplica(oracle.settings()) as executor:
        holder.close()
        receipt = await healed(executor, ctx)
        assert (await executor.rollback(ctx, receipt)).ok
        assert status(oracle)["Replica_SQL_Running"] == "No"
        assert oracle.replica is not None
        assert "somebody wanted that" in await refusal(executor, ctx)
        oracle.replica.ask("START REPLICA")
    listed = filled(oracle)
    async with PurgeBinlogs(purging(oracle, tmp_path, listed[-3])) as executor:
        await healed(executor, oracle.attempt(PurgeBinlogs, keep_files=2, min_bytes=1))
        assert names(oracle)[0] == listed[-3]
    async with PurgeBinlogs(purging(oracle, tmp_path, listed[-1], replicas=[])) as executor:
        assert "not named" in await refusal(executor, oracle.attempt(PurgeBinlogs, keep_files=1, min_bytes=1))
