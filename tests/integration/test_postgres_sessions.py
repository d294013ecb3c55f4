"""Sessions of a real PostgreSQL that do harm: the fix, what is left alone, and every refusal.

Everything is done with exactly the role that the generated grants make.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from scenes.postgres import World, world

from actions.postgres_backends import CancelQuery, TerminateBackend
from actions.postgres_drills import ConnectionExhaustion, IdleInTransaction, LockBlocker, RunawayQuery
from actions.postgres_reap import ReapIdle
from oncall_agent.contract import ActionContext, Executor, PermanentError, Receipt, Target

SLEEP = "SELECT pg_sleep(600)"


@pytest.fixture
async def db(postgres_sick_url: str, sick_database: str, monkeypatch) -> AsyncIterator[World]:
    async with world(postgres_sick_url, sick_database, monkeypatch) as made:
        yield made


async def healed(executor: Executor, ctx: ActionContext) -> Receipt:
    check = await executor.precheck(ctx)
    assert check.ok, check
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    return receipt


async def refusal(executor: Executor, ctx: ActionContext) -> str:
    check = await executor.precheck(ctx)
    assert not check.ok
    return check.reason


# --- cancel ---------------------------------------------------------------------------------------------


async def test_cancel_ends_a_runaway_query_and_leaves_its_session(db: World) -> None:
    other = await db.busy(SLEEP, application="reports")
    async with db.drill(RunawayQuery) as (drill, trial), CancelQuery(db.settings()) as executor:
        receipt = await healed(executor, db.on(trial, CancelQuery))
        assert receipt.facts["signalled"] == 1
        assert (await drill.symptom(db.drilling(), trial)).ok
        assert await db.count("application_name = $1", drill.name) == 1
        assert not other.done()


async def test_cancel_lets_the_sessions_go_on_that_waited(db: World) -> None:
    await db.session("CREATE TABLE stock (n int)")
    holder = await db.session()
    running = asyncio.create_task(holder.execute(f"BEGIN; LOCK TABLE stock; {SLEEP}"))
    db.running.append(running)
    await db.aged("active", "query LIKE 'BEGIN; LOCK%'")
    await db.busy("SELECT n FROM stock", application="web")
    async with CancelQuery(db.settings()) as executor:
        ctx = db.attempt(CancelQuery, min_seconds=0.1, only_blockers=True, application="shop")
        check = await executor.precheck(ctx)
        assert check.facts["blocked"] == 1
        receipt = await executor.execute(ctx)
        assert (await executor.verify(ctx, receipt)).ok
        with pytest.raises(asyncpg.QueryCanceledError):
            await running


async def test_cancel_verify_sees_that_it_runs_again(db: World) -> None:
    running = await db.busy(SLEEP)
    async with CancelQuery(db.settings()) as executor:
        ctx = db.attempt(CancelQuery, min_seconds=0.1, within_seconds=0.4)
        receipt = await executor.execute(ctx)
        with pytest.raises(asyncpg.QueryCanceledError):
            await running
        await db.busy(SLEEP)
        verified = await executor.verify(ctx, receipt)
    assert not verified.ok
    assert "match now" in verified.reason


async def test_cancel_after_a_crash_is_verified_from_the_prechecks_facts(db: World) -> None:
    running = await db.busy(SLEEP)
    async with CancelQuery(db.settings()) as executor:
        ctx = db.attempt(CancelQuery, min_seconds=0.1, within_seconds=0.4)
        partial = Receipt("", 0.0, (await executor.precheck(ctx)).facts, partial=True)
        assert "still there" in (await executor.verify(ctx, partial)).reason
        await executor.execute(ctx)
        assert (await executor.verify(ctx, partial)).ok
    assert isinstance((await asyncio.gather(running, return_exceptions=True))[0], asyncpg.QueryCanceledError)


async def test_a_repeat_takes_in_nothing_that_came_later(db: World) -> None:
    first = await db.busy(SLEEP)
    ctx = db.attempt(CancelQuery, min_seconds=0.1)
    async with CancelQuery(db.settings()) as executor, CancelQuery(db.settings()) as restarted:
        await executor.execute(ctx)
        with pytest.raises(asyncpg.QueryCanceledError):
            await first
        second = await db.busy(SLEEP)
        assert (await executor.execute(ctx)).facts["signalled"] == 0
        assert (await restarted.execute(ctx)).facts["signalled"] == 0
        assert not second.done()


async def test_a_dry_run_cancels_nothing(db: World) -> None:
    running = await db.busy(SLEEP)
    async with CancelQuery(db.settings()) as executor:
        receipt = await executor.execute(db.attempt(CancelQuery, min_seconds=0.1, dry_run=True))
    assert receipt.planned
    assert len(receipt.facts["victims"]) == 1
    assert not running.done()


async def test_cancel_refuses_when_nothing_matches(db: World) -> None:
    await db.busy(SLEEP)
    async with CancelQuery(db.settings()) as executor:
        for params in ({"min_seconds": 60}, {"application": "web"}, {"user": "nobody"}, {"query_id": 1}):
            ctx = db.attempt(CancelQuery, **{"min_seconds": 0.1, **params})
            assert await refusal(executor, ctx) == "no session matches"


async def test_cancel_refuses_when_too_much_matches(db: World) -> None:
    tasks = [await db.busy(SLEEP) for _ in range(2)]
    async with CancelQuery(db.settings()) as executor:
        ctx = db.attempt(CancelQuery, min_seconds=0.1, max_n=1)
        assert "2 sessions match, at most 1" in await refusal(executor, ctx)
        with pytest.raises(PermanentError, match="at most 1"):
            await executor.execute(ctx)
    assert not any(task.done() for task in tasks)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"protected_applications": ["shop"]}, "1 protected application"),
        ({"protected_users": ["APP"]}, "1 protected user"),
    ],
    ids=["application", "user"],
)
async def test_cancel_leaves_the_protected_alone(
    db: World, settings: dict[str, list[str]], reason: str
) -> None:
    named = {key: [db.app if one == "APP" else one for one in names] for key, names in settings.items()}
    running = await db.busy(SLEEP)
    async with CancelQuery(db.settings(**named)) as executor:
        assert reason in await refusal(executor, db.attempt(CancelQuery, min_seconds=0.1))
        await executor.execute(db.attempt(CancelQuery, min_seconds=0.1))
    assert not running.done()


async def test_cancel_leaves_superusers_and_maintenance_alone(db: World) -> None:
    admin = await asyncpg.connect(db.admin_url, database=db.database, ssl=False)
    db.opened.append(admin)
    db.running.append(asyncio.create_task(admin.execute(SLEEP)))
    await db.session("CREATE TABLE big AS SELECT generate_series(1, 20000) AS n", "DELETE FROM big")
    slow = await db.session("SET vacuum_cost_delay = 100", "SET vacuum_cost_limit = 1")
    db.running.append(asyncio.create_task(slow.execute("VACUUM big")))
    await db.aged("active", "query IN ($1, 'VACUUM big')", SLEEP, count=2)
    async with CancelQuery(db.settings()) as executor:
        reason = await refusal(executor, db.attempt(CancelQuery, min_seconds=0.1))
    assert "1 superuser" in reason
    assert "1 vacuum" in reason


async def test_a_protected_target_always_wins(db: World) -> None:
    await db.busy(SLEEP)
    async with CancelQuery(db.settings()) as executor:
        ctx = db.attempt(CancelQuery, min_seconds=0.1)
        assert "protected" in await refusal(
            executor, replace(ctx, target=replace(ctx.target, protected=True))
        )


async def test_cancel_refuses_without_the_privilege_to_signal_or_to_see(db: World) -> None:
    running = await db.busy(SLEEP)
    async with CancelQuery(db.settings()) as executor:
        ctx = db.attempt(CancelQuery, min_seconds=0.1)
        await db.admin.execute(f"REVOKE pg_signal_backend FROM {db.agent}")
        assert "pg_signal_backend" in await refusal(executor, ctx)
        # Membership in the owner of tables would let it cancel what that role runs.
        await db.admin.execute(f"REVOKE {db.app} FROM {db.agent}")
        with pytest.raises(PermanentError, match="not allowed"):
            await executor.execute(ctx)
        await db.admin.execute(f"REVOKE pg_read_all_stats FROM {db.agent}")
        assert "pg_read_all_stats" in await refusal(executor, ctx)
    assert not running.done()


# --- terminate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drill_kind", [IdleInTransaction, LockBlocker])
async def test_terminate_heals(db: World, drill_kind: Any) -> None:
    async with db.drill(drill_kind) as (drill, trial), TerminateBackend(db.settings()) as executor:
        assert (await healed(executor, db.on(trial, TerminateBackend))).facts["signalled"] == 1
        assert (await drill.symptom(db.drilling(), trial)).ok


async def test_terminate_asks_an_active_session_to_cancel_first(db: World) -> None:
    running = await db.busy(SLEEP)
    async with TerminateBackend(db.settings()) as executor:
        await healed(executor, db.attempt(TerminateBackend, min_seconds=0.1, state="active"))
    with pytest.raises(asyncpg.QueryCanceledError):
        await running
    assert await db.count("application_name = 'shop' AND datname = current_database()") == 1


async def test_terminate_ends_a_session_that_does_not_cancel(db: World) -> None:
    stubborn = await db.session()
    # The statement catches its own cancellation and sleeps on.
    block = (
        "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(600);"
        " EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"
    )
    running = asyncio.create_task(stubborn.execute(block))
    db.running.append(running)
    await db.aged("active", "query LIKE 'DO $$%'")
    async with TerminateBackend(db.settings()) as executor:
        ctx = db.attempt(TerminateBackend, min_seconds=0.1, state="active", cancel_seconds=0.3)
        await healed(executor, ctx)
    with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError, ConnectionError)):
        await running


async def test_terminate_by_process_checks_everything_else_all_the_same(db: World) -> None:
    forgotten = await db.session("BEGIN", "SELECT 1")
    pid = forgotten.get_server_pid()
    async with TerminateBackend(db.settings()) as executor:
        assert (
            await refusal(executor, db.attempt(TerminateBackend, pid=pid, min_seconds=60))
            == "no session matches"
        )
        assert await refusal(executor, db.attempt(TerminateBackend, pid=pid + 1, min_seconds=0.1))
        await db.aged("idle in transaction")
        await healed(executor, db.attempt(TerminateBackend, pid=pid, min_seconds=0.1))


async def test_terminate_spares_a_session_that_went_on_in_between(db: World) -> None:
    forgotten = await db.session("BEGIN", "SELECT 1")
    await db.aged("idle in transaction")
    ctx = db.attempt(TerminateBackend, min_seconds=0.1)
    async with TerminateBackend(db.settings()) as executor:
        found = await executor.execute(replace(ctx, dry_run=True))
        async with executor.talk(ctx) as conversation:
            chosen, blocked = await executor._choose(conversation, ctx)
        executor._chosen[ctx.idempotency_key] = (chosen, blocked)
        await forgotten.execute("SELECT 2")
        receipt = await executor.execute(ctx)
    assert len(found.facts["victims"]) == 1
    assert receipt.facts["signalled"] == 0
    assert await forgotten.fetchval("SELECT 3") == 3


# --- reap -----------------------------------------------------------------------------------------------

Start = Callable[..., Any]


@pytest.fixture
async def small(own_cluster: Start, monkeypatch) -> AsyncIterator[World]:
    cluster = await asyncio.to_thread(own_cluster, max_connections="23")
    async with world(cluster.url, "postgres", monkeypatch) as made:
        yield made


def shop(db: World, **params: Any) -> ActionContext:
    wide = {"applications": ("shop",), "min_seconds": 0.1, "full_share": 0.85, "target_share": 0.6}
    return db.attempt(ReapIdle, **{**wide, "max_n": 50, **params})


async def fill(db: World, count: int) -> None:
    for _ in range(count):
        await db.session()
    await db.aged("idle", "application_name = 'shop'", count=count)


async def test_reap_gets_into_a_full_server_and_makes_room(small: World) -> None:
    async with ReapIdle(small.settings()) as executor:
        await small.until(lambda: small.count("usename = $1", small.agent))
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await fill(small, 30)
        await small.aged("idle", "application_name = 'shop'", count=15)
        receipt = await healed(executor, shop(small))
        assert receipt.facts["ended"] >= 8
        await small.session()


async def test_reap_heals_the_drill(small: World) -> None:
    async with small.drill(ConnectionExhaustion) as (drill, trial), ReapIdle(small.settings()) as executor:
        await healed(executor, small.on(trial, ReapIdle))
        assert (await drill.symptom(small.drilling(), trial)).ok


async def test_reap_refusals(small: World) -> None:
    async with ReapIdle(small.settings()) as executor:
        assert "not full" in await refusal(executor, shop(small))
        await small.busy(SLEEP, application="shop")
        await fill(small, 15)
        assert "only 0 may be ended" in await refusal(executor, shop(small, applications=("web",)))
        assert "only 0 may be ended" in await refusal(executor, shop(small, min_seconds=60))
        assert "only 0 may be ended" in await refusal(executor, shop(small, state="idle in transaction"))
        assert "only 3 may be ended" in await refusal(executor, shop(small, max_n=3))
        assert "would not help" in await refusal(executor, shop(small, min_idle=14))
        with pytest.raises(PermanentError, match="would not help"):
            await executor.execute(shop(small, max_n=3))
        planned = await executor.execute(replace(shop(small), dry_run=True))
    assert planned.planned
    assert await small.count("application_name = 'shop'") == 16


async def test_reap_acts_once_and_verify_sees_a_full_server(small: World) -> None:
    await fill(small, 17)
    ctx = shop(small, within_seconds=0.4)
    async with ReapIdle(small.settings()) as executor:
        first = await executor.execute(ctx)
        await fill(small, first.facts["ended"])
        assert (await executor.execute(ctx)).facts["ended"] == 0
        verified = await executor.verify(ctx, first)
    assert not verified.ok
    assert "connections are taken" in verified.reason


async def test_reap_verify_sees_that_the_application_fails_since(small: World) -> None:
    failing = await small.session()
    ctx = shop(small, hold_seconds=3.0, within_seconds=6.0)

    async def fail() -> None:
        while True:
            try:
                await failing.execute("SELECT 1/0")
            except asyncpg.DivisionByZeroError:
                await asyncio.sleep(0.001)

    async with ReapIdle(small.settings()) as executor:
        small.running.append(asyncio.create_task(fail()))
        verified = await executor.verify(ctx, Receipt("postgres.reap_idle", 0.0))
        small.running[-1].cancel()
    assert not verified.ok
    assert "transactions failed" in verified.reason


async def test_an_address_may_name_another_server(db: World) -> None:
    running = await db.busy(SLEEP)
    address = {"database": db.database, "host": db.host, "port": db.port}
    ctx = db.attempt(CancelQuery, min_seconds=0.1)
    async with CancelQuery(db.settings(port=1)) as executor:
        assert not (await executor.ping(ctx)).ok
        receipt = await executor.execute(
            replace(ctx, target=Target("other", "postgres_database", address=address))
        )
    assert receipt.facts["signalled"] == 1
    with pytest.raises(asyncpg.QueryCanceledError):
        await running


async def test_diagnosis_names_who_waits_for_whom_without_literals(db: World) -> None:
    async with db.drill(LockBlocker) as (drill, _), CancelQuery(db.settings()) as executor:
        await db.busy("SELECT pg_sleep(600), 'tell-nobody'")
        said = await executor.diagnose(db.attempt(CancelQuery))
    assert any(one["application"] == drill.name for one in said["waiting"])
    assert "tell-nobody" not in str(said)
    assert "SELECT pg_sleep(?), ?" in str(said)
