"""The Spark actions through the contract test on a fake cluster, and every refusal that needs no real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actions.spark_kill import KillApplication
from actions.spark_prober import SparkProber
from actions.spark_stages import KillJobOrStage
from actions.spark_streaming import RestartStreaming
from actions.spark_submit import Resubmit, RetryWithResources
from actions.spark_workers import DecommissionExecutorOrWorker
from oncall_agent.contract import (
    ActionContext,
    Executor,
    PermanentError,
    Target,
    TransientError,
    run_inline,
)
from oncall_agent.testing import FakeClock, Harness, check_executor, context_for
from oncall_agent.testing.spark import FakeSpark, stage

SECRET = "s3cr3t-Zx81"
APP = Target("etl", "spark_application", address={"application": "etl", "submission": "etl"})
HOST = Target("worker", "spark_worker", address={"host": "10.0.0.2"})
OOM = "ExecutorLostFailure (executor 0 exited caused by one of the running tasks) exit code 52"


@dataclass
class World:
    spark: FakeSpark
    clock: FakeClock
    checkpoint: Path

    def settings(self, **more: Any) -> dict[str, Any]:
        conf = {"spark.executor.memory": "1g"}
        submission = {
            "app_name": "etl",
            "resource": "/srv/etl.py",
            "conf": conf,
            "checkpoint": str(self.checkpoint),
        }
        return {
            "master_url": self.spark.url,
            "submit_url": self.spark.url,
            "history_url": f"{self.spark.url}/history",
            "spark_master": "spark://127.0.0.1:7077",
            "token": "env:TEST_TOKEN",
            "submissions": {"etl": submission},
            **more,
        }

    def batches(self, newest: int) -> None:
        (self.checkpoint / "offsets").mkdir(parents=True, exist_ok=True)
        (self.checkpoint / "metadata").write_text('{"id":"1"}')
        for number in range(newest + 1):
            (self.checkpoint / "offsets" / str(number)).touch()


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    clock = FakeClock()
    async with FakeSpark(clock, token=SECRET) as spark:
        yield World(spark, clock, tmp_path / "checkpoint")


def attempt(kind: type[Executor], world: World, target: Target = APP, **params: Any) -> ActionContext:
    return context_for(kind.spec.params.model_validate(params), target, clock=world.clock)


# --- the world of each action ----------------------------------------------------------------------------


def over_its_time(world: World) -> None:
    for app in world.spark.apps:
        app.state = "FINISHED"
    world.spark.add("etl", age=7_200)


def with_a_stuck_stage(world: World) -> None:
    for app in world.spark.apps:
        app.state = "FINISHED"
    world.spark.add("etl", stages=[stage(3, world.clock.now() - 3_600, "ACTIVE")])


def ended(world: World) -> None:
    for app in world.spark.apps:
        app.state = "FINISHED"
        world.spark.drivers.clear()
    world.spark.add("etl", "FINISHED")


def out_of_memory(world: World) -> None:
    ended(world)
    world.spark.apps[-1].removed = [OOM]


def dead_stream(world: World) -> None:
    ended(world)
    world.batches(4)
    sleep = FakeClock.sleep

    async def streaming(seconds: float) -> None:
        # A batch per look, while the application lives.
        if any(not app.is_over for app in world.spark.apps):
            world.batches(len(list((world.checkpoint / "offsets").iterdir())))
        await sleep(world.clock, seconds)

    world.clock.sleep = streaming  # type: ignore[method-assign]


def sick_host(world: World) -> None:
    for row, used in zip(world.spark.workers, (0, 2), strict=True):
        row.update(state="ALIVE", coresused=used, memoryused=used * 512)


WORLDS: dict[type[Executor], tuple[Callable[[World], None], Target, dict[str, Any]]] = {
    KillApplication: (over_its_time, APP, {}),
    KillJobOrStage: (with_a_stuck_stage, APP, {}),
    Resubmit: (ended, APP, {}),
    RetryWithResources: (out_of_memory, APP, {"until": "progress"}),
    RestartStreaming: (dead_stream, APP, {}),
    DecommissionExecutorOrWorker: (sick_host, HOST, {}),
}


@pytest.mark.parametrize("kind", WORLDS, ids=lambda kind: kind.spec.id)
async def test_executor_keeps_the_contract(kind: type[Executor], world: World) -> None:
    sicken, target, params = WORLDS[kind]

    async def make_sick() -> None:
        world.spark.hangs = False
        world.clock.advance(1.0)
        sicken(world)

    async def effects() -> int:
        return world.spark.effects

    async def snapshot() -> object:
        return sorted(app.name for app in world.spark.apps if not app.is_over)

    async def hang() -> None:
        world.spark.hangs = True

    async def release() -> None:
        world.spark.hangs = False

    harness = Harness(
        factory=lambda: kind(world.settings()),
        target=target,
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        params=params,
        clock=world.clock,
    )
    scorecard = await check_executor(harness)
    assert not scorecard.failures, str(scorecard)


# --- refusals ----------------------------------------------------------------------------------------------


def young(world: World) -> None:
    world.spark.add("etl", age=60)


def twins(world: World) -> None:
    world.spark.add("etl", age=7_200)
    world.spark.add("etl", age=7_300)


def moving(world: World) -> None:
    world.spark.add("etl", age=600, stages=[stage(1, world.clock.now() - 5, "COMPLETE")])


def slow_as_ever(world: World) -> None:
    former = [stage(1, world.clock.now() - 9_000, "COMPLETE", seconds=2_000)]
    world.spark.add("etl", "FINISHED", age=9_000, stages=former)
    world.spark.add("etl", stages=[stage(3, world.clock.now() - 3_600, "ACTIVE")])


def bumped_twice(world: World) -> None:
    out_of_memory(world)
    world.spark.apps[-1].properties = {"spark.oncall.bump": "2", "spark.executor.memory": "4g"}


def huge(world: World) -> None:
    out_of_memory(world)
    world.spark.apps[-1].properties = {"spark.executor.memory": "12g"}


def taken(world: World) -> None:
    out_of_memory(world)
    world.spark.add("etl")


def full(world: World) -> None:
    sick_host(world)
    world.spark.workers[0]["coresused"] = 3


def leaving(world: World) -> None:
    sick_host(world)
    world.spark.workers.append({**world.spark.workers[1], "host": "10.0.0.3", "state": "DECOMMISSIONED"})


def alone(world: World) -> None:
    sick_host(world)
    world.spark.workers[0]["state"] = "DEAD"


def with_driver(world: World) -> None:
    sick_host(world)
    row = {"id": "driver-1", "starttime": "0", "state": "RUNNING", "worker": "worker-10.0.0.2", "conf": {}}
    world.spark.drivers["driver-1"] = row


def nothing(_world: World) -> None:
    return


@pytest.mark.parametrize(
    ("kind", "sicken", "params", "reason"),
    [
        (KillApplication, nothing, {}, "no application of that name"),
        (KillApplication, young, {}, "it has run for 60 of its 3600 s"),
        (KillApplication, moving, {"stalled_seconds": 60}, "its last stage is 4 s old"),
        (KillApplication, twins, {}, "2 applications of that name run"),
        (KillJobOrStage, nothing, {}, "0 applications of that name run"),
        (KillJobOrStage, young, {}, "no such stage runs"),
        (KillJobOrStage, with_a_stuck_stage, {"number": 9}, "no such stage runs"),
        (KillJobOrStage, with_a_stuck_stage, {"min_seconds": 7_200}, "less than 7200 s"),
        (KillJobOrStage, slow_as_ever, {}, "less than 6000 s"),
        (Resubmit, young, {}, "of that name is RUNNING"),
        (RetryWithResources, nothing, {}, "does not know a former run"),
        (RetryWithResources, ended, {}, "nothing shows that"),
        (RetryWithResources, bumped_twice, {}, "2 times in a row"),
        (RetryWithResources, huge, {}, "beyond the cap"),
        (RetryWithResources, taken, {}, "of that name is RUNNING"),
        (RestartStreaming, ended, {}, "the checkpoint can't be read"),
        (DecommissionExecutorOrWorker, full, {}, "no room"),
        (DecommissionExecutorOrWorker, leaving, {}, "one at a time"),
        (DecommissionExecutorOrWorker, alone, {}, "the last host"),
        (DecommissionExecutorOrWorker, with_driver, {}, "a driver runs on that host"),
    ],
)
async def test_precheck_refuses(
    kind: type[Executor], sicken: Callable[[World], None], params: dict[str, Any], reason: str, world: World
) -> None:
    sicken(world)
    async with kind(world.settings()) as executor:
        check = await executor.precheck(attempt(kind, world, WORLDS[kind][1], **params))
    assert (check.ok, reason in check.reason) == (False, True), check
    assert world.spark.effects == 0


@pytest.mark.parametrize("kind", [kind for kind in WORLDS if kind is not DecommissionExecutorOrWorker])
@pytest.mark.parametrize("way", ["label", "settings"])
async def test_what_is_protected_is_never_touched(kind: type[Executor], way: str, world: World) -> None:
    WORLDS[kind][0](world)
    target = Target("etl", APP.kind, address=APP.address, protected=way == "label")
    settings = world.settings(protected=["et*"] if way == "settings" else [])
    async with kind(settings) as executor:
        ctx = attempt(kind, world, target)
        check = await executor.precheck(ctx)
        assert (check.ok, check.reason) == (False, "the application is protected")
        with pytest.raises(PermanentError, match="protected"):
            await executor.execute(ctx)
    assert world.spark.effects == 0


async def test_a_protected_host_is_never_taken_out(world: World) -> None:
    sick_host(world)
    target = Target("worker", HOST.kind, address=HOST.address, protected=True)
    async with DecommissionExecutorOrWorker(world.settings()) as executor:
        ctx = attempt(DecommissionExecutorOrWorker, world, target)
        assert not (await executor.precheck(ctx)).ok
        with pytest.raises(PermanentError, match="protected"):
            await executor.execute(ctx)


async def test_without_a_submission_an_application_is_ended_only_when_asked(world: World) -> None:
    over_its_time(world)
    target = Target("etl", APP.kind, address={"application": "etl"})
    async with KillApplication(world.settings()) as executor:
        refused = await executor.precheck(attempt(KillApplication, world, target))
        assert (refused.ok, "names no submission" in refused.reason) == (False, True)
        assert (await executor.precheck(attempt(KillApplication, world, target, without_undo=True))).ok


async def test_a_stalled_application_is_ended_before_its_time(world: World) -> None:
    world.spark.add("etl", age=600, stages=[stage(1, world.clock.now() - 300, "ACTIVE")])
    async with KillApplication(world.settings()) as executor:
        assert (await executor.precheck(attempt(KillApplication, world, stalled_seconds=120))).ok


async def test_an_application_begun_after_the_attempt_is_left_alone(world: World) -> None:
    over_its_time(world)
    ctx = attempt(KillApplication, world)
    async with KillApplication(world.settings()) as executor:
        receipt = await executor.execute(ctx)
        world.clock.advance(5.0)
        newer = world.spark.add("etl", age=0)
        assert (await executor.execute(ctx)).facts["already"]
    async with KillApplication(world.settings()) as after:
        assert (await after.execute(ctx)).facts["already"]
        assert newer.state == "RUNNING"
        assert (await after.verify(ctx, receipt)).ok


async def test_the_button_is_pressed_with_and_without_a_token_and_may_be_switched_off(world: World) -> None:
    for world.spark.has_csrf in (True, False):
        over_its_time(world)
        async with KillApplication(world.settings()) as executor:
            await executor.execute(attempt(KillApplication, world))
        assert world.spark.apps[-1].state == "KILLED"
    world.spark.permits_kill = False
    for kind in (KillApplication, KillJobOrStage, DecommissionExecutorOrWorker):
        sicken, target, _ = WORLDS[kind]
        sicken(world)
        async with kind(world.settings()) as executor:
            with pytest.raises(PermanentError, match="does not permit"):
                await executor.execute(attempt(kind, world, target))


async def test_a_retry_asks_for_more_than_the_run_that_failed_had(world: World) -> None:
    out_of_memory(world)
    world.spark.apps[-1].properties = {"spark.executor.memory": "2g", "spark.oncall.bump": "1"}
    async with RetryWithResources(world.settings()) as executor:
        ctx = attempt(RetryWithResources, world, memory_factor=1.5, overhead_mb=512, partitions=400)
        check = await executor.precheck(ctx)
        assert (check.ok, check.facts["evidence"]) == (True, [OOM])
        await executor.execute(ctx)
    got = world.spark.apps[-1].properties
    assert ("3072m", "2", "512m", "400") == (
        got["spark.executor.memory"],
        got["spark.oncall.bump"],
        got["spark.executor.memoryOverhead"],
        got["spark.sql.shuffle.partitions"],
    )


@pytest.mark.parametrize(("wrote", "ok"), [("7", True), ("6", False), ("", False)])
async def test_a_checkpoint_is_used_by_the_version_that_wrote_it(wrote: str, ok: bool, world: World) -> None:
    dead_stream(world)
    world.spark.apps[-1].properties = {"spark.oncall.version": wrote} if wrote else {}
    settings = world.settings()
    settings["submissions"]["etl"]["version"] = "7"
    async with RestartStreaming(settings) as executor:
        check = await executor.precheck(attempt(RestartStreaming, world))
    assert check.ok is ok, check


async def test_a_streaming_application_that_still_runs_is_ended_first(world: World) -> None:
    dead_stream(world)
    old = world.spark.add("etl")
    async with RestartStreaming(world.settings()) as executor:
        kept = await executor.precheck(attempt(RestartStreaming, world, end_running=False))
        assert not kept.ok
        ctx = attempt(RestartStreaming, world)
        assert (await executor.precheck(ctx)).ok
        assert (await executor.verify(ctx, await executor.execute(ctx))).ok
    assert ["KILLED", "RUNNING"] == [old.state, world.spark.apps[-1].state]


async def test_a_driver_that_can_not_be_told_apart_stops_a_repeat(world: World) -> None:
    ended(world)
    row = {"id": "driver-9", "starttime": str(int(world.clock.now() * 1000)), "state": "RUNNING"}
    world.spark.drivers["driver-9"] = {**row, "worker": "None", "conf": {}}
    async with Resubmit(world.settings()) as executor:
        with pytest.raises(TransientError, match="whose the driver driver-9 is can't be told"):
            await executor.execute(attempt(Resubmit, world))
    assert world.spark.effects == 0


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ({}, "must have a application"),
        ({"application": "etl", "submission": "none"}, "there is no submission 'none'"),
        ({"application": "other", "submission": "etl"}, "for another application"),
    ],
)
async def test_an_address_must_name_what_the_settings_know(
    address: dict[str, str], reason: str, world: World
) -> None:
    async with Resubmit(world.settings()) as executor:
        with pytest.raises(PermanentError, match=reason):
            await executor.precheck(attempt(Resubmit, world, Target("x", APP.kind, address=address)))


async def test_wrong_credentials_and_a_wrong_product_are_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    over_its_time(world)
    async with KillApplication(world.settings(master_url=f"{world.spark.url}/history/api/v1/x")) as executor:
        with pytest.raises(PermanentError, match="the server answered 404"):
            await executor.precheck(attempt(KillApplication, world))
    monkeypatch.setenv("TEST_TOKEN", "wrong-token")
    async with KillApplication(world.settings()) as executor:
        with pytest.raises(PermanentError, match="refuses our credentials"):
            await executor.precheck(attempt(KillApplication, world))
        assert not (await executor.ping(attempt(KillApplication, world))).ok


@pytest.mark.parametrize(
    ("sicken", "params", "up"),
    [
        (nothing, {}, False),
        (ended, {"may_rest": True}, True),
        (ended, {}, False),
        (young, {}, True),
        (over_its_time, {"max_seconds": 3_600}, False),
        (with_a_stuck_stage, {"stage_seconds": 600}, False),
        (moving, {"stage_seconds": 600}, True),
    ],
)
async def test_prober_reads_the_master_and_the_stages(
    sicken: Callable[[World], None], params: dict[str, Any], up: bool, world: World
) -> None:
    sicken(world)
    async with SparkProber(world.settings()) as prober:
        reading = await prober.read(
            APP,
            prober.params.model_validate(params),
            timeout_seconds=2.0,
            clock=world.clock,
            run_blocking=run_inline,
        )
    assert reading.signals.up is up, reading
