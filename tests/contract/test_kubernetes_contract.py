"""Every kubernetes action goes through the contract test, on a cluster in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actions.kubernetes_drain import Drain
from actions.kubernetes_nodes import Cordon, Uncordon
from actions.kubernetes_pods import DeletePod
from actions.kubernetes_resources import SetResources
from actions.kubernetes_rollout import RolloutRestart, RolloutUndo
from actions.kubernetes_scale import RaiseHpa, Scale
from actions.kubernetes_stuck import DeleteStuck
from oncall_agent.contract import Executor, Target
from oncall_agent.testing import FakeClock, FakeKubernetes, Harness, check_executor

SECRET = "s3cr3t-Kb77"
WEB, NODE, JOB = ("deployments", "shop", "web"), ("nodes", "", "node0"), ("jobs", "shop", "report")
MIB = 1_048_576


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeKubernetes]:
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    async with FakeKubernetes(FakeClock(), token=SECRET) as found:
        found.deploy("shop", "web", replicas=2, secret=SECRET)
        yield found


def template(cluster: FakeKubernetes) -> Any:
    return cluster.state.objects[WEB]["spec"]["template"]


def container(**more: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"name": "main", **more}]}}}}


def hung(cluster: FakeKubernetes) -> None:
    cluster.state.clock.advance(1)
    cluster.state.sick |= {pod["metadata"]["uid"] for pod in cluster.state.of("pods")}


def one_hung(cluster: FakeKubernetes) -> None:
    cluster.state.clock.advance(600)
    cluster.state.sick.add(cluster.state.of("pods")[0]["metadata"]["uid"])


def crashing(cluster: FakeKubernetes) -> None:
    cluster.change(WEB, container(command=["sh", "-c", "exit 3"]))


def starved(cluster: FakeKubernetes) -> None:
    limits = template(cluster)["spec"]["containers"][0]["resources"]["limits"]["memory"]
    cluster.state.hungry_bytes = (int(limits.removesuffix("Mi")) + 32) * MIB


def few(cluster: FakeKubernetes) -> None:
    cluster.change(WEB, {"spec": {"replicas": 1}})


def at_its_highest(cluster: FakeKubernetes) -> None:
    key = ("horizontalpodautoscalers", "shop", "web")
    bounds = {"minReplicas": 1, "maxReplicas": 2}
    if key not in cluster.state.objects:
        target = {"kind": "Deployment", "name": "web"}
        cluster.state.put(key, {"spec": {"scaleTargetRef": target, **bounds}})
    cluster.state.wanted = 2
    cluster.change(key, {"spec": bounds})


def in_use(cluster: FakeKubernetes) -> None:
    cluster.change(NODE, {"spec": {"unschedulable": None}})


def cordoned(cluster: FakeKubernetes) -> None:
    cluster.change(NODE, {"spec": {"unschedulable": True}})


def endless(cluster: FakeKubernetes) -> None:
    if JOB in cluster.state.objects and not cluster.state.objects[JOB]["status"]:
        del cluster.state.objects[JOB]
    if JOB not in cluster.state.objects:
        labels = {"app": "report"}
        spec = {"template": {"metadata": {"labels": labels}, "spec": {"env": SECRET}}}
        made = cluster.state.put(JOB, {"spec": spec, "status": {"startTime": "2020-01-01T00:00:00Z"}})
        made["metadata"]["uid"] = "uid-of-the-job"


def bounds(cluster: FakeKubernetes) -> Any:
    return cluster.state.objects["horizontalpodautoscalers", "shop", "web"]["spec"]


def job_spec(cluster: FakeKubernetes) -> Any:
    return cluster.state.objects.get(JOB, {}).get("spec")


Look = Callable[[FakeKubernetes], Any]
CASES: dict[str, tuple[type[Executor], Callable[[FakeKubernetes], None], Look, str, dict[str, Any]]] = {
    "rollout_restart": (RolloutRestart, hung, template, "deployments", {}),
    "rollout_undo": (RolloutUndo, crashing, template, "deployments", {}),
    "delete_pod": (DeletePod, one_hung, template, "pods", {}),
    "set_resources": (SetResources, starved, template, "deployments", {"memory_factor": 2.0}),
    "scale": (Scale, few, lambda c: c.state.objects[WEB]["spec"]["replicas"], "deployments", {"replicas": 3}),
    "raise_hpa": (
        RaiseHpa, at_its_highest, bounds, "horizontalpodautoscalers", {"min_replicas": 3, "max_replicas": 4},
    ),
    "cordon": (Cordon, in_use, lambda c: c.state.objects[NODE]["spec"], "nodes", {}),
    "uncordon": (Uncordon, cordoned, lambda c: c.state.objects[NODE]["spec"], "nodes", {}),
    "drain": (Drain, in_use, lambda c: c.state.objects[NODE]["spec"], "nodes", {}),
    "delete_stuck": (DeleteStuck, endless, job_spec, "jobs", {}),
}  # fmt: skip


def target_of(name: str) -> Target:
    if name in ("cordon", "uncordon", "drain"):
        return Target("node", "kubernetes_node", address={"node": "node0"})
    kind, of = ("Job", "report") if name == "delete_stuck" else ("Deployment", "web")
    return Target("web", "kubernetes_workload", address={"namespace": "shop", "kind": kind, "name": of})


def harness(cluster: FakeKubernetes, name: str) -> Harness:
    kind, sicken, look, plural, params = CASES[name]
    settings = {"host": cluster.url, "token": "env:TEST_TOKEN"}

    async def make_sick() -> None:
        sicken(cluster)
        cluster.state.settle()

    async def snapshot() -> Any:
        return look(cluster)

    async def effects() -> int:
        return cluster.state.changes[plural]

    async def hang() -> None:
        cluster.hangs = True

    async def release() -> None:
        cluster.hangs = False

    return Harness(
        lambda: kind(settings),
        target_of(name),
        make_sick,
        effects,
        snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        params=params,
        clock=cluster.state.clock,
    )


@pytest.mark.parametrize("name", CASES)
async def test_action_keeps_the_contract(name: str, cluster: FakeKubernetes) -> None:
    scorecard = await check_executor(harness(cluster, name))
    assert scorecard.ok, scorecard
