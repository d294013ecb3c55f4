"""Faults made on purpose on workloads that a drill makes for itself and removes."""

from __future__ import annotations

from typing import Any, ClassVar

from actions.kubernetes_drill import IDLE, NAMED, KubernetesDrill
from actions.kubernetes_drills_node import CordonedNode, FullNode
from actions.kubernetes_drills_stuck import StuckJob, StuckPod
from actions.kubernetes_objects import path_of, statuses_of
from oncall_agent.contract import Check, Drill, DrillSpec, PermanentError, SystemContext, Trial

Json = dict[str, Any]
_HANG_SECONDS = 4.0
_TIGHT, _LOAD_BYTES = "24Mi", 36 * 1_048_576
# It lives on for a moment, so that a runtime that learns of the kill a little later still says OOMKilled.
_HUNGRY = f"head -c {2 * _LOAD_BYTES} /dev/zero | tail -c {_LOAD_BYTES} >/dev/null || {{ sleep 1; exit 1; }}; {IDLE}"
# A pod that was started before HANG_AT stops answering its probe at that time; a fresh one does not.
_HANGING = (
    "trap 'exit 0' TERM; began=$(date +%s); touch /tmp/well; while :; do "
    'if [ "$began" -lt "$HANG_AT" ] && [ "$(date +%s)" -ge "$HANG_AT" ]; then rm -f /tmp/well; fi; '
    "sleep 1 & wait $!; done"
)
_WELL = ["test", "-e", "/tmp/well"]  # noqa: S108 - inside the drill's own container
_PROBE = {"exec": {"command": _WELL}, "periodSeconds": 1, "failureThreshold": 1}


class CrashLoop(KubernetesDrill):
    """A new revision that crashes at once."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.crash_loop",
        action="kubernetes.rollout_undo",
        scenario="service_crash_handling",
        summary="A Deployment of its own gets a revision that crashes again and again.",
        **NAMED,
    )

    async def break_it(self, ctx: SystemContext) -> None:
        """Roll it out, and wait until it crashes."""
        await self.patch(ctx, {}, container={"command": ["sh", "-c", "exit 3"]})
        await self.until_sick(ctx)


class BadRollout(KubernetesDrill):
    """A new revision whose image is nowhere."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.bad_rollout",
        action="kubernetes.rollout_undo",
        scenario="bad_rollout",
        summary="A Deployment of its own gets an image that no node has (ErrImageNeverPull).",
        **NAMED,
    )

    async def break_it(self, ctx: SystemContext) -> None:
        """Roll it out, and wait until it has no image."""
        image = {"image": f"oncall-agent.invalid/{self.name}:none", "imagePullPolicy": "Never"}
        await self.patch(ctx, {}, container=image)
        await self.until_sick(ctx)


class OutOfMemory(KubernetesDrill):
    """A load that needs more memory than its container may have."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.out_of_memory",
        action="kubernetes.set_resources",
        scenario="high_memory_response",
        summary="A container of its own needs more memory than its limit and is killed for it.",
        **NAMED,
    )
    stable_seconds = 3.0

    async def make(self, ctx: SystemContext) -> None:
        """Start it with little memory and no load."""
        await self.deploy(ctx, resources={"limits": {"memory": _TIGHT}, "requests": {"memory": _TIGHT}})

    async def break_it(self, ctx: SystemContext) -> None:
        """Give it the load, and wait until it was killed for it."""
        await self.patch(ctx, {}, container={"command": ["sh", "-c", _HUNGRY]})
        await self.until_so(ctx, self._was_killed)

    def trial(self) -> Trial:
        """Ask for twice as much."""
        given = super().trial()
        return Trial(given.target, {**given.params, "memory_factor": 2.0})

    async def _was_killed(self, ctx: SystemContext) -> bool:
        workload = await self.ask(ctx, "GET", path_of("Deployment", self.namespace, self.name))
        ends = [
            (one.get("lastState") or {}).get("terminated") or {}
            for pod in await self.pods(ctx, workload)
            for one in statuses_of(pod)
        ]
        return any(end.get("reason") == "OOMKilled" for end in ends)


class HungProbe(KubernetesDrill):
    """Pods that run and do not answer their readiness probe."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.hung_probe",
        action="kubernetes.rollout_restart",
        scenario="hung_service",
        summary="The pods of a Deployment of its own hang: they run, and their probe fails.",
        **NAMED,
    )

    async def make(self, ctx: SystemContext) -> None:
        """Start it; nothing hangs yet."""
        env = [{"name": "HANG_AT", "value": "0"}]
        await self.deploy(ctx, _HANGING, env=env, readinessProbe=_PROBE)

    async def break_it(self, ctx: SystemContext) -> None:
        """Say when it hangs; a pod that was not up by then does not, and gets more time."""
        seconds = _HANG_SECONDS
        while not await self._was_well_before(ctx, int(ctx.clock.now() + seconds)):
            seconds *= 2

    async def _was_well_before(self, ctx: SystemContext, at: int) -> bool:
        await self.patch(ctx, {}, container={"env": [{"name": "HANG_AT", "value": str(at)}]})
        was_well = False
        while ctx.clock.now() < at + 1:
            if not ctx.seconds_left:
                raise PermanentError("the fault did not show in time")
            is_well = (await self.look(ctx)).ok
            was_well = was_well or (is_well and ctx.clock.now() < at)
            await ctx.clock.sleep(0.2)
        return was_well


class HungPod(HungProbe):
    """One pod that hangs; to evict it is enough."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.hung_pod",
        action="kubernetes.delete_pod",
        scenario="hung_service",
        summary="The only pod of a Deployment of its own hangs.",
        **NAMED,
    )


class Unschedulable(KubernetesDrill):
    """More replicas than can be placed."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.unschedulable",
        action="kubernetes.scale",
        scenario="unschedulable_replicas",
        summary="A Deployment of its own is scaled beyond what the scheduler can place.",
        **NAMED,
    )

    async def make(self, ctx: SystemContext) -> None:
        """Start it with a rule that lets only one of its pods run on all Linux nodes together."""
        selector = {"matchLabels": {"app": self.name}}
        rule = {"labelSelector": selector, "topologyKey": "kubernetes.io/os"}
        affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [rule]}}
        await self.deploy(ctx, pod={"affinity": affinity})

    async def break_it(self, ctx: SystemContext) -> None:
        """Want two."""
        await self.patch(ctx, {"replicas": 2})

    def trial(self) -> Trial:
        """Ask for one."""
        given = super().trial()
        return Trial(given.target, {**given.params, "replicas": 1})


class AutoscalerAtMax(KubernetesDrill):
    """An autoscaler at its highest number while more pods are needed."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.autoscaler_at_max",
        action="kubernetes.raise_hpa",
        scenario="overload",
        summary="The load of a Deployment of its own needs two pods, its autoscaler allows one.",
        **NAMED,
    )
    needed = 1

    async def make(self, ctx: SystemContext) -> None:
        """Start one pod under an autoscaler that allows one."""
        await self.deploy(ctx)
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name}
        metric = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
        spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 1}
        metrics = [{"type": "Resource", "resource": metric}]
        await self.create(ctx, "HorizontalPodAutoscaler", self.name, spec={**spec, "metrics": metrics})

    async def break_it(self, ctx: SystemContext) -> None:
        """Let the load need two."""
        self.needed = 2

    async def look(self, ctx: SystemContext) -> Check:
        """Compare what is needed with what is ready."""
        workload = await self.ask(ctx, "GET", path_of("Deployment", self.namespace, self.name))
        ready = int((workload.get("status") or {}).get("availableReplicas") or 0)
        is_enough = ready >= self.needed
        return Check(
            ok=is_enough, reason="" if is_enough else f"{ready} of {self.needed} needed pods are ready"
        )

    def trial(self) -> Trial:
        """Ask for two."""
        given = super().trial()
        return Trial(given.target, {**given.params, "min_replicas": 2, "max_replicas": 2})


DRILLS: tuple[type[Drill], ...] = (
    CrashLoop,
    BadRollout,
    OutOfMemory,
    HungProbe,
    HungPod,
    Unschedulable,
    AutoscalerAtMax,
    StuckJob,
    StuckPod,
    FullNode,
    CordonedNode,
)
