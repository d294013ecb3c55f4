"""Drills on what hangs: a Job that never ends, a pod that never goes."""

from __future__ import annotations

from typing import ClassVar

from actions.kubernetes_api import MissingError
from actions.kubernetes_drill import IDLE, NAMED, KubernetesDrill
from actions.kubernetes_objects import path_of, statuses_of
from oncall_agent.contract import Check, DrillSpec, PermanentError, SystemContext, Trial

FINALIZER = "oncall-agent.io/drill"


class StuckJob(KubernetesDrill):
    """A Job that never ends."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.stuck_job",
        action="kubernetes.delete_stuck",
        scenario="stuck_job",
        summary="A Job of its own hangs and never ends.",
        **NAMED,
    )
    is_broken = False

    async def make(self, ctx: SystemContext) -> None:
        """Start it; a Job that runs is well for as long as nobody waits for it."""
        template = self.template(IDLE, {"restartPolicy": "Never"})
        await self.create(ctx, "Job", self.name, spec={"template": template, "backoffLimit": 0})

    async def break_it(self, ctx: SystemContext) -> None:
        """Wait for it."""
        self.is_broken = True

    async def look(self, ctx: SystemContext) -> Check:
        """Ask whether it is still there, once it should have ended."""
        try:
            await self.ask(ctx, "GET", path_of("Job", self.namespace, self.name))
        except MissingError:
            return Check(ok=True)
        return Check(ok=not self.is_broken, reason="the Job does not end" if self.is_broken else "")

    def trial(self) -> Trial:
        """Ask for the Job, however young."""
        params = {"stable_seconds": self.stable_seconds, "older_than_seconds": 0}
        return Trial(self.target("Job"), params)


class StuckPod(KubernetesDrill):
    """A pod whose deletion waits for a finalizer that nobody serves."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.stuck_pod",
        action="kubernetes.delete_stuck",
        scenario="stuck_terminating",
        summary="A pod of its own hangs in its deletion: its finalizer is never taken off.",
        **NAMED,
    )
    stuck = ""

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Refuse where the action may not take the drill's finalizer off."""
        if FINALIZER not in self.clusters.settings.removable_finalizers:
            raise PermanentError(f"add {FINALIZER} to backends.kubernetes.removable_finalizers")
        return await super().prepare(ctx)

    async def break_it(self, ctx: SystemContext) -> None:
        """Give its pod a finalizer, and delete it."""
        workload = await self.ask(ctx, "GET", path_of("Deployment", self.namespace, self.name))
        self.stuck = (await self.pods(ctx, workload))[0]["metadata"]["name"]
        path = path_of("Pod", self.namespace, self.stuck)
        await self.ask(ctx, "PATCH", path, body={"metadata": {"finalizers": [FINALIZER]}})
        await self.ask(ctx, "DELETE", path)
        await self.until_so(ctx, self._has_ended)

    async def look(self, ctx: SystemContext) -> Check:
        """Ask for the pod as well as for the workload."""
        if not self.stuck:
            return await super().look(ctx)
        try:
            await self.ask(ctx, "GET", path_of("Pod", self.namespace, self.stuck))
        except MissingError:
            return await super().look(ctx)
        return Check(ok=False, reason=f"the pod {self.stuck} does not go")

    async def clean_up(self, ctx: SystemContext) -> None:
        """Take the finalizer off, else the namespace would not go either."""
        try:
            if self.stuck:
                path = path_of("Pod", self.namespace, self.stuck)
                await self.ask(ctx, "PATCH", path, body={"metadata": {"finalizers": None}})
        except MissingError:
            pass  # It went with the action.
        finally:
            await super().clean_up(ctx)

    def trial(self) -> Trial:
        """Ask for what hangs, however young."""
        given = super().trial()
        return Trial(given.target, {**given.params, "older_than_seconds": 0})

    async def _has_ended(self, ctx: SystemContext) -> bool:
        pod = await self.ask(ctx, "GET", path_of("Pod", self.namespace, self.stuck))
        return all((one.get("state") or {}).get("terminated") for one in statuses_of(pod))
