"""Workloads: how far a rollout is, whether it is well, and what is collected before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from actions.kubernetes_api import MissingError
from actions.kubernetes_claim import Claims
from actions.kubernetes_executor import KubernetesExecutor
from actions.kubernetes_objects import (
    condition,
    is_ready,
    path_of,
    restarts_of,
    statuses_of,
    trouble_of,
)
from actions.kubernetes_ownership import namespace_objection, ownership_of, protection
from actions.kubernetes_reader import Place, place_of
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    Check,
    Params,
    PermanentError,
    TransientError,
    held,
)
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_MAX_PODS, _MAX_EVENTS, _MAX_TEXT = 20, 20, 300
_LOG_LINES, _LOG_BYTES = "50", "8192"


class SettledParams(Params):
    """How long the workload must be well without a break."""

    stable_seconds: float = Field(10.0, ge=0, le=600)
    """The fix has to hold for that long: every pod ready, no container restarted."""


def desired_of(workload: JsonObject) -> int:
    """Give how many pods a workload wants."""
    if workload["kind"] == "DaemonSet":
        return int((workload.get("status") or {}).get("desiredNumberScheduled") or 0)
    replicas = workload["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def ready_of(workload: JsonObject) -> int:
    """Give how many of them are ready (and have been for `minReadySeconds`)."""
    status = workload.get("status") or {}
    if workload["kind"] == "DaemonSet":
        return int(status.get("numberAvailable") or 0)
    return int(status.get("availableReplicas") or 0)


def progress(workload: JsonObject) -> str:
    """Give how a rollout is in progress; empty when none is."""
    status, meta = workload.get("status") or {}, workload["metadata"]
    if int(status.get("observedGeneration") or 0) < int(meta.get("generation") or 0):
        return "its last change is not yet seen by its controller"
    desired = desired_of(workload)
    updated = int(
        status.get("updatedNumberScheduled" if workload["kind"] == "DaemonSet" else "updatedReplicas") or 0
    )
    if workload["kind"] == "StatefulSet":
        same = status.get("currentRevision") == status.get("updateRevision")
        return "" if same else f"{updated} of {desired} pods are of the new revision"
    if updated < desired:
        return f"{updated} of {desired} pods are of the new revision"
    if workload["kind"] == "Deployment" and int(status.get("replicas") or 0) > updated:
        return "pods of the old revision are still there"
    return ""


def complaint(workload: JsonObject) -> str:
    """Give why a workload is not rolled out and ready; empty when it is (or is none that rolls out)."""
    if workload["kind"] == "Job":
        return str(condition(workload, "Failed").get("message") or "")
    stuck = condition(workload, "Progressing")
    if stuck.get("reason") == "ProgressDeadlineExceeded":
        return "the rollout made no progress before its deadline"
    moving = progress(workload)
    if moving:
        return moving
    ready, desired = ready_of(workload), desired_of(workload)
    return "" if ready >= desired else f"{ready} of {desired} pods are ready"


def state_of(workload: JsonObject) -> dict[str, Any]:
    """Give what tells sick from well, as evidence."""
    return {
        "uid": workload["metadata"]["uid"],
        "generation": workload["metadata"].get("generation"),
        "desired": desired_of(workload),
        "ready": ready_of(workload),
        "complaint": complaint(workload),
        **ownership_of(workload).as_facts(),
    }


def does_match(selector: JsonObject | None, labels: Mapping[str, str]) -> bool:
    """Say whether a label selector matches; an absent one matches nothing, an empty one everything."""
    if selector is None:
        return False
    wanted = (selector.get("matchLabels") or {}).items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        _does_hold(one, labels) for one in selector.get("matchExpressions") or []
    )


def _does_hold(one: JsonObject, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(one["key"]), one.get("values") or []
    holds = {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return holds[one["operator"]]


def budgets_of(budgets: Sequence[Json], pod: JsonObject) -> list[Json]:
    """Give the disruption budgets of a namespace that cover a pod (or a pod template)."""
    labels = pod["metadata"].get("labels") or {}
    return [one for one in budgets if does_match(one["spec"].get("selector"), labels)]


class WorkloadExecutor(KubernetesExecutor):
    """Reads a workload with its pods, and waits until it is rolled out and stays well."""

    kinds: tuple[str, ...] = ("Deployment", "StatefulSet", "DaemonSet")

    def place(self, ctx: ActionContext) -> Place:
        """Give where the target is."""
        return place_of(ctx.target, kinds=self.kinds)

    def claims(self, ctx: ActionContext) -> Claims:
        """Give the leases beside the target."""
        return Claims(self.ask, self.place(ctx).namespace)

    async def workload(self, ctx: ActionContext) -> Json:
        """Give the target as it is now."""
        return await self.ask(ctx, "GET", self.place(ctx).path())

    async def workload_or_objection(self, ctx: ActionContext) -> tuple[Json, str]:
        """Give the target and why it may not be touched: absent, being deleted, protected."""
        place, settings = self.place(ctx), self.clusters.settings
        reason = namespace_objection(place.namespace, settings)
        if reason or ctx.target.protected:
            return {}, reason or "the target is protected"
        try:
            found = await self.workload(ctx)
        except MissingError:
            return {}, f"there is no {place.subject} in {place.namespace}"
        if found["metadata"].get("deletionTimestamp") and place.kind != "Job":
            return found, "it is being deleted"
        return found, protection([found], settings)

    async def pods(self, ctx: ActionContext, workload: JsonObject) -> list[Json]:
        """Give the pods that the workload controls."""
        return await self.reader.pods(ctx, workload)

    async def budgets(self, ctx: ActionContext, namespace: str, pod: JsonObject) -> list[Json]:
        """Give the disruption budgets that cover a pod."""
        return budgets_of(await self.listed(ctx, path_of("PodDisruptionBudget", namespace)), pod)

    async def until_rolled_out(
        self, ctx: ActionContext, judged: Callable[[Json, list[Json]], str] | None = None
    ) -> Check:
        """Poll until the rollout is complete, every pod ready, and no container restarted for a while."""
        restarts: int | None = None

        async def sample() -> Check:
            nonlocal restarts
            try:
                workload = await self.workload(ctx)
                pods = await self.pods(ctx, workload)
            except (TransientError, PermanentError) as error:
                return Check(ok=False, reason=error.message)
            count, before = restarts_of(pods), restarts
            restarts = count
            reason = (judged(workload, pods) if judged else "") or complaint(workload)
            if not reason and before is not None and count > before:
                reason = "its containers keep restarting"
            return Check(ok=not reason, reason=reason, facts={**state_of(workload), "restarts": count})

        return await held(
            ctx, sample, hold_seconds=ctx.params.stable_seconds, within_seconds=ctx.seconds_left
        )

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the workload's state, its pods, their events, and the last words of the sickest."""
        try:
            workload = await self.workload(ctx)
            found: Json = {"state": state_of(workload)}
            pods = await self.pods(ctx, workload)
            found["pods"] = [_pod_facts(pod) for pod in pods[:_MAX_PODS]]
            found["events"] = await self._events(ctx, workload, pods)
            found["log"] = await self._log(ctx, pods)
        except ActionError as error:
            return {"reason": error.message}
        return found

    async def _events(
        self, ctx: ActionContext, workload: JsonObject, pods: Sequence[JsonObject]
    ) -> list[str]:
        path = path_of("Event", workload["metadata"]["namespace"])
        names = {workload["metadata"]["name"], *(pod["metadata"]["name"] for pod in pods)}
        query = {"limit": "200", "fieldSelector": "type=Warning"}
        events = (await self.ask(ctx, "GET", path, query=query)).get("items") or []
        found = [one for one in events if (one.get("involvedObject") or {}).get("name") in names]
        return [f"{one.get('reason')}: {one.get('message')}"[:_MAX_TEXT] for one in found[-_MAX_EVENTS:]]

    async def _log(self, ctx: ActionContext, pods: Sequence[JsonObject]) -> str:
        sick = sorted(pods, key=lambda pod: (is_ready(pod), -restarts_of([pod])))
        if not sick:
            return ""
        meta, container = sick[0]["metadata"], sick[0]["spec"]["containers"][0]["name"]
        query = {"container": container, "tailLines": _LOG_LINES, "limitBytes": _LOG_BYTES}
        # A container that crashed has said why before its last restart.
        if restarts_of([sick[0]]) and not is_ready(sick[0]):
            query["previous"] = "true"
        context = str(ctx.target.address.get("context") or "")
        path = path_of("Pod", meta["namespace"], meta["name"], "log")
        try:
            answer = await self.clusters.raw(ctx.seconds_left, "GET", path, query=query, context=context)
        except ActionError as error:
            return f"not readable: {error.message}"
        return answer.body.decode(errors="replace")


def _pod_facts(pod: JsonObject) -> dict[str, Any]:
    ends = [
        f"{one['name']}: {end.get('reason')} (exit code {end.get('exitCode')})"
        for one in statuses_of(pod)
        if (
            end := (one.get("lastState") or {}).get("terminated")
            or (one.get("state") or {}).get("terminated")
        )
    ]
    return {
        "name": pod["metadata"]["name"],
        "node": pod["spec"].get("nodeName", ""),
        "trouble": trouble_of(pod),
        "restarts": restarts_of([pod]),
        "ended": ends[:5],
    }
