"""Refusals of the node actions, and drains that meet something: on a node that only these tests use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from backends.kubernetes_scenes import Open, attempt_on, fresh, node_target
from backends.kubernetes_server import SPARE_NODE, SPARE_TAINT
from backends.kubernetes_world import World
from backends.processes import wait_until

from actions.kubernetes_drain import Drain
from actions.kubernetes_nodes import Cordon, Uncordon
from oncall_agent.contract import Check, Executor, PermanentError, Receipt

pytestmark = [pytest.mark.slow, pytest.mark.exclusive]

_WANTED = {"key": "kubernetes.io/hostname", "operator": "In", "values": [SPARE_NODE]}
_PREFERRED = [{"weight": 100, "preference": {"matchExpressions": [_WANTED]}}]
TOLERANT = {"tolerations": [{"key": SPARE_TAINT, "operator": "Exists"}]}
HERE = {
    **TOLERANT,
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": _PREFERRED}},
}
ONLY_HERE = {"nodeSelector": {"kubernetes.io/hostname": SPARE_NODE}}


@pytest.fixture
def node(world: World) -> Iterator[World]:
    """The spare node, empty at the beginning, in service at the end."""
    assert wait_until(lambda: world.is_empty(SPARE_NODE), timeout_seconds=30)
    yield world
    uncordon(world)


def cordon(world: World, name: str = SPARE_NODE) -> None:
    world.patch("Node", name, {"spec": {"unschedulable": True}})


def uncordon(world: World, name: str = SPARE_NODE) -> None:
    world.patch("Node", name, {"spec": {"unschedulable": None}})


def is_cordoned(world: World) -> bool:
    return bool(world.get("Node", SPARE_NODE)["spec"].get("unschedulable"))


async def asked(opened: Open, kind: type[Executor], *, name: str = SPARE_NODE, **more: Any) -> Check:
    params = {key: more.pop(key) for key in ("max_pods",) if key in more}
    executor = await opened(kind, **more)
    found: Check = await executor.precheck(attempt_on(kind, node_target(name), **params))
    return found


@pytest.mark.parametrize("kind", [Cordon, Uncordon, Drain], ids=lambda kind: kind.spec.id)
async def test_protected_or_absent_node_is_refused(kind: type[Executor], node: World, opened: Open) -> None:
    assert "there is no Node/other" in (await asked(opened, kind, name="other")).reason
    marked = await asked(opened, kind, protected_label="oncall-test/kept")
    assert "protected" not in marked.reason
    node.patch("Node", SPARE_NODE, {"metadata": {"labels": {"oncall-test/kept": "true"}}})
    try:
        marked = await asked(opened, kind, protected_label="oncall-test/kept")
    finally:
        node.patch("Node", SPARE_NODE, {"metadata": {"labels": {"oncall-test/kept": None}}})
    assert "protected by its label" in marked.reason


async def test_node_that_is_as_wanted_is_refused(node: World, opened: Open) -> None:
    assert "the node is not cordoned" in (await asked(opened, Uncordon)).reason
    cordon(node)
    assert "the node is cordoned" in (await asked(opened, Cordon)).reason


async def test_more_nodes_than_the_share_stay_in_service(node: World, opened: Open) -> None:
    cordon(node)
    for kind in (Cordon, Drain):
        assert "1 of 3 nodes are out, 1 may be" in (await asked(opened, kind, name="node1")).reason


async def test_drain_refuses_what_the_settings_forbid(node: World, opened: Open) -> None:
    node.workload(replicas=2, pod=HERE)
    await node.until_ready(count=2)
    kept = await asked(opened, Drain, protected_namespaces=[node.namespace])
    assert f"the namespace {node.namespace} is protected" in kept.reason
    assert "not among those" in (await asked(opened, Drain, namespaces=["shop"])).reason
    assert "2 pods are on it, more than 1" in (await asked(opened, Drain, max_pods=1)).reason


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        ({"volumes": [{"name": "v", "emptyDir": {}}]}, "keeps local data (emptyDir v)"),
        (ONLY_HERE, "no other node can take"),
    ],
    ids=["local data", "no other node"],
)
async def test_drain_refuses_pods_that_cannot_move(
    pod: dict[str, Any], said: str, node: World, opened: Open
) -> None:
    node.workload(pod={**HERE, **pod})
    await node.until_ready()
    check = await asked(opened, Drain)
    assert not check.ok
    assert said in check.reason, check


async def test_drain_refuses_a_pod_that_nobody_replaces(node: World, opened: Open) -> None:
    node.create(
        "Pod",
        "alone",
        "v1",
        spec={"containers": [node.container()], **HERE, "terminationGracePeriodSeconds": 0},
    )
    await node.until(lambda: node.get("Pod", "alone")["spec"].get("nodeName"))
    assert "alone has no controller that replaces it" in (await asked(opened, Drain)).reason


async def test_drain_never_bypasses_a_budget_and_is_undone(node: World, opened: Open) -> None:
    node.workload(pod=HERE)
    await node.until_ready()
    executor = await opened(Drain, lease_namespace=node.namespace)
    ctx = attempt_on(Drain, node_target(SPARE_NODE), seconds=30, timeout_seconds=2)
    assert (await executor.precheck(ctx)).ok
    node.budget(minAvailable=1)
    await node.until(lambda: node.items("PodDisruptionBudget")[0]["status"].get("currentHealthy"))
    assert "allows no eviction" in (await executor.precheck(ctx)).reason
    with pytest.raises(PermanentError, match="a disruption budget does not allow") as error:
        await executor.execute(ctx)
    assert (len(node.pods()), is_cordoned(node)) == (1, True)
    half_done = Receipt(Drain.spec.id, 0.0, error.value.receipt_facts or {}, partial=True)
    assert not (await executor.verify(fresh(ctx, deadline_at=ctx.clock.monotonic() + 1), half_done)).ok
    assert (await executor.rollback(ctx, half_done)).ok
    assert not is_cordoned(node)
