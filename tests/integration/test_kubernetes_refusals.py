"""Every refusal of every precheck on workloads, asked on a real cluster; most need no pod to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from backends.kubernetes_scenes import Open, attempt, attempt_on, fresh, target
from backends.kubernetes_world import CRASH, World
from backends.processes import wait_until

from actions.kubernetes_pods import DeletePod
from actions.kubernetes_resources import SetResources
from actions.kubernetes_rollout import RolloutRestart, RolloutUndo
from actions.kubernetes_scale import RaiseHpa, Scale
from actions.kubernetes_stuck import DeleteStuck
from oncall_agent.contract import Executor, TransientError

pytestmark = pytest.mark.slow

ARGO = {"labels": {"argocd.argoproj.io/instance": "shop"}}
GIT: dict[str, Any] = {"metadata": ARGO, "manager": "argocd-controller"}
OPERATOR = {"labels": {"app.kubernetes.io/managed-by": "shop-operator"}}
KEEP = {"annotations": {"oncall-agent.io/protected": "true"}}
LIMITS = {"resources": {"limits": {"memory": "24Mi", "cpu": "100m"}}}
HUNGRY = "head -c 72000000 /dev/zero | tail -c 36000000 >/dev/null || { sleep 1; exit 1; }"
NOWHERE = "none.invalid/app:1"


@dataclass(frozen=True)
class Case:
    """A refusal: of what, made how, said how."""

    kind: type[Executor]
    make: Callable[[World], Any]
    said: str
    params: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def idle(world: World, **more: Any) -> None:
    """A workload that wants no pod."""
    world.workload(**{"replicas": 0, **more})
    kind = more.get("kind", "Deployment")
    assert wait_until(lambda: is_seen(world, kind), timeout_seconds=20)


def is_seen(world: World, kind: str = "Deployment") -> bool:
    found = world.get(kind, "web")
    return bool(found["status"].get("observedGeneration") == found["metadata"]["generation"])


def rolling(world: World) -> None:
    idle(world, replicas=1, image=NOWHERE, **LIMITS)
    world.set_script("web", CRASH)


def below_budget(world: World) -> None:
    idle(world)
    world.budget(minAvailable=1)
    kind = "PodDisruptionBudget"
    seen = lambda: all("desiredHealthy" in one["status"] for one in world.items(kind))  # noqa: E731
    assert wait_until(seen, timeout_seconds=20)


def two_revisions(world: World, **more: Any) -> None:
    idle(world, **more)
    world.set_script("web", CRASH)
    assert wait_until(lambda: is_seen(world), timeout_seconds=20)


def quota(world: World) -> None:
    world.create("ResourceQuota", "small", "v1", spec={"hard": {"pods": "1"}})
    idle(world)
    counted = lambda: world.get("ResourceQuota", "small")["status"].get("used")  # noqa: E731
    assert wait_until(counted, timeout_seconds=20)


def autoscaled(world: World, *, low: int = 1, high: int = 2, replicas: int = 2, **more: Any) -> None:
    idle(world, replicas=replicas, image=NOWHERE)
    world.autoscaler(low=low, high=high, **more)


def budget_of_two(world: World) -> None:
    idle(world, replicas=3, image=NOWHERE)
    world.budget(minAvailable=2)


def sized_by_another(world: World) -> None:
    template = world.template("web", image=NOWHERE, **LIMITS)
    template["metadata"]["annotations"] = {"vpaUpdates": "Pod resources updated"}
    idle(world, replicas=1, spec={"template": template})
    assert wait_until(lambda: bool(world.pods()), timeout_seconds=20)


def job(world: World, **spec: Any) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [world.container("sleep 3600")]}}
    world.create("Job", "web", "batch/v1", spec={"template": template, **spec})


def finished_job(world: World) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [world.container("true")]}}
    world.create("Job", "web", "batch/v1", spec={"template": template})
    assert wait_until(lambda: world.get("Job", "web")["status"].get("succeeded"), timeout_seconds=30)


TWICE = {"memory_factor": 2.0}
KEDA = {"labels": {"app.kubernetes.io/managed-by": "keda-operator"}}
CASES: dict[str, Case] = {
    "restart what is absent": Case(RolloutRestart, lambda _: None, "there is no Deployment/web"),
    "restart what is protected": Case(RolloutRestart, lambda w: idle(w, metadata=KEEP), "protected by its label"),
    "restart elsewhere": Case(RolloutRestart, idle, "not among those", settings={"namespaces": ["shop"]}),
    "restart what is paused": Case(RolloutRestart, lambda w: w.workload(spec={"paused": True}), "paused"),
    "restart an operator's": Case(RolloutRestart, lambda w: idle(w, metadata=OPERATOR), "shop-operator owns it"),
    "restart in a rollout": Case(RolloutRestart, rolling, "a rollout is in progress"),
    "restart below budget": Case(RolloutRestart, below_budget, "needs 1 healthy pods, 0 are"),
    "undo without revisions": Case(RolloutUndo, idle, "no other revision"),
    "undo to none of them": Case(RolloutUndo, two_revisions, "no other revision", {"revision": 9}),
    "undo what is old": Case(RolloutUndo, two_revisions, "the last rollout is", {"window_seconds": 1e-9}),
    "undo what git applies": Case(RolloutUndo, lambda w: two_revisions(w, **GIT), "Argo CD applies it"),
    "evict where all is well": Case(DeletePod, idle, "every pod of the workload is well"),
    "evict an unknown pod": Case(DeletePod, idle, "has no pod web-1", {"pod": "web-1"}),
    "scale to what it is": Case(Scale, lambda w: idle(w, replicas=1), "it has 1 replicas", {"replicas": 1}),
    "scale beyond the bound": Case(Scale, idle, "50 replicas are the bound", {"replicas": 51}),
    "scale beyond a quota": Case(Scale, quota, "quota small", {"replicas": 2}),
    "scale without room": Case(
        Scale, lambda w: idle(w, resources={"requests": {"memory": "900Gi"}}), "no room for 2 of 2", {"replicas": 2},
    ),
    "scale what git scales": Case(Scale, lambda w: idle(w, **GIT), "Argo CD applies it", {"replicas": 2}),
    "scale down what is autoscaled": Case(Scale, autoscaled, "an autoscaler decides", {"step": -1}),
    "scale above the autoscaler": Case(Scale, autoscaled, "highest number is 2", {"replicas": 9}),
    "scale against a budget": Case(Scale, budget_of_two, "needs 2 pods", {"replicas": 1}),
    "raise without autoscaler": Case(RaiseHpa, idle, "it has no autoscaler", {"max_step": 1}),
    "raise to what it is": Case(RaiseHpa, autoscaled, "the bounds are as asked for", {"min_replicas": 1}),
    "raise by lowering": Case(RaiseHpa, autoscaled, "that would lower a bound", {"max_replicas": 1}),
    "raise lowest above highest": Case(RaiseHpa, autoscaled, "above the highest", {"min_replicas": 3}),
    "raise beyond the bound": Case(RaiseHpa, autoscaled, "50 replicas are the bound", {"max_replicas": 51}),
    "raise without need": Case(
        RaiseHpa, lambda w: autoscaled(w, replicas=1), "not at its highest number", {"max_step": 1},
    ),
    "raise what KEDA sets": Case(
        RaiseHpa, lambda w: autoscaled(w, metadata=KEDA), "keda-operator owns it", {"max_step": 1},
    ),
    "resize without a limit": Case(SetResources, idle, "no such limit to raise", TWICE),
    "resize no such container": Case(SetResources, idle, "name one of its", {**TWICE, "container": "x"}),
    "resize without evidence": Case(SetResources, lambda w: idle(w, **LIMITS), "ran out of memory", TWICE),
    "resize blindly": Case(SetResources, lambda w: idle(w, **LIMITS), "CPU use can't be read", {"cpu_factor": 2.0}),
    "resize beyond the cap": Case(
        SetResources, lambda w: idle(w, **LIMITS), "bytes are the bound", TWICE, {"max_memory_bytes": 33_554_432},
    ),
    "resize what git applies": Case(
        SetResources, lambda w: idle(w, **GIT, **LIMITS), "Argo CD applies it", TWICE,
    ),
    "resize in a rollout": Case(SetResources, rolling, "a rollout is in progress", TWICE),
    "resize what another sizes": Case(SetResources, sized_by_another, "a vertical autoscaler", TWICE),
    "delete where nothing is stuck": Case(DeleteStuck, idle, "no pod of it is stuck"),
    "delete a young Job": Case(DeleteStuck, job, "s only", {"kind": "Job"}),
    "delete a suspended Job": Case(DeleteStuck, lambda w: job(w, suspend=True), "suspended", {"kind": "Job"}),
    "delete a Job that is done": Case(DeleteStuck, finished_job, "it has completed", {"kind": "Job"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_precheck_refuses(name: str, world: World, opened: Open) -> None:
    case = CASES[name]
    case.make(world)
    check = await (await opened(case.kind, **case.settings)).precheck(
        attempt(case.kind, world, **case.params)
    )
    assert not check.ok
    assert case.said in check.reason, check


async def test_restart_by_hand_only_is_refused(world: World, opened: Open) -> None:
    spec = {"updateStrategy": {"type": "OnDelete"}}
    world.workload(kind="StatefulSet", replicas=0, spec=spec)
    check = await (await opened(RolloutRestart)).precheck(attempt(RolloutRestart, world, kind="StatefulSet"))
    assert "OnDelete" in check.reason


async def test_protected_target_is_refused_by_every_action_on_workloads(world: World, opened: Open) -> None:
    on = target(world, protected=True)
    given: dict[type[Executor], dict[str, Any]] = {
        RolloutRestart: {}, RolloutUndo: {}, DeletePod: {}, DeleteStuck: {}, SetResources: TWICE,
        Scale: {"step": 1}, RaiseHpa: {"max_step": 1},
    }  # fmt: skip
    for kind, params in given.items():
        check = await (await opened(kind)).precheck(attempt_on(kind, on, **params))
        assert check.reason == "the target is protected"


async def test_what_git_does_not_write_may_be_changed(world: World, opened: Open) -> None:
    idle(world, metadata=ARGO)
    check = await (await opened(Scale)).precheck(attempt(Scale, world, replicas=1))
    assert check.ok, check


async def test_what_git_does_not_undo_may_be_undone(world: World, opened: Open) -> None:
    marks = {**ARGO, "annotations": {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}}
    two_revisions(world, **{**GIT, "metadata": marks})
    check = await (await opened(RolloutUndo)).precheck(attempt(RolloutUndo, world))
    assert check.ok, check


def run_two(world: World) -> bool:
    alive = [pod for pod in world.pods() if not pod["metadata"].get("deletionTimestamp")]
    return [pod["status"]["phase"] for pod in alive] == ["Running", "Running"]


async def test_eviction_asks_the_budget_and_waits_between_two(world: World, opened: Open) -> None:
    idle(world, replicas=2, readinessProbe={"exec": {"command": ["false"]}})
    await world.until(lambda: run_two(world))
    executor = await opened(DeletePod)
    ctx = attempt(DeletePod, world)
    assert (await executor.precheck(ctx)).ok
    await executor.execute(ctx)
    await world.until(lambda: run_two(world))
    later = await executor.precheck(attempt(DeletePod, world))
    assert "a pod of it was evicted" in later.reason
    world.budget(maxUnavailable=0)
    await world.until(lambda: "expectedPods" in world.items("PodDisruptionBudget")[0].get("status", {}))
    at_once = attempt(DeletePod, world, min_interval_seconds=0)
    assert "a disruption budget does not allow it now" in (await executor.precheck(at_once)).reason


async def test_memory_beyond_a_quota_is_refused(world: World, opened: Open) -> None:
    world.create("ResourceQuota", "small", "v1", spec={"hard": {"limits.memory": "32Mi"}})
    world.workload(script=HUNGRY, resources={"limits": {"memory": "24Mi"}})
    executor, ctx = await opened(SetResources), attempt(SetResources, world, **TWICE)

    def is_killed() -> bool:
        ends = [
            one.get("lastState", {})
            for pod in world.pods()
            for one in pod["status"].get("containerStatuses", [])
        ]
        return any(end.get("terminated", {}).get("reason") == "OOMKilled" for end in ends)

    await world.until(is_killed)
    check = await executor.precheck(ctx)
    assert "quota small" in check.reason, check


async def test_finalizer_that_is_not_listed_is_left(world: World, opened: Open) -> None:
    world.workload()
    await world.until_ready()
    name = world.pods()[0]["metadata"]["name"]
    world.patch("Pod", name, {"metadata": {"finalizers": ["example.com/keep"]}})
    world.delete("Pod", name)
    executor, ctx = await opened(DeleteStuck), attempt(DeleteStuck, world, older_than_seconds=0)
    await world.until(lambda: len(world.pods()) == 2)
    check = await executor.precheck(ctx)
    while "is stuck" in check.reason:  # its grace period still runs
        check = await executor.precheck(ctx)
    assert "waits for the finalizer example.com/keep" in check.reason
    assert world.get("Pod", name)


async def test_target_that_another_attempt_holds_is_left(world: World, opened: Open) -> None:
    idle(world)
    executor, mine, other = (
        await opened(Scale),
        attempt(Scale, world, replicas=1),
        attempt(Scale, world, step=2),
    )
    await executor.claims(other).take(other, "Deployment/web", Scale.spec.id, {})
    with pytest.raises(TransientError, match="another attempt holds"):
        await executor.execute(mine)
    assert world.get("Deployment", "web")["spec"]["replicas"] == 0
    assert (await executor.execute(fresh(mine, dry_run=True))).planned
