"""How many pods: a workload's replicas where no autoscaler has the word, else the autoscaler's bounds."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from actions.kubernetes_autoscaler import autoscaler_of, bounds_of, hpa_objection
from actions.kubernetes_capacity import pods_objection
from actions.kubernetes_objects import path_of
from actions.kubernetes_ownership import REPLICAS, drift
from actions.kubernetes_reader import KIND
from actions.kubernetes_workload import SettledParams, WorkloadExecutor, desired_of, ready_of, state_of
from oncall_agent.contract import ActionContext, ActionSpec, Check, PermanentError, Receipt, RiskClass
from oncall_agent.models import JsonObject

Json = dict[str, Any]


class ScaleParams(SettledParams):
    """How far to scale: to a number, or by a step."""

    replicas: int | None = Field(None, ge=1, le=10_000)
    """So many pods."""
    step: int | None = Field(None, ge=-100, le=100)
    """So many pods more, or fewer; never below one."""

    @model_validator(mode="after")
    def _asks_for_one(self) -> Self:
        if (self.replicas is None) == (self.step is None) or self.step == 0:
            raise ValueError("one of replicas and step is needed")
        return self


class _Scaling(WorkloadExecutor):
    """What both actions share: setting bounds and replicas once, waiting for the pods, giving the old ones back."""

    kinds = ("Deployment", "StatefulSet")

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether what was set is set, and every wanted pod is ready and stays up."""
        wanted = receipt.facts.get("wanted") or {}
        namespace, hpa = self.place(ctx).namespace, str(receipt.facts.get("hpa") or "")
        bounds = bounds_of(await self.ask(ctx, "GET", _hpa_path(namespace, hpa))) if hpa else {}
        if any(bounds.get(key) != value for key, value in wanted.items() if key in bounds):
            return Check(ok=False, reason="the autoscaler's bounds are not as wanted", facts=bounds)
        least = int(wanted.get("replicas") or wanted.get("min") or 0)

        def judged(workload: Json, _pods: list[Json]) -> str:
            if not hpa and desired_of(workload) != least:
                return f"{desired_of(workload)} replicas are set, not {least}"
            return "" if ready_of(workload) >= least else f"{ready_of(workload)} of {least} pods are ready"

        return await self.until_rolled_out(ctx, judged)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set what was set before."""
        before = receipt.facts.get("before") or {}
        if not before:
            return Check(ok=True, reason="nothing was set")
        await self._set(ctx, str(receipt.facts.get("hpa") or ""), before)
        return Check(ok=True, facts=before)

    async def _set(self, ctx: ActionContext, hpa: str, values: JsonObject) -> None:
        if hpa:
            names = {"min": "minReplicas", "max": "maxReplicas"}
            body = {"spec": {names[key]: value for key, value in values.items()}}
            await self.ask(ctx, "PATCH", _hpa_path(self.place(ctx).namespace, hpa), body=body)
            return
        body = {"spec": {"replicas": values["replicas"]}}
        await self.ask(ctx, "PATCH", self.place(ctx).path("scale"), body=body)

    async def _once(self, ctx: ActionContext, facts: JsonObject, reason: str) -> Receipt:
        if ctx.dry_run:
            return self.planned(ctx, facts)

        async def act(found: Json) -> None:
            if not found["wanted"]:
                raise PermanentError(reason)
            await self._set(ctx, str(found.get("hpa") or ""), found["wanted"])

        return await self.once(ctx, self.claims(ctx), self.place(ctx).subject, facts, act)


class Scale(_Scaling):
    """Sets the number of pods; where an autoscaler has the word, its least number."""

    spec = ActionSpec(
        id="kubernetes.scale",
        summary="Scale a workload, through its autoscaler if it has one.",
        target_kind=KIND,
        params=ScaleParams,
        risk=RiskClass.R1,
        reversible=True,
        blast_radius=100,
        deadline_seconds=300.0,
        cost=0.08,
        family="scale",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse beyond bounds, quota and room, against a budget, and what somebody else would set back."""
        workload, reason = await self.workload_or_objection(ctx)
        if not workload or reason:
            return Check(ok=False, reason=reason)
        facts, reason = await self._plan(ctx, workload)
        added = facts["target"] - desired_of(workload)
        if not reason:
            reason = await pods_objection(
                self, ctx, self.place(ctx).namespace, workload["spec"]["template"]["spec"], added
            )
        if not reason and added < 0:
            reason = await self._below_budget(ctx, workload, facts["target"])
        return Check(
            ok=not reason, reason=reason, instances=max(1, abs(added)), facts={**state_of(workload), **facts}
        )

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set the number once; a step is taken from what was there before."""
        facts, reason = await self._plan(ctx, await self.workload(ctx))
        return await self._once(ctx, {**facts, "wanted": {} if reason else facts["wanted"]}, reason)

    async def _plan(self, ctx: ActionContext, workload: Json) -> tuple[Json, str]:
        now, params = desired_of(workload), ctx.params
        target = params.replicas if params.replicas is not None else max(1, now + int(params.step or 0))
        hpa = await autoscaler_of(self, ctx, workload)
        if hpa is None:
            facts: Json = {
                "hpa": "",
                "target": target,
                "before": {"replicas": now},
                "wanted": {"replicas": target},
            }
            return facts, drift(workload, REPLICAS) or self._bounds(now, target)
        bounds = bounds_of(hpa)
        facts = {"hpa": hpa["metadata"]["name"], "target": target}
        facts |= {"before": {"min": bounds["min"]}, "wanted": {"min": target}}
        if target <= now:
            return facts, "an autoscaler decides how far it is scaled down"
        if target > bounds["max"]:
            return facts, f"the autoscaler's highest number is {bounds['max']}: raise that"
        return facts, hpa_objection(hpa) or self._bounds(now, target)

    def _bounds(self, now: int, target: int) -> str:
        if target == now:
            return f"it has {now} replicas"
        most = self.clusters.settings.max_replicas
        return f"{most} replicas are the bound" if target > max(most, now) else ""

    async def _below_budget(self, ctx: ActionContext, workload: Json, target: int) -> str:
        for budget in await self.budgets(ctx, self.place(ctx).namespace, workload["spec"]["template"]):
            least = budget["spec"].get("minAvailable")
            if isinstance(least, int) and target < least:
                return f"the disruption budget {budget['metadata']['name']} needs {least} pods"
        return ""


class RaiseParams(SettledParams):
    """The new bounds; what is not given stays."""

    min_replicas: int | None = Field(None, ge=1, le=10_000)
    """The new lowest number of pods."""
    max_replicas: int | None = Field(None, ge=1, le=10_000)
    """The new highest number of pods."""
    max_step: int | None = Field(None, ge=1, le=100)
    """Raise the highest number by so many, instead of `max_replicas`."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.max_replicas is not None and self.max_step is not None:
            raise ValueError("max_replicas and max_step exclude each other")
        if (self.min_replicas, self.max_replicas, self.max_step) == (None, None, None):
            raise ValueError("one of min_replicas, max_replicas, max_step is needed")
        return self


class RaiseHpa(_Scaling):
    """Raises the bounds of the autoscaler of a workload."""

    spec = ActionSpec(
        id="kubernetes.raise_hpa",
        summary="Raise the lowest or highest number of pods of a workload's autoscaler.",
        target_kind=KIND,
        params=RaiseParams,
        risk=RiskClass.R1,
        reversible=True,
        blast_radius=100,
        deadline_seconds=300.0,
        cost=0.08,
        family="scale",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse without an autoscaler, without need, beyond bounds, quota and room."""
        workload, reason = await self.workload_or_objection(ctx)
        if not workload or reason:
            return Check(ok=False, reason=reason)
        facts, reason = await self._plan(ctx, workload)
        highest = max(facts["wanted"].values(), default=0)
        added = max(0, highest - desired_of(workload))
        if not reason:
            template = workload["spec"]["template"]["spec"]
            reason = await pods_objection(self, ctx, self.place(ctx).namespace, template, added)
        return Check(
            ok=not reason, reason=reason, instances=max(1, added), facts={**state_of(workload), **facts}
        )

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set the bounds once."""
        facts, reason = await self._plan(ctx, await self.workload(ctx))
        return await self._once(ctx, {**facts, "wanted": {} if reason else facts["wanted"]}, reason)

    async def _plan(self, ctx: ActionContext, workload: Json) -> tuple[Json, str]:
        hpa = await autoscaler_of(self, ctx, workload)
        if hpa is None:
            return {"hpa": "", "before": {}, "wanted": {}}, "it has no autoscaler"
        bounds, params = bounds_of(hpa), ctx.params
        highest = params.max_replicas if params.max_step is None else bounds["max"] + params.max_step
        asked = {"min": params.min_replicas, "max": highest}
        wanted = {key: value for key, value in asked.items() if value is not None and value != bounds[key]}
        facts: Json = {"hpa": hpa["metadata"]["name"], "before": {key: bounds[key] for key in wanted}}
        facts["wanted"] = wanted
        after = {**bounds, **wanted}
        most = self.clusters.settings.max_replicas
        reasons = (
            (not wanted, "the bounds are as asked for"),
            (
                any(value < bounds[key] for key, value in wanted.items()),
                "that would lower a bound, not raise it",
            ),
            (after["min"] > after["max"], "the lowest number would be above the highest"),
            (after["max"] > max(most, bounds["max"]), f"{most} replicas are the bound"),
            ("max" in wanted and desired_of(workload) < bounds["max"], "it is not at its highest number"),
        )
        return facts, next((text for holds, text in reasons if holds), hpa_objection(hpa))


def _hpa_path(namespace: str, name: str) -> str:
    return path_of("HorizontalPodAutoscaler", namespace, name)
