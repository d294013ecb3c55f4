"""Every Airflow action through the contract test, over both REST APIs, on a fake that speaks them.

What these APIs do is proven on a real Airflow 3 elsewhere; of Airflow 2 there is the fake only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

import pytest

from actions.airflow_control import PauseDag, SetPoolSlots, UnpauseDag
from actions.airflow_mark import MarkState
from actions.airflow_probe import AirflowProbeParams, AirflowProber
from actions.airflow_runs import RerunDagRun, TriggerDag
from actions.airflow_settings import DAG_KIND, POOL_KIND
from actions.airflow_system import AirflowSystem
from actions.airflow_tasks import ClearTasks
from oncall_agent.contract import PermanentError, SystemContext, Target
from oncall_agent.contract.executor import run_inline
from oncall_agent.testing import FakeAirflow, FakeClock, Harness, RecordingLog, check_executor, context_for
from oncall_agent.testing.airflow_state import FakeDag, FakePool

SECRET = "s3cr3t-Zx81"
DAG = Target("etl", DAG_KIND, address={"dag": "etl"})
POOL = Target("etl-pool", POOL_KIND, address={"pool": "etl"})
VERSIONS = pytest.mark.parametrize("version", ["2.10.5", "3.3.2"])


@pytest.fixture
async def airflow(version: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAirflow]:
    monkeypatch.setenv("TEST_PASSWORD", SECRET)
    async with FakeAirflow(FakeClock(), version=version, password=SECRET) as server:
        server.world.dags["etl"] = FakeDag("etl")
        server.world.pools["etl"] = FakePool("etl")
        yield server


def settings(airflow: FakeAirflow) -> dict[str, Any]:
    return {"url": airflow.url, "username": "me", "password": "env:TEST_PASSWORD"}


def harness(
    airflow: FakeAirflow,
    kind: type[Any],
    make_sick: Callable[[], None],
    look: Callable[[], object],
    **params: Any,
) -> Harness:
    async def sicken() -> None:
        make_sick()

    async def effects() -> int:
        return len(airflow.world.changes)

    async def snapshot() -> object:
        return look()

    async def hang() -> None:
        airflow.hangs = True

    async def release() -> None:
        airflow.hangs = False

    return Harness(
        factory=lambda: kind(settings(airflow)),
        target=POOL if kind is SetPoolSlots else DAG,
        make_sick=sicken,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        params=params,
        clock=airflow.world.clock,
    )


def failed_run(airflow: FakeAirflow, kind: type[Any]) -> Harness:
    world = airflow.world

    def make_sick() -> None:
        world.fail("etl", "r1", ended_at=world.clock.now() - 5.0)

    return harness(airflow, kind, make_sick, lambda: world.runs["etl", "r1"].state)


def no_run(airflow: FakeAirflow) -> Harness:
    world = airflow.world

    def make_sick() -> None:
        for run in world.runs.values():
            run.state, run.ended_at = "failed", world.clock.now()

    return harness(
        airflow,
        TriggerDag,
        make_sick,
        lambda: [run.id for run in world.runs.values() if run.state == "queued"],
    )


def stuck_run(airflow: FakeAirflow, **params: Any) -> Harness:
    world = airflow.world

    def make_sick() -> None:
        world.hang("etl", "r1", since=world.clock.now() - 7_200.0)

    def look() -> object:
        run = world.runs["etl", "r1"]
        return run.state in ("queued", "running") and run.tasks["load"].state not in ("failed", "success")

    return harness(airflow, MarkState, make_sick, look, **params)


def paused(airflow: FakeAirflow, kind: type[Any], *, is_paused: bool) -> Harness:
    dag = airflow.world.dags["etl"]

    def make_sick() -> None:
        dag.is_paused = is_paused

    return harness(airflow, kind, make_sick, lambda: dag.is_paused)


def starved_pool(airflow: FakeAirflow) -> Harness:
    pool = airflow.world.pools["etl"]

    def make_sick() -> None:
        pool.slots, pool.waiting = 0, 2

    return harness(airflow, SetPoolSlots, make_sick, lambda: pool.slots, slots=4)


WORLDS: dict[str, Callable[[FakeAirflow], Harness]] = {
    "airflow.clear_tasks": lambda airflow: failed_run(airflow, ClearTasks),
    "airflow.mark_state": stuck_run,
    "airflow.pause_dag": lambda airflow: paused(airflow, PauseDag, is_paused=False),
    "airflow.rerun_dag_run": lambda airflow: failed_run(airflow, RerunDagRun),
    "airflow.set_pool_slots": starved_pool,
    "airflow.trigger_dag": no_run,
    "airflow.unpause_dag": lambda airflow: paused(airflow, UnpauseDag, is_paused=True),
}


@VERSIONS
@pytest.mark.parametrize("action", WORLDS)
async def test_executor_keeps_the_contract(action: str, airflow: FakeAirflow) -> None:
    scorecard = await check_executor(WORLDS[action](airflow))
    assert not scorecard.failures, str(scorecard)


@VERSIONS
async def test_marking_a_task_keeps_the_contract(airflow: FakeAirflow) -> None:
    scorecard = await check_executor(stuck_run(airflow, task="load"))
    assert not scorecard.failures, str(scorecard)


def test_every_airflow_action_has_a_contract_test() -> None:
    found = {p.name for p in entry_points(group="oncall_agent.actions") if p.name.startswith("airflow.")}
    assert found == set(WORLDS)


@VERSIONS
async def test_one_api_is_spoken_to_each_version(version: str, airflow: FakeAirflow) -> None:
    world = WORLDS["airflow.clear_tasks"](airflow)
    await world.make_sick()
    ctx, _ = world.context()
    async with ClearTasks(settings(airflow)) as executor:
        assert (await executor.ping(ctx)).reason == f"Airflow {version}, scheduler healthy"
        assert "Task failed with exception" in str((await executor.diagnose(ctx))["log"])
        assert (await executor.verify(ctx, await executor.execute(ctx))).ok
    spoken = {path.split("/")[2] for _, path in airflow.requests if path.startswith("/api/")}
    assert spoken == ({"v1", "v2"} if airflow.is_v1 else {"v2"})
    assert [path for _, path in airflow.requests if "/api/v2/" in path] == [
        "/api/v2/version"
    ] or not airflow.is_v1
    assert "oncall-agent" in (airflow.world.runs["etl", "r1"].note or "")


@VERSIONS
async def test_what_people_wrote_into_the_note_of_a_run_stays(airflow: FakeAirflow) -> None:
    world = WORLDS["airflow.rerun_dag_run"](airflow)
    await world.make_sick()
    airflow.world.runs["etl", "r1"].note = "known: the source is slow on Mondays"
    ctx, _ = world.context()
    async with RerunDagRun(settings(airflow)) as executor:
        await executor.execute(ctx)
    note = airflow.world.runs["etl", "r1"].note or ""
    assert note.splitlines()[0] == "known: the source is slow on Mondays"
    assert len(note.splitlines()) == 2


@VERSIONS
async def test_a_run_that_succeeds_while_it_is_undone_is_left_so(airflow: FakeAirflow) -> None:
    world = WORLDS["airflow.clear_tasks"](airflow)
    await world.make_sick()
    ctx, _ = world.context()
    async with ClearTasks(settings(airflow)) as executor:
        receipt = await executor.execute(ctx)
        await airflow.world.clock.sleep(5.0)
        undone = await executor.rollback(ctx, receipt)
    assert undone.ok
    assert "succeeded meanwhile" in undone.reason
    assert airflow.world.runs["etl", "r1"].state == "success"


@VERSIONS
async def test_wrong_credentials_and_a_small_role_are_named(airflow: FakeAirflow, monkeypatch) -> None:
    world = WORLDS["airflow.pause_dag"](airflow)
    ctx, _ = world.context()
    airflow.may_change = False
    async with PauseDag(settings(airflow)) as executor:
        with pytest.raises(PermanentError, match="the role of me is too small"):
            await executor.execute(ctx)
    monkeypatch.setenv("TEST_PASSWORD", "wrong-Zx81")
    async with PauseDag(settings(airflow)) as executor:
        with pytest.raises(PermanentError, match=r"refuses the (password|credentials) of me"):
            await executor.precheck(ctx)


@pytest.mark.parametrize(
    ("version", "reason"),
    [("2.4.3", "keeps no notes on runs"), ("1.10.15", "are known"), ("4.0.0", "are known")],
)
async def test_versions_that_are_not_known_are_refused_by_name(reason: str, airflow: FakeAirflow) -> None:
    async with PauseDag(settings(airflow)) as executor:
        ctx = context_for(PauseDag.spec.params(), DAG)
        with pytest.raises(PermanentError, match=reason):
            await executor.execute(ctx)
        assert not airflow.world.changes
    async with AirflowSystem(settings(airflow)) as system:
        found = await system.inspect(_inspecting(), ("airflow.pause_dag",))
    assert reason in found.unsupported


@VERSIONS
async def test_inspect_says_honestly_what_is_proven(airflow: FakeAirflow) -> None:
    async with AirflowSystem(settings(airflow)) as system:
        found = await system.inspect(_inspecting(), ("airflow.pause_dag",))
        airflow.may_change = False
        small = await system.inspect(_inspecting(), ("airflow.pause_dag",))
    assert ("not proven on a real server" in found.product) is airflow.is_v1
    assert {one.name: one.held for one in found.privileges}["can_edit on DAGs"]
    assert not {one.name: one.held for one in small.privileges}["can_edit on DAGs"]
    assert not airflow.world.changes


def _inspecting() -> SystemContext:
    return SystemContext(FakeClock(), RecordingLog(), 60.0)


@VERSIONS
async def test_the_prober_tells_failed_stuck_paused_and_starved_from_well(airflow: FakeAirflow) -> None:
    world = airflow.world

    async def seen(target: Target = DAG, **params: Any) -> tuple[bool | None, str]:
        async with AirflowProber(settings(airflow)) as prober:
            reading = await prober.read(
                target,
                AirflowProbeParams(**params),
                timeout_seconds=5.0,
                clock=world.clock,
                run_blocking=run_inline,
            )
        return reading.signals.up, str(reading.facts.get("reason", ""))

    assert await seen() == (True, "")
    assert await seen(POOL) == (False, "2 tasks wait, no slot is open")
    run = world.fail("etl", "r1", ended_at=world.clock.now())
    assert await seen() == (False, "run r1 failed")
    run.state = "success"
    assert await seen() == (True, "")
    world.hang("etl", "r2", since=world.clock.now() - 100.0)
    assert await seen() == (True, "")
    assert await seen(running_seconds=50.0) == (False, "run r2 has been running for 100 s")
    world.runs.clear()
    world.dags["etl"].is_paused = True
    assert await seen() == (False, "the DAG is paused")
    assert await seen(may_be_paused=True) == (True, "")
    assert await seen(replace(DAG, address={"dag": "gone"})) == (False, "Airflow: DAG not found")
    world.has_scheduler = False
    assert await seen() == (False, "Airflow's scheduler is unhealthy")


@VERSIONS
async def test_a_live_trigger_keeps_a_deferred_task_from_being_declared_dead(airflow: FakeAirflow) -> None:
    world = stuck_run(airflow)
    await world.make_sick()
    shown = airflow._shown_task

    def deferred(run: Any, name: str) -> dict[str, Any]:
        beat = shown(run, name)["start_date"] if is_dead else _now(airflow)
        return {**shown(run, name), "triggerer_job": {"latest_heartbeat": beat}}

    airflow._shown_task = deferred  # type: ignore[method-assign]
    ctx, _ = world.context()
    async with MarkState(settings(airflow)) as executor:
        is_dead = False
        alive = await executor.precheck(ctx)
        is_dead = True
        dead = await executor.precheck(ctx)
    assert (alive.ok, alive.reason) == (False, "its trigger gave a sign of life lately")
    assert dead.ok


def _now(airflow: FakeAirflow) -> str | None:
    from oncall_agent.testing.airflow_state import date_of

    return date_of(airflow.world.clock.now())


@pytest.mark.parametrize("conf", [{"x": "y" * 5_000}, {"x": float("nan")}, {"x": object()}])
def test_the_conf_of_a_run_is_small_json(conf: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        TriggerDag.spec.params.model_validate({"conf": conf})
