"""PostgreSQL as a system: inspection, least privilege, the prober, and what happens when the server goes away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from scenes.postgres import ACTIONS, PASSWORD, World, drop, grant, world

from actions.postgres_backends import CancelQuery, TerminateBackend
from actions.postgres_client import Postgres
from actions.postgres_drills import LockBlocker
from actions.postgres_parameters import SetParam
from actions.postgres_probe import PostgresProber
from actions.postgres_reap import ReapIdle
from actions.postgres_settings import PostgresSettings, home_of
from actions.postgres_slots import DropInactiveSlot
from actions.postgres_system import PostgreSQLSystem
from actions.postgres_upkeep import VacuumAnalyze
from oncall_agent.contract import ActionError, PermanentError, Receipt, SystemClock, TransientError
from oncall_agent.contract.executor import run_inline
from oncall_agent.testing import Fault, FaultyProxy, Upstream, check_outages

PARAMS: dict[Any, dict[str, Any]] = {
    CancelQuery: {"min_seconds": 0.1},
    TerminateBackend: {"min_seconds": 0.1},
    ReapIdle: {"min_seconds": 0.1, "applications": ("shop",), "full_share": 0.02, "target_share": 0.01},
    VacuumAnalyze: {"table": "public.stock", "min_dead_rows": 1},
    SetParam: {"name": "maintenance_work_mem", "value": 32768},
    DropInactiveSlot: {"slot": "oncall_drill_none", "min_seconds": 0, "min_bytes": 1},
}


@pytest.fixture
async def db(postgres_sick_url: str, sick_database: str, monkeypatch) -> AsyncIterator[World]:
    async with world(postgres_sick_url, sick_database, monkeypatch) as made:
        yield made


async def look(db: World, actions: tuple[str, ...] = ACTIONS, **settings: Any) -> Any:
    async with PostgreSQLSystem(db.settings(**settings)) as system:
        return await system.inspect(db.drilling(), actions)


# --- inspection and least privilege ---------------------------------------------------------------------


async def test_inspection_says_what_and_who(db: World) -> None:
    found = await look(db)
    assert found.product == "PostgreSQL"
    assert found.version.startswith("15.")
    assert found.identity == db.agent
    assert abs(found.server_time - SystemClock().now()) < 60
    assert found.unsupported == ""


async def test_the_generated_role_has_all_that_is_needed_and_no_more(db: World) -> None:
    found = await look(db)
    assert [one.name for one in found.privileges if one.needed_by and not one.held] == []
    assert [one.name for one in found.privileges if one.held and not one.needed_by] == []


async def test_the_generated_role_can_do_nothing_else(db: World) -> None:
    await db.session("CREATE TABLE secret_orders (n int)")
    await db.admin.execute("CREATE TABLE books (n int)")
    settings = PostgresSettings.model_validate(db.settings())
    forbidden = (
        "SELECT n FROM books",
        "CREATE DATABASE mine",
        "CREATE ROLE another SUPERUSER",
        "ALTER SYSTEM SET shared_buffers = '1GB'",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "DROP TABLE books",
    )
    for statement in forbidden:
        with pytest.raises(PermanentError, match="not allowed"):
            async with Postgres(settings).talk(home_of(settings), 5) as conversation:
                await conversation.run(statement)


async def test_a_role_for_few_actions_lacks_the_others_privileges(db: World) -> None:
    await drop(db, db.agent)
    await grant(db, ("postgres.cancel_query",))
    found = await look(db)
    lacking = {one.name for one in found.privileges if one.needed_by and not one.held}
    assert {"REPLICATION", "pg_read_all_settings", "EXECUTE ON FUNCTION pg_reload_conf()"} <= lacking
    assert "pg_signal_backend" not in lacking
    few = await look(db, ("postgres.cancel_query",))
    assert [one.name for one in few.privileges if bool(one.needed_by) != one.held] == []


async def test_an_administrator_has_too_much(db: World, monkeypatch) -> None:
    monkeypatch.setenv("TEST_ADMIN", "sick-admin-42")
    found = await look(db, user="postgres", password="env:TEST_ADMIN")
    too_much = {one.name for one in found.privileges if one.held and not one.needed_by}
    assert {"SUPERUSER", "CREATEDB", "pg_execute_server_program"} <= too_much


# --- the prober -----------------------------------------------------------------------------------------


async def read(db: World, params: dict[str, Any] | None = None, **settings: Any) -> Any:
    async with PostgresProber(db.settings(**settings)) as prober:
        return await prober.read(
            db.target,
            prober.params.model_validate(params or {}),
            timeout_seconds=3,
            clock=SystemClock(),
            run_blocking=run_inline,
        )


async def test_the_probe_of_a_quiet_database_is_well(db: World) -> None:
    found = await read(db)
    assert found.signals.up
    assert found.signals.error_rate == 0
    assert 0 < found.signals.response_seconds < 3
    assert 0 < found.facts["connections_share"] < 1


async def test_the_probe_sees_sessions_that_wait(db: World) -> None:
    async with db.drill(LockBlocker):
        found = await read(db)
        assert found.signals.error_rate == 0.5
        assert found.facts["blocked"] == 1
        late = await read(db, {"max_blocked_seconds": 0.05})
        assert not late.signals.up
        assert "for a lock" in late.facts["reason"]
        long = await read(db, {"max_transaction_seconds": 0.05})
        assert "transaction has been open" in long.facts["reason"]


async def test_the_probe_tells_down_from_blind(db: World, monkeypatch) -> None:
    assert (await read(db, port=1)).signals.up is False
    assert "connections are taken" in (await read(db, {"max_connections_share": 0.01})).facts["reason"]
    monkeypatch.setenv("TEST_WRONG", "nobody-knows-this")
    with pytest.raises(TransientError, match="refuses the credentials"):
        await read(db, password="env:TEST_WRONG")


# --- the server goes away -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(PARAMS), ids=lambda kind: kind.spec.id)
async def test_every_method_bears_an_outage(db: World, kind: Any) -> None:
    receipt = Receipt(kind.spec.id, 0.0, {"before": {"setting": "1", "is_auto": False}, "victims": []})
    async with (
        FaultyProxy(Upstream(port=db.port)) as proxy,
        kind(db.settings(port=proxy.port)) as executor,
    ):
        ended = await check_outages(
            executor,
            proxy,
            lambda seconds: db.attempt(kind, seconds=seconds, **PARAMS[kind]),
            receipt=receipt,
            deadline_seconds=0.4,
            secret=PASSWORD,
        )
    assert {one.fault for one in ended} == {Fault.CUT, Fault.CUT_MIDWAY, Fault.BLACK_HOLE, Fault.REFUSED}


async def test_a_slow_way_is_no_outage(db: World) -> None:
    await db.busy("SELECT pg_sleep(600)")
    async with FaultyProxy(Upstream(port=db.port), slow_seconds=0.02) as proxy:
        await proxy.become(Fault.SLOW)
        async with CancelQuery(db.settings(port=proxy.port)) as executor:
            ctx = db.attempt(CancelQuery, min_seconds=0.1, within_seconds=5)
            assert (await executor.verify(ctx, await executor.execute(ctx))).ok


@pytest.mark.parametrize("kind", list(PARAMS), ids=lambda kind: kind.spec.id)
async def test_wrong_credentials_are_named_and_not_said(db: World, kind: Any, monkeypatch) -> None:
    monkeypatch.setenv("TEST_WRONG", "nobody-knows-this")
    ctx = db.attempt(kind, **PARAMS[kind])
    async with kind(db.settings(password="env:TEST_WRONG")) as executor:
        assert "refuses the credentials" in (await executor.ping(ctx)).reason
        for step in (executor.precheck, executor.execute):
            with pytest.raises(PermanentError, match="refuses the credentials") as raised:
                await step(ctx)
            assert "nobody-knows" not in str(raised.value)


async def test_something_else_that_answers_is_named(db: World, mariadb_port: int) -> None:
    ctx = db.attempt(CancelQuery)
    async with CancelQuery(db.settings(port=mariadb_port)) as executor:
        assert not (await executor.ping(ctx)).ok
        with pytest.raises(ActionError, match="PostgreSQL"):
            await executor.execute(ctx)
        missing = CancelQuery(db.settings())
        with pytest.raises(PermanentError, match="does not exist"):
            await missing.execute(db.elsewhere("no_such_database", CancelQuery))


async def test_a_paused_server_delays_nobody(own_cluster, monkeypatch) -> None:
    cluster = own_cluster()
    async with world(cluster.url, "postgres", monkeypatch) as db, CancelQuery(db.settings()) as executor:
        await db.busy("SELECT pg_sleep(600)")
        cluster.pause()
        try:
            for step in (executor.precheck, executor.execute):
                with pytest.raises(TransientError, match="in time"):
                    await asyncio.wait_for(step(db.attempt(CancelQuery, min_seconds=0.1, seconds=0.4)), 2)
        finally:
            cluster.resume()
        ctx = db.attempt(CancelQuery, min_seconds=0.1)
        assert (await executor.verify(ctx, await executor.execute(ctx))).ok


async def test_a_server_that_crashes_in_the_middle_is_served_again(own_cluster, monkeypatch) -> None:
    cluster = own_cluster()
    async with world(cluster.url, "postgres", monkeypatch) as db, ReapIdle(db.settings()) as executor:
        ctx = db.attempt(ReapIdle, **PARAMS[ReapIdle])
        assert (await executor.precheck(ctx)).reason
        victim = await db.session()

        async def talk_through_a_crash() -> None:
            async with executor.talk(ctx) as conversation:
                # One killed process makes the server end all the others and start over.
                os.kill(victim.get_server_pid(), signal.SIGKILL)
                while True:
                    await conversation.value("SELECT 1")

        with pytest.raises(TransientError):
            await talk_through_a_crash()

        async def answers() -> bool:
            return (await executor.ping(ctx)).ok

        await db.until(answers)
        await db.reconnect()
        assert (await executor.precheck(ctx)).reason
