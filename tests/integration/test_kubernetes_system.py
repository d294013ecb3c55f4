"""Kubernetes as a system: its drills healed by the real actions, and exactly the generated role."""

from __future__ import annotations

from typing import Any

import pytest
from backends.kubernetes_scenes import system_context
from backends.kubernetes_server import SPARE_NODE, SPARE_TAINT
from backends.kubernetes_world import World

from actions.kubernetes_drain import Drain
from actions.kubernetes_drills import DRILLS
from actions.kubernetes_drills_node import NodeDrill
from actions.kubernetes_drills_stuck import FINALIZER
from actions.kubernetes_nodes import Cordon, Uncordon
from actions.kubernetes_pods import DeletePod
from actions.kubernetes_resources import SetResources
from actions.kubernetes_rollout import RolloutRestart, RolloutUndo
from actions.kubernetes_scale import RaiseHpa, Scale
from actions.kubernetes_stuck import DeleteStuck
from oncall_agent.contract import Drill, Executor, SystemClock
from oncall_agent.testing import context_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

KINDS: dict[str, type[Executor]] = {
    kind.spec.id: kind
    for kind in (
        Cordon, DeletePod, DeleteStuck, Drain, RaiseHpa, RolloutRestart, RolloutUndo, Scale, SetResources, Uncordon,
    )
}  # fmt: skip


async def heal(drill: Drill, settings: dict[str, Any]) -> None:
    """What the validation suite does with a drill: well, sick, acted on, well, undone, gone."""
    kind, ctx = KINDS[drill.spec.action], system_context(90.0)
    try:
        trial = await drill.prepare(ctx)
        assert (await drill.symptom(ctx, trial)).ok
        await drill.inject(ctx, trial)
        assert not (await drill.symptom(ctx, trial)).ok
        params = kind.spec.params.model_validate(dict(trial.params))
        attempt = context_for(params, trial.target, clock=SystemClock(), seconds=60, key=drill.name)
        async with kind(settings) as executor:
            evidence = await executor.diagnose(attempt)
            assert "reason" not in evidence, evidence
            check = await executor.precheck(attempt)
            assert check.ok, check
            receipt = await executor.execute(attempt)
            verified = await executor.verify(attempt, receipt)
            assert verified.ok, verified
            assert (await drill.symptom(ctx, trial)).ok
            if kind.spec.reversible:
                undone = await executor.rollback(attempt, receipt)
                assert undone.ok, undone
    finally:
        await drill.clean_up(system_context())
        await drill.clean_up(system_context())


@pytest.mark.parametrize(
    "kind", [kind for kind in DRILLS if not issubclass(kind, NodeDrill)], ids=lambda kind: kind.spec.id
)
async def test_drill_is_healed_by_its_action_and_leaves_nothing(
    kind: type[Drill], kubernetes_settings: dict[str, Any], world: World
) -> None:
    settings = {**kubernetes_settings, "removable_finalizers": [FINALIZER]}
    drill = kind(settings, {"image": world.image})
    await heal(drill, settings)
    gone = World(world.access, drill.namespace, world.image)
    await world.until(lambda: not gone.get("Namespace", drill.namespace), seconds=60)


@pytest.mark.exclusive
@pytest.mark.parametrize(
    "kind", [kind for kind in DRILLS if issubclass(kind, NodeDrill)], ids=lambda kind: kind.spec.id
)
async def test_drill_on_a_node_is_healed_by_its_action(
    kind: type[Drill], kubernetes_settings: dict[str, Any], world: World
) -> None:
    named = {"image": world.image, "node": SPARE_NODE, "tolerate": SPARE_TAINT}
    settings = {**kubernetes_settings, "lease_namespace": world.namespace}
    await heal(kind(settings, named), settings)
    assert not world.get("Node", SPARE_NODE)["spec"].get("unschedulable")
