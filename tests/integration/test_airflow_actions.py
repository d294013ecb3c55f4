"""The Airflow actions against a real Airflow: real faults, the fix proven, taken back, and every refusal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scenes.airflow import SOON, World, attempt, until

from actions.airflow_api import AirflowApi
from actions.airflow_client import AirflowClient, TakenError
from actions.airflow_control import PauseDag, SetPoolSlots, UnpauseDag
from actions.airflow_mark import MarkState
from actions.airflow_runs import RerunDagRun, TriggerDag, run_id_of
from actions.airflow_tasks import ClearTasks
from oncall_agent.contract import PermanentError, Receipt

pytestmark = [pytest.mark.backend("airflow"), pytest.mark.slow]

Open = Callable[..., Awaitable[Any]]


@pytest.fixture
async def opened(airflow_settings) -> AsyncIterator[Open]:
    """Opens executors with the least role that they work with, and closes them after the test."""
    executors: list[Any] = []

    async def open_one(kind: type[Any], **settings: Any) -> Any:
        role = "op" if kind is SetPoolSlots else "user"
        executor = await kind({**airflow_settings(role), **settings}).__aenter__()
        executors.append(executor)
        return executor

    yield open_one
    for executor in executors:
        await executor.__aexit__(None, None, None)


@pytest.fixture
async def world(airflow_settings, airflow_folder: Path) -> AsyncIterator[World]:
    async with AirflowClient(airflow_settings("op")) as client:
        yield World(AirflowApi(client), airflow_folder)


# --- clear tasks -------------------------------------------------------------------------------------------


async def test_clear_heals_a_run_whose_task_failed(world: World, opened: Open) -> None:
    run, gate = await world.failed("oncall_clear")
    first, second = await opened(ClearTasks), await opened(ClearTasks)
    ctx = attempt(ClearTasks, "oncall_clear", run=run)
    found = await first.diagnose(ctx)
    assert "the source does not answer" in str(found["log"])
    check = await first.precheck(ctx)
    assert (check.ok, check.facts["tasks"]) == (True, {"load": 1, "publish": 0}), check
    planned = await first.execute(replace(ctx, dry_run=True))
    assert planned.planned
    assert not (await first.verify(ctx, planned)).ok
    gate.touch()
    receipt = await first.execute(ctx)
    replayed = await second.execute(ctx)
    assert replayed.facts == receipt.facts
    verified = await first.verify(ctx, receipt)
    assert verified.ok, verified
    assert await world.tries("oncall_clear", run) == {"load": 2, "publish": 1}
    await second.execute(ctx)
    assert (await world.state("oncall_clear", run)) == "success"
    crashed = Receipt("airflow.clear_tasks", 0.0, check.facts, partial=True)
    assert (await second.verify(ctx, crashed)).ok


async def test_clear_verify_fails_when_the_task_fails_again_and_rollback_leaves_it_failed(
    world: World, opened: Open
) -> None:
    run, _ = await world.failed("oncall_clear_undo")
    executor = await opened(ClearTasks)
    ctx = attempt(ClearTasks, "oncall_clear_undo", run=run, tasks=("load",), downstream=True)
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert not verified.ok
    assert "not successful: load" in verified.reason
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        assert await world.state("oncall_clear_undo", run) == "failed"


async def test_clear_rollback_fails_a_run_that_still_goes_on(world: World, opened: Open) -> None:
    run, gate = await world.failed("oncall_clear_undo")
    executor = await opened(ClearTasks)
    ctx = attempt(ClearTasks, "oncall_clear_undo", run=run)
    gate.touch()
    receipt = await executor.execute(ctx)
    for _ in range(2):
        undone = await executor.rollback(ctx, receipt)
        assert undone.ok, undone
    assert await world.state("oncall_clear_undo", run) in ("failed", "success")


async def test_clear_goes_on_from_an_intent_that_was_not_carried_out(world: World, opened: Open) -> None:
    run, gate = await world.failed("oncall_clear")
    executor = await opened(ClearTasks)
    ctx = attempt(ClearTasks, "oncall_clear", run=run)
    gate.touch()
    kept = executor.api.clear

    async def dies_before_the_call(*given: Any, dry_run: bool, **more: Any) -> list[str]:
        if not dry_run:
            raise PermanentError("the process died here")
        found: list[str] = await kept(*given, dry_run=dry_run, **more)
        return found

    executor.api.clear = dies_before_the_call
    with pytest.raises(PermanentError):
        await executor.execute(ctx)
    other = await opened(ClearTasks)
    verified = await other.verify(ctx, await other.execute(ctx))
    assert verified.ok, verified
    assert (await world.tries("oncall_clear", run))["load"] == 2


async def test_clear_refuses_what_it_must_not_touch(world: World, opened: Open) -> None:
    run, _ = await world.failed("oncall_clear_many")
    executor = await opened(ClearTasks)

    async def reason(dag: str = "oncall_clear_many", **params: Any) -> str:
        check = await executor.precheck(attempt(ClearTasks, dag, **params))
        assert not check.ok
        with pytest.raises(PermanentError):
            await executor.execute(attempt(ClearTasks, dag, **params))
        return str(check.reason)

    assert "2 tasks would be cleared, at most 1" in await reason(run=run, max_tasks=1)
    assert "load was tried 1 times" in await reason(run=run, max_attempts=1)
    assert "there is no run nothing" in await reason(run="nothing")
    assert "lacks the tag oncall-agent" in await reason("oncall_untagged")
    assert "is protected by its tag" in await reason("oncall_protected")
    assert "there is no DAG oncall_no_such" in await reason("oncall_no_such")
    await world.api.set_paused(SOON, "oncall_paused", is_paused=True)
    assert "is paused" in await reason("oncall_paused")
    assert "no run has failed" in await reason("oncall_contract")
    assert "s old" in await reason(max_age_seconds=0.001)
    hanging, gate = await world.hanging("oncall_clear_many")
    assert "no such tasks" in await reason(run=hanging)
    assert "is still running" in await reason(run=hanging, only_failed=False)
    gate.touch()


# --- rerun -------------------------------------------------------------------------------------------------


async def test_rerun_heals_a_failed_run_once_per_key(world: World, opened: Open) -> None:
    run, gate = await world.failed("oncall_rerun")
    first, second = await opened(RerunDagRun), await opened(RerunDagRun)
    ctx = attempt(RerunDagRun, "oncall_rerun")
    check = await first.precheck(ctx)
    assert (check.ok, check.facts["run"]) == (True, run)
    assert (await first.execute(replace(ctx, dry_run=True))).planned
    assert not (await first.verify(ctx, Receipt("", 0.0, check.facts, partial=True))).ok
    gate.touch()
    receipt = await first.execute(ctx)
    assert (await second.execute(ctx)).facts["run"] == run
    verified = await first.verify(ctx, receipt)
    assert verified.ok, verified
    await second.execute(ctx)
    assert await world.tries("oncall_rerun", run) == {"load": 2, "publish": 1}


async def test_rerun_that_fails_again_is_seen_and_rollback_declares_it_failed(
    world: World, opened: Open
) -> None:
    run, _ = await world.failed("oncall_rerun_undo")
    executor = await opened(RerunDagRun)
    ctx = attempt(RerunDagRun, "oncall_rerun_undo", run=run)
    receipt = await executor.execute(ctx)
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
    assert await world.state("oncall_rerun_undo", run) == "failed"
    verified = await executor.verify(ctx, receipt)
    assert not verified.ok
    assert "is failed" in verified.reason


async def test_rerun_refuses_what_it_must_not_touch(world: World, opened: Open) -> None:
    executor = await opened(RerunDagRun)

    async def reason(dag: str, **params: Any) -> str:
        check = await executor.precheck(attempt(RerunDagRun, dag, **params))
        assert not check.ok
        return str(check.reason)

    assert "lacks the tag oncall-agent.rerunnable" in await reason("oncall_untagged")
    assert "is protected" in await reason("oncall_protected")
    hanging, gate = await world.hanging("oncall_rerun_undo")
    assert "is still running" in await reason("oncall_rerun_undo", run=hanging)
    gate.touch()
    await world.until_state("oncall_rerun_undo", hanging, "success")
    assert "was tried 1 times" in await reason("oncall_rerun_undo", run=hanging, max_attempts=1)


# --- trigger -----------------------------------------------------------------------------------------------


async def test_trigger_makes_one_run_per_key_and_proves_its_success(world: World, opened: Open) -> None:
    first, second = await opened(TriggerDag), await opened(TriggerDag)
    ctx = attempt(TriggerDag, "oncall_trigger", conf={"rows": 3})
    assert (await first.precheck(ctx)).ok
    planned = await first.execute(replace(ctx, dry_run=True))
    assert not (await first.verify(ctx, planned)).ok
    receipt = await first.execute(ctx)
    assert (await second.execute(ctx)).facts == receipt.facts == {"run": run_id_of(ctx)}
    verified = await first.verify(ctx, receipt)
    assert verified.ok, verified
    check = await first.precheck(ctx)
    assert (check.ok, check.reason) == (False, f"there is a run {run_id_of(ctx)} already")


async def test_trigger_refuses_beyond_the_active_runs_and_rollback_ends_its_own(
    world: World, opened: Open
) -> None:
    executor = await opened(TriggerDag)
    ctx = attempt(TriggerDag, "oncall_trigger_undo", conf={"hang": "never"}, sla_seconds=1.0)
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert not verified.ok
    other = attempt(TriggerDag, "oncall_trigger_undo", conf={"hang": "never"})
    second = await executor.execute(other)
    check = await executor.precheck(attempt(TriggerDag, "oncall_trigger_undo"))
    assert (check.ok, check.reason) == (False, "2 runs are active, DAG oncall_trigger_undo may have 2")
    for mine, made in ((ctx, receipt), (ctx, receipt), (other, second)):
        assert (await executor.rollback(mine, made)).ok
        assert await world.state("oncall_trigger_undo", made.facts["run"]) == "failed"


async def test_trigger_refuses_a_protected_and_a_paused_dag(world: World, opened: Open) -> None:
    executor = await opened(TriggerDag)
    await world.api.set_paused(SOON, "oncall_paused", is_paused=True)
    for dag, reason in (
        ("oncall_protected", "protected"),
        ("oncall_paused", "paused"),
        ("oncall_no", "no DAG"),
    ):
        check = await executor.precheck(attempt(TriggerDag, dag))
        assert not check.ok
        assert reason in check.reason


# --- pause, unpause ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dag", "wanted"),
    [(PauseDag, "oncall_pause", True), (UnpauseDag, "oncall_unpause", False)],
    ids=["pause", "unpause"],
)
async def test_pausing_and_unpausing_hold_and_are_taken_back(
    kind: Any, dag: str, *, wanted: bool, world: World, opened: Open
) -> None:
    await world.api.set_paused(SOON, dag, is_paused=not wanted)
    executor, ctx = await opened(kind), attempt(kind, dag, hold_seconds=0.5)
    check = await executor.precheck(ctx)
    assert (check.ok, check.facts) == (True, {"was_paused": not wanted})
    planned = await executor.execute(replace(ctx, dry_run=True))
    assert not (await executor.verify(replace(ctx, deadline_at=ctx.clock.monotonic() + 1.0), planned)).ok
    receipt = await executor.execute(ctx)
    assert (await (await opened(kind)).execute(ctx)).facts == receipt.facts
    assert (await executor.verify(ctx, receipt)).ok
    refused = await executor.precheck(ctx)
    assert (refused.ok, "already" in refused.reason) == (False, True)
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        assert (await world.api.dag(SOON, dag)).is_paused is not wanted
    assert "protected" in (await executor.precheck(attempt(kind, "oncall_protected"))).reason


# --- mark state --------------------------------------------------------------------------------------------


async def test_mark_ends_a_stuck_run_and_rollback_lets_it_go_on(world: World, opened: Open) -> None:
    run, gate = await world.hanging("oncall_mark_run")
    first, second = await opened(MarkState), await opened(MarkState)
    patient = attempt(MarkState, "oncall_mark_run", run=run)
    assert "s only" in (await first.precheck(patient)).reason
    ctx = attempt(MarkState, "oncall_mark_run", stuck_seconds=0.1)
    check = await first.precheck(ctx)
    assert (check.ok, check.facts["before"]) == (True, {"load": "running", "publish": ""}), check
    planned = await first.execute(replace(ctx, dry_run=True))
    assert planned.planned
    receipt = await first.execute(ctx)
    assert set((await second.execute(ctx)).facts["before"]) == {"load", "publish"}
    verified = await first.verify(ctx, receipt)
    assert verified.ok, verified
    assert await world.state("oncall_mark_run", run) == "failed"
    gate.touch()
    for _ in range(2):
        undone = await first.rollback(ctx, receipt)
        assert undone.ok, undone
    await world.until_state("oncall_mark_run", run, "success")
    refused = await first.precheck(ctx)
    assert (refused.ok, refused.reason) == (False, "no run is going on")


async def test_mark_success_of_a_stuck_task_lets_its_successor_run(world: World, opened: Open) -> None:
    run, _ = await world.hanging("oncall_mark_task")
    executor = await opened(MarkState)
    params = {"run": run, "task": "load", "state": "success"}
    ctx = attempt(MarkState, "oncall_mark_task", stuck_seconds=0.1, **params)
    receipt = await executor.execute(ctx)
    assert receipt.facts["before"] == {"load": "running"}
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    await world.until_state("oncall_mark_task", run, "success")
    assert await world.states("oncall_mark_task", run) == {"load": "success", "publish": "success"}
    again = await executor.precheck(attempt(MarkState, "oncall_mark_task", **params))
    assert "is success" in again.reason
    second, gate = await world.hanging("oncall_mark_task")
    slow = attempt(MarkState, "oncall_mark_task", run=second, stuck_seconds=0.01, history_factor=100.0)
    assert "a run took" in (await executor.precheck(slow)).reason
    absent = attempt(MarkState, "oncall_mark_task", run=second, task="nothing")
    assert "no task nothing" in (await executor.precheck(absent)).reason
    gate.touch()


async def test_mark_refuses_a_protected_and_an_unknown_dag(opened: Open) -> None:
    executor = await opened(MarkState)
    for dag, reason in (("oncall_protected", "protected"), ("oncall_no_such", "there is no DAG")):
        check = await executor.precheck(attempt(MarkState, dag))
        assert not check.ok
        assert reason in check.reason
        with pytest.raises(PermanentError, match=reason):
            await executor.execute(attempt(MarkState, dag))


# --- pool slots --------------------------------------------------------------------------------------------


async def test_more_slots_heal_a_starved_pool_and_are_taken_back(world: World, opened: Open) -> None:
    client, pool = world.api.client, "oncall_pool"
    with contextlib.suppress(TakenError):
        await client.call(SOON, "POST", "/pools", body={"name": pool, "slots": 0})
    run = await world.made("oncall_pool", {})

    async def waits() -> bool:
        return (await world.api.pool(SOON, pool)).waiting > 0

    await until(waits)
    first, second = await opened(SetPoolSlots), await opened(SetPoolSlots, protected_pools=[pool])
    ctx = attempt(SetPoolSlots, pool=pool, slots=2)
    assert "is protected" in (await second.precheck(ctx)).reason
    assert (await first.diagnose(ctx))["waiting"] == 1
    too_many = attempt(SetPoolSlots, pool=pool, slots=129)
    assert "more than the 128" in (await first.precheck(too_many)).reason
    check = await first.precheck(ctx)
    assert (check.ok, check.facts) == (True, {"slots_before": 0, "waiting_before": 1})
    assert (await first.execute(replace(ctx, dry_run=True))).planned
    receipt = await first.execute(ctx)
    assert (await first.execute(ctx)).facts == receipt.facts
    verified = await first.verify(ctx, receipt)
    assert verified.ok, verified
    await world.until_state("oncall_pool", run, "success")
    assert "has 2 slots already" in (await first.precheck(ctx)).reason
    assert "nothing waits" in (await first.precheck(attempt(SetPoolSlots, pool=pool, slots=3))).reason
    for _ in range(2):
        assert (await first.rollback(ctx, receipt)).ok
        assert (await world.api.pool(SOON, pool)).slots == 0
    await client.call(SOON, "DELETE", f"/pools/{pool}")


async def test_slots_of_an_unknown_pool_are_refused(opened: Open) -> None:
    executor = await opened(SetPoolSlots)
    check = await executor.precheck(attempt(SetPoolSlots, pool="no_such_pool", slots=2))
    assert (check.ok, check.reason) == (False, "there is no pool no_such_pool")
    assert (
        "slots already"
        in (await executor.precheck(attempt(SetPoolSlots, pool="default_pool", slots=2))).reason
    )
