"""The Spark actions on YARN and on the Spark operator: fakes only, and every one of them says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actions.spark_executor import UNPROVEN, SparkExecutor
from actions.spark_kill import KillApplication
from actions.spark_stages import KillJobOrStage
from actions.spark_streaming import RestartStreaming
from actions.spark_submit import Resubmit, RetryWithResources
from actions.spark_system import SparkSystem
from actions.spark_workers import DecommissionExecutorOrWorker
from oncall_agent.contract import PermanentError, SystemContext, Target
from oncall_agent.testing import FakeClock, Harness, RecordingLog, check_executor, context_for
from oncall_agent.testing.spark import FakeSpark
from oncall_agent.testing.spark_kinds import FakeOperator, FakeYarn

SECRET = "s3cr3t-Zx82"
KINDS: dict[str, type[FakeSpark]] = {"yarn": FakeYarn, "kubernetes": FakeOperator}
ACTIONS = (KillApplication, Resubmit, RetryWithResources, RestartStreaming)
PARAMS: dict[type[SparkExecutor], dict[str, Any]] = {RetryWithResources: {"until": "progress"}}
TARGET = Target("etl", "spark_application", address={"application": "etl", "submission": "etl"})


class World:
    """One fake cluster of a kind, with a checkpoint whose batches advance while an application lives."""

    def __init__(self, kind: str, cluster: FakeSpark, clock: FakeClock, checkpoint: Path) -> None:
        self.kind, self.cluster, self.clock, self.checkpoint = kind, cluster, clock, checkpoint
        self.settings = {
            "kind": kind,
            "master_url": cluster.url,
            "submit_url": cluster.url,
            "history_url": f"{cluster.url}/history",
            "token": "env:TEST_TOKEN",
            "submissions": {
                "etl": {
                    "app_name": "etl",
                    "resource": "/srv/etl.py",
                    "conf": {"spark.executor.memory": "1g"},
                    "manifest": {"spec": {"type": "Python"}} if kind == "kubernetes" else {},
                    "checkpoint": str(checkpoint),
                }
            },
        }
        (checkpoint / "offsets").mkdir(parents=True)
        (checkpoint / "metadata").write_text('{"id":"1"}')
        (checkpoint / "offsets" / "0").touch()
        clock.sleep = self._sleep  # type: ignore[method-assign]

    async def _sleep(self, seconds: float) -> None:
        if any(not app.is_over for app in self.cluster.apps):
            (self.checkpoint / "offsets" / str(len(list((self.checkpoint / "offsets").iterdir())))).touch()
        await FakeClock.sleep(self.clock, seconds)

    async def sicken(self, kind: type[SparkExecutor]) -> None:
        self.cluster.hangs = False
        self.clock.advance(2.0)
        for app in self.cluster.apps:
            app.state = "FAILED"
        self.cluster.drivers.clear()
        if kind is KillApplication:
            self.cluster.add("etl", age=7_200)
        else:
            self.cluster.add("etl", "FAILED", removed=["Command exited with code 137"])


@pytest.fixture(params=KINDS)
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    clock = FakeClock()
    async with KINDS[request.param](clock, token=SECRET) as cluster:
        yield World(request.param, cluster, clock, tmp_path / "checkpoint")


@pytest.mark.parametrize("kind", ACTIONS, ids=lambda kind: kind.spec.id)
async def test_executor_keeps_the_contract(kind: type[SparkExecutor], world: World) -> None:
    async def hang() -> None:
        world.cluster.hangs = True

    async def release() -> None:
        world.cluster.hangs = False

    async def effects() -> int:
        return world.cluster.effects

    async def snapshot() -> object:
        return sorted(app.name for app in world.cluster.apps if not app.is_over)

    async def make_sick() -> None:
        await world.sicken(kind)

    harness = Harness(
        factory=lambda: kind(world.settings),
        target=TARGET,
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        params=PARAMS.get(kind, {}),
        clock=world.clock,
    )
    scorecard = await check_executor(harness)
    assert not scorecard.failures, str(scorecard)


async def test_what_another_kind_can_not_do_is_refused(world: World) -> None:
    world.cluster.add("etl", age=7_200)
    async with KillJobOrStage(world.settings) as executor:
        check = await executor.precheck(context_for(KillJobOrStage.spec.params(), TARGET, clock=world.clock))
    assert (check.ok, "passes no button" in check.reason) == (False, True)
    host = Target("worker", "spark_worker", address={"host": "10.0.0.1"})
    async with DecommissionExecutorOrWorker(world.settings) as executor:
        ctx = context_for(executor.spec.params(), host, clock=world.clock)
        with pytest.raises(PermanentError, match="not Spark's own"):
            await executor.precheck(ctx)


async def test_nothing_on_another_kind_is_said_to_be_proven(world: World) -> None:
    for kind in (*ACTIONS, KillJobOrStage, DecommissionExecutorOrWorker):
        assert kind(world.settings).spec.unproven == UNPROVEN[world.kind]
        assert kind({**world.settings, "kind": "standalone", "submit_url": ""}).spec.unproven == ""
    async with SparkSystem(world.settings) as system:
        ctx = SystemContext(world.clock, RecordingLog(), world.clock.monotonic() + 10)
        found = await system.inspect(ctx, ["spark.resubmit"])
        grants = system.grants(["spark.resubmit"])
    assert found.product.endswith("not proven on a real server")
    assert (found.privileges, found.privileges_unknown) == ((), UNPROVEN[world.kind])
    wanted = {"kubernetes": "verbs: [get, list, create, delete]", "yarn": "acl_administer_queue"}
    assert wanted[world.kind] in grants.text
