"""Single pods: evict one that is sick, so that its controller makes another."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from actions.kubernetes_api import BusyError, ConflictError, MissingError
from actions.kubernetes_claim import is_mine
from actions.kubernetes_objects import is_finished, path_of, restarts_of, trouble_of
from actions.kubernetes_ownership import protection
from actions.kubernetes_reader import KIND
from actions.kubernetes_workload import SettledParams, WorkloadExecutor, state_of
from oncall_agent.contract import ActionContext, ActionSpec, Check, PermanentError, Receipt, RiskClass
from oncall_agent.models import JsonObject

Json = dict[str, Any]


class DeletePodParams(SettledParams):
    """Which pod, and how it is ended."""

    pod: str = Field("", pattern=r"^([a-z0-9][-a-z0-9.]{0,252})?$")
    """The default is the sickest pod of the workload; none is taken when all are well."""
    grace_seconds: int | None = Field(None, ge=1, le=600)
    """Between TERM and KILL; the default is the pod's own."""
    min_interval_seconds: float = Field(120.0, ge=0, le=86_400)
    """Least time between two evictions from one workload."""


class DeletePod(WorkloadExecutor):
    """Evicts one pod through the eviction API, which asks the disruption budgets."""

    spec = ActionSpec(
        id="kubernetes.delete_pod",
        summary="Evict one pod of a workload; its controller makes another.",
        target_kind=KIND,
        params=DeletePodParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="a pod is replaced by its controller, never restored",
        deadline_seconds=300.0,
        cost=0.04,
        family="restart",
        exemptions={"rollback_restores": "a pod is replaced by its controller, never restored"},
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse without a sick pod, within the interval, or when a disruption budget does not allow it."""
        workload, reason = await self.workload_or_objection(ctx)
        if not workload or reason:
            return Check(ok=False, reason=reason)
        pods = await self.pods(ctx, workload)
        pod, reason = choose(pods, ctx.params.pod)
        facts = state_of(workload)
        if pod is None:
            return Check(ok=False, reason=reason, facts=facts)
        facts |= {
            "pod": pod["metadata"]["name"],
            "pod_uid": pod["metadata"]["uid"],
            "trouble": trouble_of(pod),
        }
        reason = protection([pod], self.clusters.settings) or await self._too_soon(ctx)
        reason = reason or await self._not_allowed(ctx, facts)
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Evict the pod that was chosen, once; a pod that is gone meanwhile is what was wanted."""
        workload = await self.workload(ctx)
        pod, _ = choose(await self.pods(ctx, workload), ctx.params.pod)
        meta = pod["metadata"] if pod else {"name": "", "uid": ""}
        facts = {"pod": meta["name"], "pod_uid": meta["uid"]}
        if ctx.dry_run:
            return self.planned(ctx, facts)

        async def act(found: Json) -> None:
            if not found["pod"]:
                raise PermanentError("there is no pod to evict any more")
            await self._evict_once(ctx, found)

        return await self.once(ctx, self.claims(ctx), self.place(ctx).subject, facts, act)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the pod is gone, and every pod of the workload ready and staying up."""
        uid = receipt.facts.get("pod_uid")

        def judged(_workload: Json, pods: list[Json]) -> str:
            is_there = any(pod["metadata"]["uid"] == uid for pod in pods)
            return "the pod is still there" if is_there else ""

        return await self.until_rolled_out(ctx, judged)

    async def _evict_once(self, ctx: ActionContext, found: Json) -> None:
        namespace = self.place(ctx).namespace
        try:
            pod = await self.ask(ctx, "GET", path_of("Pod", namespace, found["pod"]))
            meta = pod["metadata"]
            if meta["uid"] == found["pod_uid"] and not meta.get("deletionTimestamp"):
                await self._evict(ctx, found, {})
        except (MissingError, ConflictError):
            return  # It is gone, or another pod has its name by now.

    async def _evict(self, ctx: ActionContext, found: JsonObject, more: JsonObject) -> None:
        path = path_of("Pod", self.place(ctx).namespace, found["pod"], "eviction")
        await self.ask(ctx, "POST", path, body=eviction(found, ctx.params.grace_seconds, more))

    async def _too_soon(self, ctx: ActionContext) -> str:
        action, key, at = await self.claims(ctx).last(ctx, self.place(ctx).subject)
        ago = ctx.clock.now() - at
        is_recent = action == self.spec.id and ago < ctx.params.min_interval_seconds
        if is_recent and not is_mine(ctx, key):
            return f"a pod of it was evicted {ago:.0f} s ago"
        return ""

    async def _not_allowed(self, ctx: ActionContext, facts: JsonObject) -> str:
        try:
            # The server's own dry run: it asks the budgets and changes nothing.
            await self._evict(ctx, facts, {"dryRun": ["All"]})
        except BusyError:
            return "a disruption budget does not allow it now"
        return ""


def eviction(pod: JsonObject, grace_seconds: int | None, more: JsonObject) -> Json:
    """Give the request that evicts this very pod, and no other of its name."""
    options: Json = {"preconditions": {"uid": pod["pod_uid"]}, **more}
    if grace_seconds is not None:
        options["gracePeriodSeconds"] = grace_seconds
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod["pod"]},
        "deleteOptions": options,
    }


def choose(pods: list[Json], name: str) -> tuple[Json | None, str]:
    """Give the pod to evict, or why there is none: the one named, else the sickest."""
    alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp") and not is_finished(pod)]
    if name:
        named = next((pod for pod in alive if pod["metadata"]["name"] == name), None)
        return named, "" if named else f"the workload has no pod {name}"
    sick = [pod for pod in alive if trouble_of(pod)]
    if not sick:
        return None, "every pod of the workload is well"
    return max(sick, key=lambda pod: (restarts_of([pod]), pod["metadata"]["name"])), ""
