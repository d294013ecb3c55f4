"""Tables, parameters and slots of a real PostgreSQL: the fix, the undo, and every refusal.

Everything is done with exactly the role that the generated grants make.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from scenes.postgres import World, world

from actions.postgres_drills import DeadTuples, InactiveSlot, WrongParameter
from actions.postgres_parameters import SetParam
from actions.postgres_settings import DRILL_PREFIX
from actions.postgres_slots import DropInactiveSlot
from actions.postgres_upkeep import VacuumAnalyze
from oncall_agent.contract import ActionContext, Executor, PermanentError, Receipt, TransientError


@pytest.fixture
async def db(postgres_sick_url: str, sick_database: str, monkeypatch) -> AsyncIterator[World]:
    async with world(postgres_sick_url, sick_database, monkeypatch) as made:
        yield made


async def refusal(executor: Executor, ctx: ActionContext) -> str:
    check = await executor.precheck(ctx)
    assert not check.ok
    return check.reason


# --- vacuum ---------------------------------------------------------------------------------------------


def vacuum(db: World, **params: Any) -> ActionContext:
    return db.attempt(
        VacuumAnalyze, **{"table": "public.stock", "min_dead_rows": 500, "hold_seconds": 0, **params}
    )


async def dead_rows(db: World, table: str = "stock") -> None:
    made = f"CREATE TABLE {table} (n int) WITH (autovacuum_enabled = false)"
    filled = (made, f"INSERT INTO {table} SELECT generate_series(1, 1000)", f"UPDATE {table} SET n = 0")
    await (await db.session(*filled)).close()
    await db.until(lambda: db.admin.fetchval(f"SELECT pg_stat_get_dead_tuples('{table}'::regclass) >= 1000"))


async def vacuums(db: World) -> int:
    await db.admin.execute("SELECT pg_stat_clear_snapshot()")
    return int(await db.admin.fetchval("SELECT pg_stat_get_vacuum_count('stock'::regclass)"))


async def test_vacuum_heals_the_drill(db: World) -> None:
    async with db.drill(DeadTuples) as (drill, trial), VacuumAnalyze(db.settings()) as executor:
        ctx = db.on(trial, VacuumAnalyze)
        assert (await executor.precheck(ctx)).ok
        receipt = await executor.execute(ctx)
        assert receipt.facts["before"]["dead"] >= 1000
        assert (await executor.verify(ctx, receipt)).ok
        assert (await drill.symptom(db.drilling(), trial)).ok


async def test_a_freeze_makes_the_table_young(db: World) -> None:
    await dead_rows(db)
    for _ in range(30):
        await db.admin.execute("SELECT pg_current_xact_id()")
    ctx = vacuum(db, freeze=True, min_dead_rows=10**6, min_age=20)
    async with VacuumAnalyze(db.settings()) as executor:
        assert (await executor.precheck(ctx)).ok
        soon = vacuum(db, freeze=True, min_dead_rows=10**6, min_age=20, within_seconds=0.1)
        assert "old" in (await executor.verify(soon, Receipt("", 0))).reason
        assert (await executor.verify(ctx, await executor.execute(ctx))).ok


async def test_vacuum_acts_once_and_not_in_a_dry_run(db: World) -> None:
    await dead_rows(db)
    ctx = vacuum(db)
    async with VacuumAnalyze(db.settings()) as executor, VacuumAnalyze(db.settings()) as restarted:
        assert (await executor.execute(replace(ctx, dry_run=True))).planned
        assert await vacuums(db) == 0
        for one in (executor, executor, restarted):
            await one.execute(ctx)
        assert await vacuums(db) == 1


async def test_vacuum_verify_sees_rows_that_an_old_transaction_keeps(db: World) -> None:
    keeper = await db.session("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1", application="report")
    await dead_rows(db)
    ctx = vacuum(db, within_seconds=0.4)
    async with VacuumAnalyze(db.settings()) as executor:
        verified = await executor.verify(ctx, await executor.execute(ctx))
    assert "dead rows" in verified.reason
    assert keeper.is_in_transaction()


async def test_vacuum_refusals(db: World) -> None:
    await dead_rows(db)
    await db.session("CREATE VIEW seen AS SELECT n FROM stock")
    await db.admin.execute("CREATE TABLE foreign_stock AS SELECT 1 AS n")
    async with VacuumAnalyze(db.settings()) as executor:
        assert "no table public.none" in await refusal(executor, vacuum(db, table="public.none"))
        assert "no table public.seen" in await refusal(executor, vacuum(db, table="public.seen"))
        assert "it is well" in await refusal(executor, vacuum(db, min_dead_rows=10**6))
        assert "may not vacuum" in await refusal(executor, vacuum(db, table="public.foreign_stock"))
    async with VacuumAnalyze(db.settings(max_vacuum_bytes=8192)) as executor:
        assert "left to people" in await refusal(executor, vacuum(db))


async def test_vacuum_refuses_and_waits_while_somebody_vacuums(db: World) -> None:
    await dead_rows(db)
    await db.session("INSERT INTO stock SELECT generate_series(1, 20000)", "DELETE FROM stock")
    slow = "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1"
    connection = await db.session(slow)
    db.running.append(_task(connection.execute("VACUUM stock")))
    await db.until(lambda: db.admin.fetchval("SELECT count(*) FROM pg_stat_progress_vacuum"))
    async with VacuumAnalyze(db.settings()) as executor:
        assert "being vacuumed" in await refusal(executor, vacuum(db))
        with pytest.raises(TransientError, match="being vacuumed"):
            await executor.execute(vacuum(db))


async def test_vacuum_stops_on_the_server_when_its_time_is_over(db: World) -> None:
    await dead_rows(db)
    await db.session("INSERT INTO stock SELECT generate_series(1, 200000)", "DELETE FROM stock")
    async with VacuumAnalyze(db.settings()) as executor:
        await db.admin.execute(f"ALTER ROLE {db.agent} SET vacuum_cost_limit = 1")
        with pytest.raises(TransientError, match="took too long"):
            await executor.execute(vacuum(db, max_seconds=1, cost_delay_ms=100))
    await db.until(lambda: _none(db, "pg_stat_progress_vacuum"))


# --- parameters -----------------------------------------------------------------------------------------


def setting(
    db: World, name: str = "maintenance_work_mem", value: Any = 32_768, **params: Any
) -> ActionContext:
    return db.attempt(SetParam, name=name, value=value, **params)


async def shown(db: World, name: str) -> tuple[str, str]:
    connection = await db.session(user=db.app)
    row = await connection.fetchrow("SELECT setting, source FROM pg_settings WHERE name = $1", name)
    return row["setting"], row["source"]


@pytest.fixture
async def own(own_cluster, monkeypatch) -> AsyncIterator[World]:
    """Parameters belong to a whole server: one of this test's own."""
    cluster = own_cluster(work_mem="2048")
    async with world(cluster.url, "postgres", monkeypatch) as made:
        yield made


async def test_a_parameter_is_set_and_taken_back(own: World) -> None:
    before = await shown(own, "maintenance_work_mem")
    ctx = setting(own)
    async with SetParam(own.settings()) as executor:
        assert (await executor.precheck(ctx)).ok
        planned = await executor.execute(replace(ctx, dry_run=True))
        assert planned.planned
        assert await shown(own, "maintenance_work_mem") == before
        receipt = await executor.execute(ctx)
        assert (await executor.verify(ctx, receipt)).ok
        assert await shown(own, "maintenance_work_mem") == ("32768", "configuration file")
        assert "already" in await refusal(executor, ctx)
        for _ in range(2):
            assert (await executor.rollback(ctx, receipt)).ok
    assert await shown(own, "maintenance_work_mem") == before


async def test_set_heals_the_drill(own: World) -> None:
    agent = {"user": own.agent, "password": "env:TEST_POSTGRES_AGENT"}
    bad = {"parameter": "maintenance_work_mem", "bad_value": 2048}
    before = await shown(own, "maintenance_work_mem")
    async with (
        own.drill(WrongParameter, **agent, **bad) as (drill, trial),
        SetParam(own.settings()) as executor,
    ):
        ctx = own.on(trial, SetParam)
        check = await executor.precheck(ctx)
        assert check.ok, check
        assert (await executor.verify(ctx, await executor.execute(ctx))).ok
        assert (await drill.symptom(own.drilling(), trial)).ok
    assert await shown(own, "maintenance_work_mem") == before


async def test_a_former_value_of_our_own_file_comes_back(own: World) -> None:
    await own.admin.execute("ALTER SYSTEM SET maintenance_work_mem = '8MB'")
    await own.admin.fetchval("SELECT pg_reload_conf()")
    ctx = setting(own, value=16_384)
    async with SetParam(own.settings()) as executor:
        receipt = await executor.execute(ctx)
        assert (await executor.verify(ctx, receipt)).ok
        assert (await executor.rollback(ctx, Receipt("", 0, receipt.facts, partial=True))).ok
    assert await shown(own, "maintenance_work_mem") == ("8192", "configuration file")


async def test_words_can_be_set_too(own: World) -> None:
    ctx = setting(own, "log_lock_waits", "on")
    async with SetParam(own.settings()) as executor:
        assert (await executor.verify(ctx, await executor.execute(ctx))).ok
        assert "not one of the values" in await refusal(executor, setting(own, "log_lock_waits", "maybe"))


async def test_parameter_refusals(own: World) -> None:
    async with SetParam(own.settings()) as executor:
        assert "not on the list" in await refusal(executor, setting(own, "shared_buffers"))
        assert "outside 1024..1.04858e+06 kB" in await refusal(executor, setting(own, value=512))
        assert "whole number" in await refusal(executor, setting(own, value=2048.5))
        assert "a number is needed" in await refusal(executor, setting(own, value="64MB"))
        assert "can't be changed by a reload" in await refusal(executor, setting(own, "max_connections", 50))
        assert "set elsewhere (command line)" in await refusal(executor, setting(own, "work_mem", 4096))
        await own.admin.execute(f"REVOKE ALTER SYSTEM ON PARAMETER maintenance_work_mem FROM {own.agent}")
        assert "our role may not" in await refusal(executor, setting(own))
        with pytest.raises(PermanentError, match="our role may not"):
            await executor.execute(setting(own))
    allowed = {"no_such_parameter": {"minimum": 0, "maximum": 1}}
    async with SetParam(own.settings(parameters=allowed)) as executor:
        assert "knows no parameter" in await refusal(executor, setting(own, "no_such_parameter", 1))


async def test_verify_sees_a_value_that_somebody_changed_back(own: World) -> None:
    ctx = setting(own, within_seconds=0.4)
    async with SetParam(own.settings()) as executor:
        receipt = await executor.execute(ctx)
        await own.admin.execute("ALTER SYSTEM RESET maintenance_work_mem")
        await own.admin.fetchval("SELECT pg_reload_conf()")
        verified = await executor.verify(ctx, receipt)
    assert "not 32768" in verified.reason


# --- slots ----------------------------------------------------------------------------------------------


def slot(db: World, name: str, **params: Any) -> ActionContext:
    wide = {"min_seconds": 0, "min_bytes": 1, "hold_seconds": 0, "within_seconds": 5}
    return db.attempt(DropInactiveSlot, **{"slot": name, **wide, **params})


async def holding(db: World, *, logical: bool = False) -> str:
    """A slot that holds back more than a segment of the log."""
    name = f"{DRILL_PREFIX}{db.database[-8:]}_{'l' if logical else 'p'}"
    physical, decoded = "pg_create_physical_replication_slot($1, true)", "'pgoutput'"
    made = f"pg_create_logical_replication_slot($1, {decoded})" if logical else physical
    await db.admin.execute(f"SELECT {made.replace('$1', repr(name))}")
    for _ in range(40):
        await db.admin.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 65536))")
    return name


@pytest.fixture
async def slots(db: World) -> AsyncIterator[World]:
    yield db
    left = f"WHERE slot_name LIKE '{DRILL_PREFIX}{db.database[-8:]}%'"
    await db.until(lambda: _none(db, f"pg_replication_slots {left} AND active"))
    await db.admin.execute(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots {left}")


async def test_drop_heals_the_drill(slots: World) -> None:
    async with slots.drill(InactiveSlot) as (drill, trial), DropInactiveSlot(slots.settings()) as executor:
        ctx = slots.on(trial, DropInactiveSlot, hold_seconds=0, within_seconds=10)
        check = await executor.precheck(ctx)
        assert check.ok, check
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
        assert (await drill.symptom(slots.drilling(), trial)).ok


async def test_a_logical_slot_of_another_database_is_dropped_once(slots: World) -> None:
    name = await holding(slots, logical=True)
    ctx = slot(slots, name)
    settings = slots.settings(database="postgres")
    await _in_postgres(slots, "GRANT")
    async with DropInactiveSlot(settings) as executor, DropInactiveSlot(settings) as restarted:
        planned = await executor.execute(replace(ctx, dry_run=True))
        assert planned.planned
        assert await _none(slots, f"pg_replication_slots WHERE slot_name = '{name}'") is False
        receipt = await executor.execute(ctx)
        assert (await executor.execute(ctx)).facts["already"]
        assert (await restarted.execute(ctx)).facts["already"]
        assert (await executor.verify(ctx, receipt)).ok
    await _in_postgres(slots, "REVOKE")


async def test_drop_refusals(slots: World) -> None:
    name = await holding(slots)
    await slots.admin.execute(f"SELECT pg_create_physical_replication_slot('{name}_empty')")
    async with DropInactiveSlot(slots.settings()) as executor:
        assert "no slot none" in await refusal(executor, slot(slots, "none"))
        assert "read " in await refusal(executor, slot(slots, name, min_seconds=3600))
        assert "holds back only" in await refusal(executor, slot(slots, name, min_bytes=10**12))
        assert "holds back no log" in await refusal(executor, slot(slots, f"{name}_empty"))
        with pytest.raises(PermanentError, match="holds back only"):
            await executor.execute(slot(slots, name, min_bytes=10**12))
        await slots.admin.execute(f"ALTER ROLE {slots.agent} NOREPLICATION")
        assert "REPLICATION" in await refusal(executor, slot(slots, name))


async def test_drop_needs_the_owners_word(slots: World) -> None:
    name = f"shop_{slots.database[-8:]}"
    await slots.admin.execute(f"SELECT pg_create_physical_replication_slot('{name}', true)")
    try:
        async with DropInactiveSlot(slots.settings()) as executor:
            assert "not on the list" in await refusal(executor, slot(slots, name))
        async with DropInactiveSlot(slots.settings(droppable_slots=[name])) as executor:
            assert "not on the list" not in (await executor.precheck(slot(slots, name))).reason
    finally:
        await slots.admin.execute(f"SELECT pg_drop_replication_slot('{name}')")


async def test_a_slot_in_use_stays(slots: World) -> None:
    name = await holding(slots, logical=True)
    reader = await _reader(slots, name)
    try:
        async with DropInactiveSlot(slots.settings()) as executor:
            assert "in use" in await refusal(executor, slot(slots, name))
            with pytest.raises(PermanentError, match="in use"):
                await executor.execute(slot(slots, name))
    finally:
        reader.terminate()
        await reader.wait()


async def test_drop_verify_sees_a_log_that_another_slot_holds_back(slots: World) -> None:
    name = await holding(slots)
    other = f"{name}_2"
    await slots.admin.execute(f"SELECT pg_copy_physical_replication_slot('{name}', '{other}')")
    ctx = slot(slots, name, within_seconds=0.5)
    async with DropInactiveSlot(slots.settings()) as executor:
        verified = await executor.verify(ctx, await executor.execute(ctx))
    assert "still there" in verified.reason


# --- small steps ----------------------------------------------------------------------------------------


def _task(awaitable: Any) -> Any:
    return asyncio.ensure_future(awaitable)


async def _none(db: World, source: str) -> bool:
    return not await db.admin.fetchval(f"SELECT count(*) FROM {source}")


async def _in_postgres(db: World, verb: str) -> None:
    connection = await asyncpg.connect(db.admin_url, ssl=False)
    way = "TO" if verb == "GRANT" else "FROM"
    await connection.execute(f"{verb} EXECUTE ON FUNCTION pg_ls_waldir() {way} {db.agent}")
    await connection.close()


async def _reader(db: World, name: str) -> Any:
    reader = await asyncio.create_subprocess_exec(
        "/usr/lib/postgresql/15/bin/pg_recvlogical",
        "-d",
        db.admin_url.rpartition("/")[0] + f"/{db.database}",
        *("-S", name, "--start", "-f", "-", "-o", "proto_version=1", "-o", "publication_names=none", "-n"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    in_use = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{name}'"
    await db.until(lambda: db.admin.fetchval(in_use))
    return reader
