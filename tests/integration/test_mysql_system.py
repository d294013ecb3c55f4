"""MySQL as a system: inspection, least privilege, the prober, and what happens when the server goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
from backends.mariadb_server import ROOT_PASSWORD, Connection, Way
from scenes.mysql import ACTIONS, PASSWORD, SLEEP, World, grant, world

from actions.mysql_binlogs import PurgeBinlogs
from actions.mysql_blockers import KillLockBlocker
from actions.mysql_connections import KillConnections
from actions.mysql_drills import LockBlocker
from actions.mysql_probe import MySQLProber
from actions.mysql_queries import KillQuery
from actions.mysql_replica import RestartReplica
from actions.mysql_system import MySQLSystem
from actions.mysql_variables import SetGlobal
from oncall_agent.contract import PermanentError, Receipt, SystemClock, TransientError
from oncall_agent.testing import Fault, FaultyProxy, Upstream, check_outages
from oncall_agent.testing.harness import run_in_thread

PARAMS: dict[Any, dict[str, Any]] = {
    KillQuery: {"min_seconds": 0.1},
    KillConnections: {"min_seconds": 0.1, "users": ("shop",), "full_share": 0.006, "target_share": 0.001},
    KillLockBlocker: {"database": "shop", "table": "stock"},
    RestartReplica: {},
    SetGlobal: {"name": "sync_binlog", "value": 77},
    PurgeBinlogs: {"min_bytes": 1},
}


@pytest.fixture
def maria(mariadb: Way, monkeypatch) -> Iterator[World]:
    with world("mariadb", mariadb, monkeypatch) as made:
        yield made


@pytest.fixture(params=["mariadb", "mysql"])
def db(request: pytest.FixtureRequest, monkeypatch) -> Iterator[World]:
    way = Way(request.getfixturevalue(f"{request.param}_port"))
    with world(request.param, way, monkeypatch) as made:
        yield made


async def look(db: World, actions: tuple[str, ...] = ACTIONS, **settings: Any) -> Any:
    async with MySQLSystem(db.settings(**settings)) as system:
        return await system.inspect(db.drilling(), actions)


# --- inspection and least privilege ---------------------------------------------------------------------


async def test_the_generated_account_has_all_that_is_needed_and_no_more(db: World) -> None:
    found = await look(db)
    assert found.product == {"mariadb": "MariaDB", "mysql": "MySQL"}[db.product]
    assert found.version.startswith({"mariadb": "10.11.", "mysql": "9."}[db.product])
    assert found.identity.startswith(db.agent)
    assert abs(found.server_time - SystemClock().now()) < 60
    assert [one.name for one in found.privileges if one.needed_by and not one.held] == []
    assert [one.name for one in found.privileges if one.held and not one.needed_by] == []


async def test_the_generated_account_can_do_nothing_else(db: World) -> None:
    db.session("CREATE TABLE orders (n INT)")
    connection = Connection(host="127.0.0.1", port=db.way.port, user=db.agent, password=PASSWORD)
    db.opened.append(connection)
    forbidden = (
        f"SELECT n FROM {db.database}.orders",
        f"INSERT INTO {db.database}.orders VALUES (1)",
        f"DROP TABLE {db.database}.orders",
        "CREATE USER another",
        "CREATE DATABASE mine",
        "SELECT LOAD_FILE('/etc/passwd') FROM mysql.user",
        "SHUTDOWN",
    )
    for statement in forbidden:
        with pytest.raises(pymysql.MySQLError) as raised, connection.cursor() as cursor:
            cursor.execute(statement)
        assert raised.value.args[0] in (1044, 1142, 1227, 1045), statement


async def test_an_account_for_few_actions_lacks_the_others_privileges(db: World) -> None:
    db.way.ask(f"DROP USER {db.agent}@'%'")
    grant(db, ("mysql.kill_query",))
    lacking = {one.name for one in (await look(db)).privileges if one.needed_by and not one.held}
    assert {name.replace("_", " ") for name in lacking} >= {"BINLOG ADMIN"}
    few = await look(db, ("mysql.kill_query",))
    assert [one.name for one in few.privileges if bool(one.needed_by) != one.held] == []


async def test_an_administrator_has_too_much(db: World, monkeypatch) -> None:
    monkeypatch.setenv("TEST_ADMIN", ROOT_PASSWORD)
    found = await look(db, user="root", password="env:TEST_ADMIN")
    assert {"SUPER", "FILE", "SHUTDOWN"} <= {
        one.name for one in found.privileges if one.held and not one.needed_by
    }


# --- the prober -----------------------------------------------------------------------------------------


async def read(db: World, params: dict[str, Any] | None = None, **settings: Any) -> Any:
    async with MySQLProber(db.settings(**settings)) as prober:
        return await prober.read(
            db.target,
            prober.params.model_validate(params or {}),
            timeout_seconds=5,
            clock=SystemClock(),
            run_blocking=run_in_thread,
        )


async def test_the_probe_sees_threads_that_wait(db: World) -> None:
    quiet = await read(db)
    assert quiet.signals.up
    assert 0 < quiet.signals.response_seconds < 5
    async with db.drill(LockBlocker):
        found = await read(db)
        assert found.signals.error_rate > 0
        assert found.facts["waiting"] >= 1
        late = await read(db, {"max_wait_seconds": 0.05})
        assert not late.signals.up
        assert "for a lock" in late.facts["reason"]


async def test_the_probe_tells_down_from_blind_and_knows_replicas(
    maria: World, mariadb_replica: Way, monkeypatch
) -> None:
    assert (await read(maria, port=1)).signals.up is False
    assert "connections are taken" in (await read(maria, {"max_connections_share": 0.001})).facts["reason"]
    assert "does not run" in (await read(maria, {"is_replica": True})).facts["reason"]
    maria.until(lambda: mariadb_replica.ask(f"SELECT 1 FROM mysql.user WHERE User = '{maria.agent}'"))
    replica = await read(maria, {"is_replica": True}, port=mariadb_replica.port)
    assert replica.signals.up
    assert replica.facts["replica"]["applier"] == "Yes"
    monkeypatch.setenv("TEST_WRONG", "nobody-knows-this")
    with pytest.raises(TransientError, match="refuses the credentials"):
        await read(maria, password="env:TEST_WRONG")


# --- the server goes away -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(PARAMS), ids=lambda kind: kind.spec.id)
async def test_every_method_bears_an_outage(maria: World, kind: Any) -> None:
    before = {"receiver": "Yes", "applier": "No"} if kind is RestartReplica else 1
    receipt = Receipt(kind.spec.id, 0.0, {"before": before, "victims": []})
    async with (
        FaultyProxy(Upstream(port=maria.way.port)) as proxy,
        kind(maria.settings(port=proxy.port)) as executor,
    ):
        ended = await check_outages(
            executor,
            proxy,
            lambda seconds: maria.attempt(kind, seconds=seconds, **PARAMS[kind]),
            receipt=receipt,
            deadline_seconds=0.4,
            secret=PASSWORD,
        )
    assert {one.fault for one in ended} == {Fault.CUT, Fault.CUT_MIDWAY, Fault.BLACK_HOLE, Fault.REFUSED}


async def test_a_slow_way_is_no_outage(maria: World) -> None:
    maria.busy(SLEEP)
    maria.age(1.0)
    async with FaultyProxy(Upstream(port=maria.way.port), slow_seconds=0.02) as proxy:
        await proxy.become(Fault.SLOW)
        async with KillQuery(maria.settings(port=proxy.port)) as executor:
            ctx = maria.attempt(KillQuery, min_seconds=0.1, database=maria.database)
            assert (await executor.verify(ctx, await executor.execute(ctx))).ok


@pytest.mark.parametrize("kind", list(PARAMS), ids=lambda kind: kind.spec.id)
async def test_wrong_credentials_are_named_and_not_said(maria: World, kind: Any, monkeypatch) -> None:
    monkeypatch.setenv("TEST_WRONG", "nobody-knows-this")
    ctx = maria.attempt(kind, **PARAMS[kind])
    async with kind(maria.settings(password="env:TEST_WRONG")) as executor:
        assert "refuses the credentials" in (await executor.ping(ctx)).reason
        for step in (executor.precheck, executor.execute):
            with pytest.raises(PermanentError, match="refuses the credentials") as raised:
                await step(ctx)
            assert "nobody-knows" not in str(raised.value)


async def test_something_else_that_answers_is_named(maria: World) -> None:
    async def say_hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" + b"x" * 200)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(say_hello, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with KillQuery(maria.settings(port=port)) as executor:
            check = await executor.ping(maria.attempt(KillQuery, seconds=1.0))
            assert not check.ok
            assert "MySQL" in check.reason


async def test_an_old_server_is_refused_by_its_version(maria: World, monkeypatch) -> None:
    monkeypatch.setattr("actions.mysql_client.dialect_of", lambda _: real("5.5.5-10.3.39-MariaDB"))
    from actions.mysql_dialect import dialect_of as real

    async with KillQuery(maria.settings()) as executor:
        assert (
            await executor.ping(maria.attempt(KillQuery))
        ).reason == "MariaDB 10.3.39 is not supported: 10.5.2 or newer"


async def test_a_paused_server_delays_nobody(own_maria, monkeypatch) -> None:
    server = own_maria()
    with world("mariadb", server.way, monkeypatch) as maria:
        async with KillQuery(maria.settings()) as executor:
            maria.busy(SLEEP)
            maria.age()
            server.pause()
            try:
                for step in (executor.precheck, executor.execute):
                    ctx = maria.attempt(KillQuery, min_seconds=0.1, seconds=0.4)
                    with pytest.raises(TransientError):
                        await asyncio.wait_for(step(ctx), 2)
            finally:
                server.resume()
            ctx = maria.attempt(KillQuery, min_seconds=0.1)
            assert (await executor.verify(ctx, await executor.execute(ctx))).ok
