"""A container's room within its pod: more memory or CPU where there is evidence that it lacks them."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import Field, model_validator

from actions.kubernetes_capacity import added_pods, nodes_and_pods, quota_objection, rooms_of
from actions.kubernetes_objects import path_of, quantity, requests_of, was_oom_killed
from actions.kubernetes_ownership import TEMPLATE, drift
from actions.kubernetes_reader import KIND
from actions.kubernetes_usage import cpu_share
from actions.kubernetes_workload import SettledParams, WorkloadExecutor, desired_of, progress, state_of
from oncall_agent.contract import ActionContext, ActionSpec, Check, PermanentError, Receipt, RiskClass
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_MAX_FACTOR = 2.0
_MIB = 1_048_576
_THROTTLED = 0.9
_VPA_MARK = "vpaUpdates"


class ResourceParams(SettledParams):
    """What to raise, times what it is now."""

    container: str = Field("", pattern=r"^([a-z0-9][-a-z0-9]{0,62})?$")
    """The default is the only container of the pod."""
    memory_factor: float | None = Field(None, gt=1.0, le=_MAX_FACTOR)
    """Times the memory limit."""
    cpu_factor: float | None = Field(None, gt=1.0, le=_MAX_FACTOR)
    """Times the CPU limit."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.memory_factor is None and self.cpu_factor is None:
            raise ValueError("one of memory_factor and cpu_factor is needed")
        return self


class SetResources(WorkloadExecutor):
    """Raises the limits of one container, at most to the double, and rolls that out."""

    spec = ActionSpec(
        id="kubernetes.set_resources",
        summary="Raise the memory or CPU limit of a container that lacks it.",
        target_kind=KIND,
        params=ResourceParams,
        risk=RiskClass.R2,
        reversible=True,
        blast_radius=50,
        deadline_seconds=600.0,
        cost=0.12,
        family="scale",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse without evidence, beyond cap, quota and room, and what somebody else would set back."""
        workload, reason = await self.workload_or_objection(ctx)
        if not workload or reason:
            return Check(ok=False, reason=reason)
        pods = await self.pods(ctx, workload)
        facts, reason = self._plan(ctx, workload)
        moving = progress(workload)
        marks = [key for pod in pods for key in pod["metadata"].get("annotations") or {}]
        reason = reason or drift(workload, TEMPLATE)
        reason = reason or (f"a rollout is in progress: {moving}" if moving else "")
        reason = reason or ("a vertical autoscaler sets its resources" if _VPA_MARK in marks else "")
        reason = reason or await self._no_evidence(ctx, facts, pods)
        reason = reason or await self._no_room(ctx, workload, facts)
        facts = {**state_of(workload), **facts}
        return Check(ok=not reason, reason=reason, instances=desired_of(workload), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set the limits once."""
        workload = await self.workload(ctx)
        facts, reason = self._plan(ctx, workload)
        facts |= {"uid": workload["metadata"]["uid"]}
        if ctx.dry_run:
            return self.planned(ctx, facts)

        async def act(found: Json) -> None:
            if not found["wanted"]:
                raise PermanentError(reason)
            await self._set(ctx, found["uid"], found["container"], found["wanted"])

        stored = {**facts, "wanted": {} if reason else facts["wanted"]}
        return await self.once(ctx, self.claims(ctx), self.place(ctx).subject, stored, act)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the limits are rolled out, and no container ran out of memory since."""
        name, wanted = str(receipt.facts.get("container", "")), receipt.facts.get("wanted") or {}

        def judged(workload: Json, pods: list[Json]) -> str:
            if not _has(_container(workload, name), wanted):
                return "the limits are not as wanted"
            return "it ran out of memory again" if any(was_oom_killed(pod, name) for pod in pods) else ""

        return await self.until_rolled_out(ctx, judged)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set the old limits."""
        name, before = str(receipt.facts.get("container", "")), receipt.facts.get("before") or {}
        workload = await self.workload(ctx)
        if before and not _has(_container(workload, name), before):
            await self._set(ctx, workload["metadata"]["uid"], name, before)
        return Check(ok=True, facts={"container": name, "resources": before})

    async def _set(self, ctx: ActionContext, uid: str, container: str, resources: JsonObject) -> None:
        template = {"spec": {"containers": [{"name": container, "resources": resources}]}}
        body = {"metadata": {"uid": uid}, "spec": {"template": template}}
        await self.ask(ctx, "PATCH", self.place(ctx).path(), body=body, strategic=True)

    def _plan(self, ctx: ActionContext, workload: Json) -> tuple[Json, str]:
        containers, name = workload["spec"]["template"]["spec"]["containers"], ctx.params.container
        if not name and len(containers) == 1:
            name = containers[0]["name"]
        container = _container(workload, name)
        factors = {"memory": ctx.params.memory_factor, "cpu": ctx.params.cpu_factor}
        before, wanted = plan(container, {key: value for key, value in factors.items() if value is not None})
        facts: Json = {"container": name, "before": before, "wanted": wanted}
        if not container:
            return facts, "name one of its containers"
        if any(key not in wanted.get("limits", {}) for key, factor in factors.items() if factor is not None):
            return facts, "the container has no such limit to raise"
        return facts, self._beyond_cap(wanted)

    def _beyond_cap(self, wanted: JsonObject) -> str:
        settings, limits = self.clusters.settings, wanted["limits"]
        if quantity(limits.get("memory")) > settings.max_memory_bytes:
            return f"{settings.max_memory_bytes} bytes are the bound"
        return (
            f"{settings.max_cpus} CPUs are the bound"
            if quantity(limits.get("cpu")) > settings.max_cpus
            else ""
        )

    async def _no_evidence(self, ctx: ActionContext, facts: JsonObject, pods: list[Json]) -> str:
        name, limits = facts["container"], facts["wanted"]["limits"]
        if "memory" in limits and not any(was_oom_killed(pod, name) for pod in pods):
            return "no pod of it ran out of memory"
        if "cpu" in limits:
            share = await cpu_share(self, ctx, self.place(ctx).namespace, pods, name)
            if share is None:
                return "its CPU use can't be read (metrics.k8s.io)"
            if share < _THROTTLED:
                return f"it uses {share:.0%} of its CPU limit"
        return ""

    async def _no_room(self, ctx: ActionContext, workload: Json, facts: JsonObject) -> str:
        namespace, count = workload["metadata"]["namespace"], desired_of(workload)
        old = workload["spec"]["template"]["spec"]
        new = {**old, "containers": [_raised(one, facts) for one in old["containers"]]}
        added = {key: value - added_pods(old, count)[key] for key, value in added_pods(new, count).items()}
        # A rollout may run one pod more than wanted for a while.
        added = {key: max(value, 0.0) for key, value in added.items()}
        quotas = await self.listed(ctx, path_of("ResourceQuota", namespace))
        reason = quota_objection(quotas, added)
        if reason or requests_of(new) == requests_of(old):
            return reason
        nodes, pods = await nodes_and_pods(self, ctx)
        fits = any(room.holds(requests_of(new)) for room in rooms_of(nodes, pods, new))
        return "" if fits else "no node has room for a pod of that size"


def plan(container: JsonObject, factors: JsonObject) -> tuple[Json, Json]:
    """Give the resources of before and those wanted: limits, and requests where they are equal to the limits.

    A pod whose requests are its limits keeps that quality of service.
    """
    resources = container.get("resources") or {}
    before: Json = {}
    wanted: Json = {}
    for name, factor in factors.items():
        old = (resources.get("limits") or {}).get(name)
        if old is None:
            continue
        for part in ("limits", "requests"):
            now = (resources.get(part) or {}).get(name)
            if now is not None and quantity(now) == quantity(old):
                before.setdefault(part, {})[name] = now
                wanted.setdefault(part, {})[name] = _times(name, old, factor)
    return before, wanted


def _times(name: str, old: object, factor: float) -> str:
    if name == "cpu":
        return f"{math.floor(quantity(old) * factor * 1_000)}m"
    return f"{math.floor(quantity(old) * factor / _MIB)}Mi"


def _container(workload: JsonObject, name: str) -> Json:
    containers = workload["spec"]["template"]["spec"]["containers"]
    return next((one for one in containers if one["name"] == name), {})


def _has(container: JsonObject, resources: JsonObject) -> bool:
    now = container.get("resources") or {}
    return all(
        quantity((now.get(part) or {}).get(name)) == quantity(value)
        for part, values in resources.items()
        for name, value in values.items()
    )


def _raised(container: Json, facts: JsonObject) -> Json:
    if container["name"] != facts["container"]:
        return container
    resources = {part: dict(values) for part, values in (container.get("resources") or {}).items()}
    for part, values in facts["wanted"].items():
        resources.setdefault(part, {}).update(values)
    return {**container, "resources": resources}
