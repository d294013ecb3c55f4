"""What the drills do not show: every kind of workload, and the way through an autoscaler."""

from __future__ import annotations

from typing import Any

import pytest
from backends.kubernetes_scenes import Open, attempt, fresh
from backends.kubernetes_world import World

from actions.kubernetes_rollout import RESTARTED_AT, RolloutRestart, RolloutUndo
from actions.kubernetes_scale import Scale
from oncall_agent.contract import Receipt

pytestmark = [pytest.mark.slow]


def uids(world: World) -> set[str]:
    """The pods that do not end."""
    return {pod["metadata"]["uid"] for pod in world.pods() if not pod["metadata"].get("deletionTimestamp")}


def restarted_at(world: World, kind: str) -> str | None:
    template = world.get(kind, "web")["spec"]["template"]
    return template["metadata"].get("annotations", {}).get(RESTARTED_AT)


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
async def test_restart_replaces_every_pod_once_per_key(kind: str, world: World, opened: Open) -> None:
    world.workload(kind=kind)
    count = {"DaemonSet": 2}.get(kind, 1)
    await world.until_ready(kind=kind, count=count)
    before = uids(world)
    first, second = await opened(RolloutRestart), await opened(RolloutRestart)
    ctx = attempt(RolloutRestart, world, kind=kind)
    check = await first.precheck(ctx)
    assert (check.ok, check.instances) == (True, count), check
    assert (await first.execute(fresh(ctx, dry_run=True))).planned
    assert restarted_at(world, kind) is None
    receipt = await first.execute(ctx)
    verified = await first.verify(ctx, receipt)
    assert verified.ok, verified
    assert not before & uids(world)
    at = restarted_at(world, kind)
    assert (await second.execute(ctx)).facts == receipt.facts
    assert at == restarted_at(world, kind)
    seen_from_precheck = Receipt(RolloutRestart.spec.id, 0.0, check.facts, partial=True)
    assert (await second.verify(ctx, seen_from_precheck)).ok


def script(world: World) -> Any:
    return world.get("StatefulSet", "web")["spec"]["template"]["spec"]["containers"][0]["command"]


async def test_undo_of_a_stateful_set_and_its_undo(world: World, opened: Open) -> None:
    world.workload(kind="StatefulSet", replicas=0)
    before = script(world)
    await world.until(lambda: len(world.items("ControllerRevision")) == 1)
    world.set_script("web", "exit 3", kind="StatefulSet")
    await world.until(lambda: len(world.items("ControllerRevision")) == 2)
    bad = script(world)
    executor, ctx = await opened(RolloutUndo), attempt(RolloutUndo, world, kind="StatefulSet")
    check = await executor.precheck(ctx)
    assert check.ok, check
    receipt = await executor.execute(ctx)
    assert (script(world), (await executor.verify(ctx, receipt)).ok) == (before, True)
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        assert script(world) == bad


async def test_scaling_goes_through_the_autoscaler(world: World, opened: Open) -> None:
    world.workload()
    world.autoscaler(low=1, high=3)
    await world.until_ready()
    executor, ctx = await opened(Scale), attempt(Scale, world, replicas=2)
    assert (await executor.precheck(ctx)).ok
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    bounds = world.get("HorizontalPodAutoscaler", "web")["spec"]
    assert (bounds["minReplicas"], bounds["maxReplicas"]) == (2, 3)
    assert (await executor.rollback(ctx, receipt)).ok
    assert world.get("HorizontalPodAutoscaler", "web")["spec"]["minReplicas"] == 1
