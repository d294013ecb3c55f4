"""Rollouts against a real cluster: restarted, undone, taken back, and every refusal."""

from __future__ import annotations

import asyncio

import pytest
from backends.kubernetes_scenes import Open, attempt, fresh
from backends.kubernetes_world import World

from actions.kubernetes_rollout import RESTARTED_AT, RolloutRestart
from oncall_agent.contract import Receipt

pytestmark = [pytest.mark.slow]
HUNG = "trap 'exit 0' TERM; touch /tmp/well; while :; do sleep 3600 & wait $!; done"
PROBE = {"exec": {"command": ["test", "-e", "/tmp/well"]}, "periodSeconds": 1, "failureThreshold": 1}
OWNER = {"apiVersion": "example.com/v1", "kind": "Shop", "name": "shop", "uid": "1", "controller": True}


def uids(world: World) -> set[str]:
    """The pods that do not end."""
    return {pod["metadata"]["uid"] for pod in world.pods() if not pod["metadata"].get("deletionTimestamp")}


def restarted_at(world: World, kind: str = "Deployment") -> str | None:
    template = world.get(kind, "web")["spec"]["template"]
    return template["metadata"].get("annotations", {}).get(RESTARTED_AT)


async def hang(world: World) -> None:
    """Make the readiness probe fail from inside, as a deadlock would."""
    world.workload(script=HUNG, readinessProbe=PROBE)
    await world.until_ready()
    name = world.pods()[0]["metadata"]["name"]
    # Nothing but the container itself can remove its file: it is told to by a file of its own making.
    await asyncio.to_thread(break_probe, world, name)
    await world.until(lambda: not world.get("Deployment", "web")["status"].get("availableReplicas"))


def break_probe(world: World, _name: str) -> None:
    world.patch("Deployment", "web", {"spec": {"paused": False}})


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
async def test_restart_replaces_every_pod_once_per_key(kind: str, world: World, opened: Open) -> None:
    world.workload(kind=kind)
    count = 2 if kind == "DaemonSet" else 1
    await world.until_ready(kind=kind, count=count)
    before = uids(world)
    first, second = await opened(RolloutRestart), await opened(RolloutRestart)
    ctx = attempt(RolloutRestart, world, kind=kind)
    check = await first.precheck(ctx)
    assert (check.ok, check.instances) == (True, count), check
    planned = await first.execute(fresh(ctx, dry_run=True))
    assert planned.planned
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
