"""What hangs and keeps others from going on: Jobs that never end, pods that never go, pods that were evicted."""

from __future__ import annotations

import copy
import json
from typing import Any

from pydantic import Field

from actions.kubernetes_api import ConflictError, MissingError
from actions.kubernetes_claim import PREFIX, lease_name
from actions.kubernetes_hanging import Hanging, hanging_of
from actions.kubernetes_objects import condition, controller_of, path_of, seconds_of
from actions.kubernetes_ownership import protection
from actions.kubernetes_reader import KIND
from actions.kubernetes_workload import SettledParams, WorkloadExecutor
from oncall_agent.contract import ActionContext, ActionSpec, Check, PermanentError, Receipt, RiskClass, held
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_MAX_MANIFEST_BYTES = 262_144
_MADE_BY_CONTROLLER = (
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
)


class StuckParams(SettledParams):
    """What counts as stuck, and how much of it is removed."""

    older_than_seconds: float = Field(900.0, ge=0, le=2_592_000)
    """Younger than that, it may still end by itself."""
    max_pods: int = Field(10, ge=1, le=50)
    """With more stuck pods than that, none is deleted."""


class DeleteStuck(WorkloadExecutor):
    """Deletes a Job that hangs, or the pods of a workload that hang in their deletion or were evicted.

    Never a volume claim. A pod's finalizers are taken off only when `removable_finalizers` has each of them;
    a pod whose containers still run on a ready node is left alone.
    """

    spec = ActionSpec(
        id="kubernetes.delete_stuck",
        summary="Delete a stuck Job, or pods that hang in their deletion or were evicted.",
        target_kind=KIND,
        params=StuckParams,
        risk=RiskClass.R2,
        reversible=True,
        blast_radius=50,
        deadline_seconds=180.0,
        cost=0.1,
        family="restart",
    )
    kinds = (*WorkloadExecutor.kinds, "Job")

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is young, has no owner or a finalizer that is not listed, or still runs."""
        workload, reason = await self.workload_or_objection(ctx)
        if not workload or reason:
            return Check(ok=False, reason=reason)
        if workload["kind"] == "Job":
            facts = {"uid": workload["metadata"]["uid"], "job": workload["metadata"]["name"]}
            reason = job_objection(workload, ctx.clock.now(), ctx.params.older_than_seconds)
            return Check(ok=not reason, reason=reason, facts=facts)
        found, reason = await self._hanging(ctx, workload)
        facts = {"pods": [one.as_facts() for one in found]}
        return Check(ok=not reason, reason=reason, instances=len(found), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Delete the Job, its manifest kept in the cluster; or each pod that was found."""
        workload = await self._workload_or_nothing(ctx)
        if self.place(ctx).kind == "Job":
            facts: Json = {
                "uid": workload["metadata"]["uid"] if workload else "",
                "job": self.place(ctx).name,
            }
            act = self._delete_job
        else:
            found, _ = await self._hanging(ctx, workload) if workload else ([], "")
            facts, act = {"pods": [one.as_facts() for one in found]}, self._delete_pods
        if ctx.dry_run:
            return self.planned(ctx, facts)
        return await self.once(
            ctx, self.claims(ctx), self.place(ctx).subject, facts, lambda kept: act(ctx, kept)
        )

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether what was deleted is gone, and a workload's pods are ready."""
        uids = {one["uid"] for one in receipt.facts.get("pods") or []}
        if self.place(ctx).kind == "Job":
            return await self._until_job_gone(ctx, str(receipt.facts.get("uid", "")))

        def judged(_workload: Json, pods: list[Json]) -> str:
            left = [pod["metadata"]["name"] for pod in pods if pod["metadata"]["uid"] in uids]
            return f"still there: {', '.join(left[:5])}" if left else ""

        return await self.until_rolled_out(ctx, judged)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Apply a Job's saved manifest again; a pod is replaced by its controller."""
        if self.place(ctx).kind != "Job":
            return Check(ok=True, facts={"pods": "replaced by their controller"})
        if await self._workload_or_nothing(ctx):
            return Check(ok=True, facts={"job": "it is there"})
        namespace = self.place(ctx).namespace
        try:
            saved = await self.ask(ctx, "GET", path_of("ConfigMap", namespace, self._saved_name(ctx)))
        except MissingError:
            return Check(ok=False, reason="its manifest was not saved")
        await self.ask(ctx, "POST", path_of("Job", namespace), body=json.loads(saved["data"]["manifest"]))
        return Check(ok=True, facts={"job": "applied again"})

    async def _hanging(self, ctx: ActionContext, workload: Json) -> tuple[list[Hanging], str]:
        pods = await self.pods(ctx, workload)
        nodes = {one["metadata"]["name"]: one for one in await self.listed(ctx, path_of("Node"), most=5_000)}
        found = [
            hanging_of(pod, nodes, ctx.clock.now(), ctx.params.older_than_seconds, self.clusters.settings)
            for pod in pods
        ]
        stuck = [one for one in found if one is not None]
        if not stuck:
            return [], "no pod of it is stuck for that long"
        refused = protection(
            [pod for pod in pods if pod["metadata"].get("deletionTimestamp")], self.clusters.settings
        )
        reason = refused or next((one.objection for one in stuck if one.objection), "")
        if len(stuck) > ctx.params.max_pods:
            reason = reason or f"{len(stuck)} pods are stuck, more than {ctx.params.max_pods}"
        return stuck, reason

    async def _delete_pods(self, ctx: ActionContext, found: Json) -> None:
        if not found["pods"]:
            raise PermanentError("no pod of it is stuck any more")
        workload = await self.workload(ctx)
        stuck, reason = await self._hanging(ctx, workload)
        if stuck and reason:
            raise PermanentError(reason)
        wanted = {one["uid"] for one in found["pods"]}
        for one in stuck:
            if one.uid in wanted:
                await self._delete_pod(ctx, one)

    async def _delete_pod(self, ctx: ActionContext, one: Hanging) -> None:
        path = path_of("Pod", self.place(ctx).namespace, one.name)
        try:
            if one.needs_delete:
                body = {
                    "preconditions": {"uid": one.uid},
                    **({"gracePeriodSeconds": 0} if one.by_force else {}),
                }
                await self.ask(ctx, "DELETE", path, body=body)
            if one.finalizers:
                await self.ask(ctx, "PATCH", path, body={"metadata": {"uid": one.uid, "finalizers": None}})
        except (MissingError, ConflictError):
            return  # It is gone, or another pod has its name by now.

    async def _delete_job(self, ctx: ActionContext, found: Json) -> None:
        job = await self._workload_or_nothing(ctx)
        if not job or job["metadata"]["uid"] != found["uid"]:
            return
        reason = job_objection(job, ctx.clock.now(), ctx.params.older_than_seconds)
        if reason:
            raise PermanentError(reason)
        await self._save(ctx, job)
        body = {"preconditions": {"uid": found["uid"]}, "propagationPolicy": "Background"}
        try:
            await self.ask(ctx, "DELETE", self.place(ctx).path(), body=body)
        except (MissingError, ConflictError):
            return

    async def _save(self, ctx: ActionContext, job: Json) -> None:
        # Its environment may hold secrets: it stays where the Job was, never in a receipt.
        text = json.dumps(manifest_of(job), sort_keys=True)
        if len(text) > _MAX_MANIFEST_BYTES:
            raise PermanentError("its manifest is too long to be saved for undoing")
        namespace, name = self.place(ctx).namespace, self._saved_name(ctx)
        marks = {f"{PREFIX}/target": self.place(ctx).subject}
        labels = {"app.kubernetes.io/managed-by": "oncall-agent"}
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "annotations": marks, "labels": labels},
            "data": {"manifest": text},
        }
        try:
            await self.ask(ctx, "POST", path_of("ConfigMap", namespace), body=body)
        except ConflictError:
            await self.ask(ctx, "PUT", path_of("ConfigMap", namespace, name), body=body)

    async def _until_job_gone(self, ctx: ActionContext, uid: str) -> Check:
        async def sample() -> Check:
            job = await self._workload_or_nothing(ctx)
            is_gone = not job or job["metadata"]["uid"] != uid
            return Check(ok=is_gone, reason="" if is_gone else "the Job is still there")

        return await held(ctx, sample, hold_seconds=0.0, within_seconds=ctx.seconds_left)

    async def _workload_or_nothing(self, ctx: ActionContext) -> Json:
        try:
            return await self.workload(ctx)
        except MissingError:
            return {}

    def _saved_name(self, ctx: ActionContext) -> str:
        return lease_name(self.place(ctx).subject)


def job_objection(job: JsonObject, now: float, older_than_seconds: float) -> str:
    """Give why a Job may not be deleted as stuck; empty when it may."""
    owner, spec, status = controller_of(job), job["spec"], job.get("status") or {}
    if owner is not None and owner.get("kind") != "CronJob":
        return f"{owner.get('kind')} {owner.get('name')} owns it"
    if condition(job, "Complete").get("status") == "True":
        return "it has completed"
    if spec.get("suspend"):
        return "it is suspended"
    age = now - (seconds_of(status.get("startTime")) or seconds_of(job["metadata"].get("creationTimestamp")))
    return "" if age >= older_than_seconds else f"it runs for {age:.0f} s only"


def manifest_of(job: JsonObject) -> Json:
    """Give what has to be applied to have the same Job again."""
    meta, spec = job["metadata"], copy.deepcopy(job["spec"])
    if not spec.get("manualSelector"):
        spec.pop("selector", None)
        labels = spec["template"]["metadata"].get("labels") or {}
        spec["template"]["metadata"]["labels"] = _without(labels)
    kept = {
        key: meta[key] for key in ("name", "namespace", "annotations", "ownerReferences") if meta.get(key)
    }
    kept["labels"] = _without(meta.get("labels") or {})
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": kept, "spec": spec}


def _without(labels: JsonObject) -> Json:
    return {key: value for key, value in labels.items() if key not in _MADE_BY_CONTROLLER}
