"""Kubernetes as a system: its drills, healed by the real actions with exactly the generated role and no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from backends.kubernetes_accounts import Accounts
from backends.kubernetes_scenes import Open, attempt_on, node_target, system_context
from backends.kubernetes_server import SPARE_NODE, SPARE_TAINT
from backends.kubernetes_world import CRASH, World

from actions.kubernetes_drain import Drain
from actions.kubernetes_drills import DRILLS, BadRollout
from actions.kubernetes_drills_node import NodeDrill
from actions.kubernetes_drills_stuck import FINALIZER, StuckJob
from actions.kubernetes_nodes import Cordon, Uncordon
from actions.kubernetes_pods import DeletePod
from actions.kubernetes_prober import KubernetesProber
from actions.kubernetes_resources import SetResources
from actions.kubernetes_rollout import RolloutRestart, RolloutUndo
from actions.kubernetes_scale import RaiseHpa, Scale
from actions.kubernetes_stuck import DeleteStuck
from actions.kubernetes_system import KubernetesSystem
from oncall_agent.contract import Drill, Executor, Inspection, PermanentError, SystemClock, Target
from oncall_agent.contract.executor import run_inline
from oncall_agent.testing import context_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ACTIONS: dict[str, type[Executor]] = {
    kind.spec.id: kind
    for kind in (
        Cordon, DeletePod, DeleteStuck, Drain, RaiseHpa, RolloutRestart, RolloutUndo, Scale, SetResources, Uncordon,
    )
}  # fmt: skip


@pytest.fixture
def accounts(world: World) -> Iterator[Accounts]:
    found = Accounts(world)
    yield found
    found.close()


async def heal(drill: Drill, settings: dict[str, Any]) -> None:
    """What the validation suite does with a drill: well, sick, acted on, well, undone, gone."""
    kind, ctx = ACTIONS[drill.spec.action], system_context(90.0)
    try:
        trial = await drill.prepare(ctx)
        assert (await drill.symptom(ctx, trial)).ok
        await drill.inject(ctx, trial)
        assert not (await drill.symptom(ctx, trial)).ok
        params = kind.spec.params.model_validate(dict(trial.params))
        attempt = context_for(params, trial.target, clock=SystemClock(), seconds=60, key=drill.name)
        async with kind(settings) as executor, kind(settings) as other:
            evidence = await executor.diagnose(attempt)
            assert "reason" not in evidence, evidence
            check = await executor.precheck(attempt)
            assert check.ok, check
            assert (await executor.execute(replace(attempt, dry_run=True))).planned
            assert not (await drill.symptom(ctx, trial)).ok
            receipt = await executor.execute(attempt)
            await other.execute(attempt)
            verified = await other.verify(attempt, receipt)
            assert verified.ok, verified
            assert (await drill.symptom(ctx, trial)).ok
            if kind.spec.reversible:
                undone = await other.rollback(attempt, receipt)
                assert undone.ok, undone
    finally:
        await drill.clean_up(system_context())
        await drill.clean_up(system_context())


async def inspected(settings: dict[str, Any], action: str) -> Inspection:
    async with KubernetesSystem(settings) as system:
        return await system.inspect(system_context(), [action])


def is_cordoned(world: World) -> bool:
    return bool(world.get("Node", SPARE_NODE)["spec"].get("unschedulable"))


def is_clean(world: World) -> bool:
    kinds = ("Deployment", "Job", "Pod", "HorizontalPodAutoscaler", "PodDisruptionBudget")
    return not any(world.items(kind) for kind in kinds)


async def healed_with_just_the_role(
    kind: type[Drill],
    sandbox: dict[str, Any],
    accounts: Accounts,
    settings: dict[str, Any],
    given: pytest.MonkeyPatch,
) -> None:
    """Heal a drill with the role of its action alone; the drill itself comes in as the administrator."""
    world, action = accounts.world, kind.spec.action
    own, token = accounts.settings([action], removable_finalizers=[FINALIZER])
    given.setenv("KUBERNETES_ROLE_TOKEN", token)
    own["token"] = "env:KUBERNETES_ROLE_TOKEN"
    found = await inspected(own, action)
    assert [one.name for one in found.privileges if not one.held] == []
    assert [one.name for one in found.privileges if not one.needed_by] == []
    assert found.identity == f"system:serviceaccount:{world.namespace}:agent"
    drill = kind(own, {"image": world.image, "namespace": world.namespace, **settings, **sandbox})
    await heal(drill, own)
    await world.until(lambda: is_clean(world))


@pytest.mark.parametrize(
    "kind", [kind for kind in DRILLS if not issubclass(kind, NodeDrill)], ids=lambda kind: kind.spec.id
)
async def test_drill_is_healed_with_just_the_generated_role(
    kind: type[Drill],
    accounts: Accounts,
    kubernetes_settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await healed_with_just_the_role(kind, {}, accounts, kubernetes_settings, monkeypatch)


@pytest.mark.exclusive
@pytest.mark.parametrize(
    "kind", [kind for kind in DRILLS if issubclass(kind, NodeDrill)], ids=lambda kind: kind.spec.id
)
async def test_drill_on_a_node_is_healed_with_just_the_generated_role(
    kind: type[Drill],
    accounts: Accounts,
    kubernetes_settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await accounts.world.until(lambda: accounts.world.is_empty(SPARE_NODE))
    named = {"node": SPARE_NODE, "tolerate": SPARE_TAINT}
    await healed_with_just_the_role(kind, named, accounts, kubernetes_settings, monkeypatch)
    assert not is_cordoned(accounts.world)


@pytest.mark.exclusive
async def test_cordon_and_its_undo_with_just_the_generated_role(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = accounts.world
    settings, token = accounts.settings(["kubernetes.cordon"])
    monkeypatch.setenv("KUBERNETES_ROLE_TOKEN", token)
    settings["token"] = "env:KUBERNETES_ROLE_TOKEN"
    ctx = attempt_on(Cordon, node_target(SPARE_NODE))
    try:
        async with Cordon(settings) as first, Cordon(settings) as second:
            check = await first.precheck(ctx)
            assert check.ok, check
            assert (await first.execute(replace(ctx, dry_run=True))).planned
            assert not is_cordoned(world)
            receipt = await first.execute(ctx)
            assert (await second.execute(ctx)).facts == receipt.facts
            assert ((await second.verify(ctx, receipt)).ok, is_cordoned(world)) == (True, True)
            for _ in range(2):
                assert (await second.rollback(ctx, receipt)).ok
                assert not is_cordoned(world)
    finally:
        world.patch("Node", SPARE_NODE, {"spec": {"unschedulable": None}})


async def test_drill_without_a_namespace_makes_and_removes_its_own(
    kubernetes_settings: dict[str, Any], world: World
) -> None:
    drill = StuckJob(kubernetes_settings, {"image": world.image})
    await heal(drill, kubernetes_settings)
    gone = World(world.access, drill.namespace, world.image)
    await world.until(lambda: not gone.get("Namespace", drill.namespace), seconds=60)


@pytest.mark.parametrize(
    ("sandbox", "said"),
    [
        ({}, "sandboxes.kubernetes.image"),
        ({"image": "x", "namespace": "other"}, "sandboxes.kubernetes.namespace"),
    ],
)
async def test_drill_says_what_to_name(
    sandbox: dict[str, Any], said: str, kubernetes_settings: dict[str, Any]
) -> None:
    drill = BadRollout({**kubernetes_settings, "namespaces": ["shop"]}, {"namespace": "shop", **sandbox})
    with pytest.raises(PermanentError, match=said):
        await drill.prepare(system_context())
    await drill.clean_up(system_context())


async def test_role_of_every_action_can_do_no_more(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    settings, token = accounts.settings(sorted(ACTIONS))
    monkeypatch.setenv("KUBERNETES_ROLE_TOKEN", token)
    client = (await opened(Scale, **settings, kubeconfig="", token="env:KUBERNETES_ROLE_TOKEN")).clusters
    here = f"/api/v1/namespaces/{accounts.world.namespace}"
    forbidden = [
        ("GET", f"{here}/secrets", None),
        ("POST", f"{here}/pods", {"metadata": {"name": "own"}}),
        ("DELETE", f"/apis/apps/v1/namespaces/{accounts.world.namespace}/deployments/web", None),
        ("DELETE", "/api/v1/nodes/spare", None),
        ("PATCH", "/apis/apps/v1/namespaces/default/deployments/web", {"spec": {"paused": True}}),
    ]
    for method, path, body in forbidden:
        with pytest.raises(PermanentError, match="403"):
            await client.ask(5.0, method, path, body=body)


async def test_inspection_reports_what_an_administrator_has_too_much(
    kubernetes_settings: dict[str, Any],
) -> None:
    found = await inspected(kubernetes_settings, "kubernetes.scale")
    assert (found.product, found.version, found.unsupported, found.identity) == (
        "Kubernetes",
        "v1.34.4",
        "",
        "admin",
    )
    assert abs((found.server_time or 0.0) - SystemClock().now()) < 5
    assert all(one.held for one in found.privileges)
    assert "* *.*" in [one.name for one in found.privileges if not one.needed_by]


async def test_inspection_reports_what_is_lacking(
    kubernetes_settings: dict[str, Any], kubernetes_nobody: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_NOBODY_TOKEN", kubernetes_nobody)
    way = {"host": world.access.url, "ca_file": str(world.access.ca), "token": "env:KUBERNETES_NOBODY_TOKEN"}
    found = await inspected(way, "kubernetes.cordon")
    lacking = [one.name for one in found.privileges if not one.held]
    assert "patch nodes everywhere" in lacking
    assert found.identity == "nobody"


async def test_probe_tells_well_from_sick_from_gone(world: World, opened: Open) -> None:
    prober, clock = await opened(KubernetesProber), SystemClock()
    on = Target("web", "kubernetes_workload", address={"namespace": world.namespace, "name": "web"})

    async def read() -> Any:
        params = prober.params()
        return await prober.read(on, params, timeout_seconds=5, clock=clock, run_blocking=run_inline)

    assert (await read()).signals.up is False
    world.workload()
    await world.until_ready()
    well = (await read()).signals
    assert (well.up, well.error_rate) == (True, 0.0)
    world.set_script("web", CRASH)
    await world.until(
        lambda: any(
            pod["status"].get("containerStatuses", [{}])[0].get("restartCount") for pod in world.pods()
        )
    )
    sick = await read()
    assert sick.signals.up is False, sick
