"""Threads of a real MariaDB and a real MySQL that do harm: the fix, what is left alone, and every refusal.

Everything is done with exactly the account that the generated grants make.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from backends.mariadb_server import Way
from scenes.mysql import PASSWORD, SLEEP, World, healed, refusal, world

from actions.mysql_blockers import KillLockBlocker
from actions.mysql_connections import KillConnections
from actions.mysql_drills import ConnectionExhaustion, LockBlocker, RunawayQuery
from actions.mysql_queries import KillQuery
from oncall_agent.contract import PermanentError, Receipt

YOUNG = {"min_seconds": 0.1}


@pytest.fixture
def maria(mariadb: Way, monkeypatch) -> Iterator[World]:
    with world("mariadb", mariadb, monkeypatch) as made:
        yield made


@pytest.fixture(params=["mariadb", "mysql"])
def db(request: pytest.FixtureRequest, monkeypatch) -> Iterator[World]:
    """Each of the two products, for what they do differently."""
    way = Way(request.getfixturevalue(f"{request.param}_port"))
    with world(request.param, way, monkeypatch) as made:
        yield made


# --- queries --------------------------------------------------------------------------------------------


async def test_kill_query_ends_a_runaway_query_and_leaves_its_connection(db: World) -> None:
    other = db.busy(SLEEP)
    async with db.drill(RunawayQuery) as (drill, trial), KillQuery(db.settings()) as executor:
        receipt = await healed(executor, db.on(trial, KillQuery))
        assert receipt.facts["killed"] == 1
        assert (await drill.symptom(db.drilling(), trial)).ok
    assert other.is_running


async def test_kill_query_lets_go_on_who_waited(db: World) -> None:
    db.session("CREATE TABLE stock (n INT PRIMARY KEY)", "INSERT INTO stock VALUES (1)")
    db.busy("DELETE FROM stock WHERE n + SLEEP(600) = 1")
    waiter = db.busy("UPDATE stock SET n = 2 WHERE n = 1")
    db.age()
    async with KillQuery(db.settings()) as executor:
        ctx = db.attempt(KillQuery, **YOUNG, user=db.app, only_blockers=True, query_contains="SLEEP")
        check = await executor.precheck(ctx)
        assert check.ok, check
        assert check.facts["blocked"] >= 1
        receipt = await executor.execute(ctx)
        assert receipt.facts["killed"] == 1
        # The killed query's transaction was a statement of its own, so the lock is gone.
        assert waiter.ended() == 0


async def test_a_repeat_kills_nothing_that_came_later(maria: World) -> None:
    first = maria.busy(SLEEP)
    maria.age()
    ctx = maria.attempt(KillQuery, **YOUNG, database=maria.database)
    async with KillQuery(maria.settings()) as executor, KillQuery(maria.settings()) as restarted:
        await executor.execute(ctx)
        first.ended()
        second = maria.busy(SLEEP)
        assert (await executor.execute(ctx)).facts["killed"] == 0
        assert (await restarted.execute(ctx)).facts["killed"] == 0
        assert second.is_running


async def test_kill_query_refusals(maria: World) -> None:
    tasks = [maria.busy(SLEEP) for _ in range(2)]
    maria.age()
    own = {"database": maria.database}
    async with KillQuery(maria.settings()) as executor:

        async def said(**params: Any) -> str:
            return await refusal(executor, maria.attempt(KillQuery, **{**YOUNG, **own, **params}))

        for params in (
            {"min_seconds": 60},
            {"user": "nobody"},
            {"query_contains": "DELETE"},
            {"only_blockers": True},
        ):
            assert await said(**params) == "no query matches"
        assert "2 queries match, at most 1" in await said(max_n=1)
        with pytest.raises(PermanentError, match="at most 1"):
            await executor.execute(maria.attempt(KillQuery, **YOUNG, **own, max_n=1))
        ctx = maria.attempt(KillQuery, **YOUNG, **own)
        kept = replace(ctx, target=replace(ctx.target, protected=True))
        assert "protected" in await refusal(executor, kept)
        planned = await executor.execute(replace(ctx, dry_run=True))
        assert planned.planned
        assert len(planned.facts["victims"]) == 2
    async with KillQuery(maria.settings(protected_users=[maria.app])) as executor:
        assert "2 protected user" in await refusal(executor, ctx)
        await executor.execute(ctx)
    assert all(task.is_running for task in tasks)


async def test_backups_and_who_copies_are_left_alone(maria: World) -> None:
    maria.session("CREATE TABLE big AS SELECT 1 AS n")
    dump = maria.busy("SELECT /*!40001 SQL_NO_CACHE */ n, SLEEP(600) FROM big")
    maria.age()
    async with KillQuery(maria.settings()) as executor:
        ctx = maria.attempt(KillQuery, **YOUNG, database=maria.database)
        assert "1 backup" in await refusal(executor, ctx)
        assert await refusal(executor, maria.attempt(KillQuery, **YOUNG, user="copy")) == "no query matches"
    assert dump.is_running


async def test_verify_sees_that_it_runs_again_and_after_a_crash_what_was_done(maria: World) -> None:
    running = maria.busy(SLEEP)
    maria.age()
    async with KillQuery(maria.settings()) as executor:
        ctx = maria.attempt(
            KillQuery, **YOUNG, database=maria.database, within_seconds=1.5, hold_seconds=0.05
        )
        partial = Receipt("", 0.0, (await executor.precheck(ctx)).facts, partial=True)
        assert "still run" in (await executor.verify(ctx, partial)).reason
        await executor.execute(ctx)
        running.ended()
        assert (await executor.verify(ctx, partial)).ok
        maria.busy(SLEEP)
        maria.age()
        assert "match now" in (await executor.verify(ctx, partial)).reason


async def test_without_the_privilege_nothing_is_killed(db: World) -> None:
    running = db.busy(SLEEP)
    db.age()
    name = "CONNECTION ADMIN" if db.product == "mariadb" else "CONNECTION_ADMIN"
    db.way.ask(f"REVOKE {name} ON *.* FROM {db.agent}@'%'")
    async with KillQuery(db.settings()) as executor:
        ctx = db.attempt(KillQuery, **YOUNG, database=db.database)
        assert await refusal(executor, ctx) == f"our account lacks {name}"
        with pytest.raises(PermanentError):
            await executor.execute(ctx)
    assert running.is_running


# --- connections ----------------------------------------------------------------------------------------


def reaping(db: World, **changes: Any) -> dict[str, Any]:
    wide = {"users": (db.app,), "full_share": 0.006, "target_share": 0.001, "min_idle": 0, "max_n": 50}
    return {**YOUNG, **wide, **changes}


async def test_connections_are_ended_down_to_what_is_wanted(own_maria, monkeypatch) -> None:
    server = own_maria(**{"max-connections": "20"})
    with world("mariadb", server.way, monkeypatch) as maria:
        sandbox = {"user": maria.app, "password": "env:TEST_MYSQL_APP"}
        async with maria.drill(ConnectionExhaustion, **sandbox) as (drill, trial):
            async with KillConnections(maria.settings()) as executor:
                await healed(executor, maria.on(trial, KillConnections))
            assert (await drill.symptom(maria.drilling(), trial)).ok
            assert 12 <= len(maria.shown(f"USER = '{maria.app}'")) <= 14


async def test_a_completely_full_server_lets_the_agent_in(own_maria, monkeypatch) -> None:
    server = own_maria(**{"max-connections": "12"})
    with world("mariadb", server.way, monkeypatch) as maria:
        for _ in range(12):
            maria.session()
        maria.age()
        async with KillConnections(maria.settings()) as executor:
            ctx = maria.attempt(KillConnections, **reaping(maria, full_share=0.9, target_share=0.5))
            await healed(executor, ctx)


async def test_idle_connections_are_ended_and_busy_ones_stay(db: World) -> None:
    idle = {db.session().thread_id() for _ in range(9)}
    inside = db.session("CREATE TABLE stock (n INT)", "BEGIN", "INSERT INTO stock VALUES (1)")
    busy = db.busy(SLEEP)
    db.age()
    used, allowed = len(db.shown("TRUE")), int(db.way.ask("SELECT @@GLOBAL.max_connections AS n")[0]["n"])
    young = 0.1 if db.product == "mariadb" else 0.5
    async with KillConnections(db.settings()) as executor:
        # Others come and go on this server: four are wanted, more or less.
        few = reaping(
            db, min_seconds=young, target_share=(used - 4) / allowed, full_share=(used - 3) / allowed
        )
        ctx = db.attempt(KillConnections, **few)
        check = await executor.precheck(ctx)
        assert check.ok, check
        receipt = await executor.execute(ctx)
        victims = {key[0] for key in receipt.facts["victims"]}
        assert victims <= idle
        assert receipt.facts["ended"] == len(victims) > 0
    db.until(lambda: not victims & {int(row["ID"]) for row in db.shown(f"USER = '{db.app}'")})
    assert busy.is_running
    assert inside.thread_id() in {int(row["ID"]) for row in db.shown(f"USER = '{db.app}'")}


async def test_kill_connections_refusals(maria: World) -> None:
    for _ in range(2):
        maria.session()
    maria.age()
    async with KillConnections(maria.settings()) as executor:

        async def said(**params: Any) -> str:
            return await refusal(executor, maria.attempt(KillConnections, **reaping(maria, **params)))

        assert "not full" in await said(full_share=0.9, target_share=0.8)
        assert "would not help" in await said(users=("nobody",))
        assert "would not help" in await said(min_seconds=60)
        assert "would not help" in await said(min_idle=2)
        with pytest.raises(PermanentError, match="would not help"):
            await executor.execute(maria.attempt(KillConnections, **reaping(maria, min_idle=2)))
        later = maria.attempt(KillConnections, **reaping(maria, full_share=0.9, target_share=0.8))
        assert (await executor.execute(later)).facts["ended"] == 0
    assert len(maria.shown(f"USER = '{maria.app}'")) == 2


# --- lock blockers --------------------------------------------------------------------------------------


async def test_who_sits_on_a_row_is_ended(db: World) -> None:
    async with db.drill(LockBlocker) as (drill, trial), KillLockBlocker(db.settings()) as executor:
        receipt = await healed(executor, db.on(trial, KillLockBlocker))
        assert receipt.facts["ended"] == 1
        assert (await drill.symptom(db.drilling(), trial)).ok


def jammed(db: World) -> Any:
    """A forgotten transaction has read the table; who wants to change it waits, and so does who came after."""
    db.session("CREATE TABLE stock (n INT PRIMARY KEY)", "INSERT INTO stock VALUES (1)")
    holder = db.session("BEGIN", "SELECT n FROM stock")

    def waiting() -> int:
        return len(db.shown(f"STATE LIKE '%metadata lock%' AND DB = '{db.database}'"))

    changing = db.busy("ALTER TABLE stock ADD COLUMN m INT")
    db.until(lambda: waiting() == 1)
    reading = db.busy("SELECT n FROM stock")
    db.until(lambda: waiting() == 2)
    db.age()
    return holder, changing, reading


async def test_who_holds_a_tables_metadata_lock_is_ended_and_nobody_who_waits(db: World) -> None:
    holder, changing, reading = jammed(db)
    async with KillLockBlocker(db.settings()) as executor:
        ctx = db.attempt(KillLockBlocker, **YOUNG, database=db.database, table="stock")
        check = await executor.precheck(ctx)
        assert [key[0] for key in check.facts["victims"]] == [holder.thread_id()], check
        assert check.facts["waiting"] == 2
        await healed(executor, ctx)
    assert (changing.ended(), reading.ended()) == (0, 0)


async def test_blocker_refusals(maria: World) -> None:
    holder, changing, _ = jammed(maria)
    place = {"database": maria.database, "table": "stock"}
    async with KillLockBlocker(maria.settings()) as executor:

        async def said(**params: Any) -> str:
            return await refusal(executor, maria.attempt(KillLockBlocker, **{**YOUNG, **place, **params}))

        assert "nobody waits" in await said(table="orders")
        assert "has waited" in await said(min_seconds=60)
        second = maria.session("BEGIN", "SET SESSION lock_wait_timeout = 1")
        assert second.open
        ctx = maria.attempt(KillLockBlocker, **YOUNG, **place)
        planned = await executor.execute(replace(ctx, dry_run=True))
        assert planned.planned
        kept = replace(ctx, target=replace(ctx.target, protected=True))
        assert "protected" in await refusal(executor, kept)
        late = maria.attempt(KillLockBlocker, **place, min_seconds=60)
        assert (await executor.execute(late)).facts["ended"] == 0
    async with KillLockBlocker(maria.settings(protected_users=[maria.app])) as executor:
        assert "1 protected user" in await refusal(executor, ctx)
    assert changing.is_running
    assert holder.open


async def test_two_holders_are_too_many(maria: World) -> None:
    maria.session("CREATE TABLE stock (n INT)")
    for _ in range(2):
        maria.session("BEGIN", "SELECT n FROM stock")
    maria.busy("ALTER TABLE stock ADD COLUMN m INT")
    maria.age()
    async with KillLockBlocker(maria.settings()) as executor:
        ctx = maria.attempt(KillLockBlocker, **YOUNG, database=maria.database, table="stock")
        assert "2 connections block" in await refusal(executor, ctx)
        with pytest.raises(PermanentError, match="at most 1"):
            await executor.execute(ctx)


async def test_without_the_plugin_metadata_locks_are_left_alone(own_maria, monkeypatch) -> None:
    with world("mariadb", own_maria().way, monkeypatch) as maria:
        jammed(maria)
        async with KillLockBlocker(maria.settings()) as executor:
            ctx = maria.attempt(KillLockBlocker, **YOUNG, database=maria.database, table="stock")
            assert "metadata_lock_info" in await refusal(executor, ctx)
            with pytest.raises(PermanentError, match="metadata_lock_info"):
                await executor.execute(ctx)


async def test_evidence_holds_no_literals(maria: World) -> None:
    maria.busy("SELECT SLEEP(600), 'of-a-customer'")
    maria.age()
    async with KillQuery(maria.settings()) as executor:
        ctx = maria.attempt(KillQuery, **YOUNG, database=maria.database)
        said = f"{await executor.diagnose(ctx)} {await executor.precheck(ctx)}"
    assert "SELECT SLEEP(?)" in said
    assert "of-a-customer" not in said
    assert PASSWORD not in said
