"""Rollouts: restart a workload's pods one after another, and go back to a former revision."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from actions.kubernetes_objects import time_of
from actions.kubernetes_ownership import TEMPLATE, drift, ownership_of
from actions.kubernetes_reader import KIND
from actions.kubernetes_revisions import Revision, changed_at, is_present, revisions_of, template_patch
from actions.kubernetes_workload import SettledParams, WorkloadExecutor, desired_of, progress, state_of
from oncall_agent.contract import ActionContext, ActionSpec, Check, PermanentError, Receipt, RiskClass
from oncall_agent.models import JsonObject

Json = dict[str, Any]
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"


class RolloutRestart(WorkloadExecutor):
    """Replaces every pod by a fresh one, as `kubectl rollout restart` does."""

    spec = ActionSpec(
        id="kubernetes.rollout_restart",
        summary="Replace the pods of a workload by fresh ones, one after another.",
        target_kind=KIND,
        params=SettledParams,
        risk=RiskClass.R2,
        reversible=True,
        blast_radius=50,
        deadline_seconds=600.0,
        cost=0.08,
        family="restart",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse during a rollout, when paused, owned by an operator, or below what its budget needs."""
        workload, reason = await self.workload_or_objection(ctx)
        if not workload or reason:
            return Check(ok=False, reason=reason)
        facts = {**state_of(workload), "before": _restarted_at(workload)}
        reason = _restart_objection(workload) or await self._below_budget(ctx, workload)
        return Check(ok=not reason, reason=reason, instances=desired_of(workload), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set the annotation that makes the template a new one."""
        workload = await self.workload(ctx)
        at = time_of(ctx.clock.now())
        facts = {"uid": workload["metadata"]["uid"], "before": _restarted_at(workload), "restarted_at": at}
        if ctx.dry_run:
            return self.planned(ctx, facts)

        async def act(found: Json) -> None:
            await self._set(ctx, found["uid"], found["restarted_at"])

        return await self.once(ctx, self.claims(ctx), self.place(ctx).subject, facts, act)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether every pod is of the restarted revision, ready, and stays up."""
        wanted, before = receipt.facts.get("restarted_at"), receipt.facts.get("before")

        def judged(workload: Json, _pods: list[Json]) -> str:
            at = _restarted_at(workload)
            is_new = at == wanted if wanted else at != before
            return "" if is_new else "it was not restarted, or restarted again by somebody else"

        return await self.until_rolled_out(ctx, judged)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Give back the former template: the pods of before the restart, where they still run, stay."""
        before, wanted = receipt.facts.get("before"), receipt.facts.get("restarted_at")
        workload = await self.workload(ctx)
        now = _restarted_at(workload)
        if now not in (before, wanted) and wanted is not None:
            return Check(ok=False, reason="somebody else has changed the template since")
        if now != before:
            await self._set(ctx, workload["metadata"]["uid"], before)
        return Check(ok=True, facts={"restarted_at": before})

    async def _set(self, ctx: ActionContext, uid: str, at: str | None) -> None:
        template = {"metadata": {"annotations": {RESTARTED_AT: at}}}
        body = {"metadata": {"uid": uid}, "spec": {"template": template}}
        await self.ask(ctx, "PATCH", self.place(ctx).path(), body=body)

    async def _below_budget(self, ctx: ActionContext, workload: Json) -> str:
        template = workload["spec"]["template"]
        for budget in await self.budgets(ctx, workload["metadata"]["namespace"], template):
            status = budget.get("status") or {}
            healthy, needed = int(status.get("currentHealthy") or 0), int(status.get("desiredHealthy") or 0)
            if healthy < needed:
                name = budget["metadata"]["name"]
                return f"the disruption budget {name} needs {needed} healthy pods, {healthy} are"
        return ""


def _restart_objection(workload: Json) -> str:
    if workload["spec"].get("paused"):
        return "its rollout is paused"
    strategy = workload["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return "its pods are replaced by hand only (OnDelete)"
    owner = ownership_of(workload).operator
    # GitOps leaves the annotation alone: it is not in git, and tools compare only what is.
    if owner:
        return f"{owner} owns it: what is changed here would be changed back"
    moving = progress(workload)
    return f"a rollout is in progress: {moving}" if moving else ""


def _restarted_at(workload: JsonObject) -> str | None:
    annotations = workload["spec"]["template"]["metadata"].get("annotations") or {}
    found: str | None = annotations.get(RESTARTED_AT)
    return found


class UndoParams(SettledParams):
    """Which revision to go back to."""

    revision: int | None = Field(None, ge=1)
    """The default is the one before the present one."""
    window_seconds: float = Field(86_400.0, gt=0, le=31_536_000)
    """An older change is not what broke the workload just now."""


class RolloutUndo(WorkloadExecutor):
    """Puts the template of a former revision back, as `kubectl rollout undo` does."""

    spec = ActionSpec(
        id="kubernetes.rollout_undo",
        summary="Go back to the revision before the last rollout.",
        target_kind=KIND,
        params=UndoParams,
        risk=RiskClass.R2,
        reversible=True,
        blast_radius=50,
        deadline_seconds=600.0,
        cost=0.1,
        family="rollback",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse without a former revision, when the last change is old, or when git would bring it back."""
        workload, reason = await self.workload_or_objection(ctx)
        if not workload or reason:
            return Check(ok=False, reason=reason)
        revisions = await revisions_of(self, ctx, workload)
        wanted = _chosen(revisions, ctx.params.revision)
        facts = {**state_of(workload), "revisions": [one.number for one in revisions[:10]]}
        if wanted is None:
            return Check(ok=False, reason="there is no other revision to go back to", facts=facts)
        facts |= {"current": revisions[0].name, "wanted": wanted.name}
        reason = drift(workload, TEMPLATE) or _undo_objection(ctx, workload, revisions[0])
        return Check(ok=not reason, reason=reason, instances=desired_of(workload), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Replace the template by that of the former revision."""
        workload = await self.workload(ctx)
        revisions = await revisions_of(self, ctx, workload)
        wanted = _chosen(revisions, ctx.params.revision)
        if wanted is None and ctx.dry_run:
            raise PermanentError("there is no other revision to go back to")
        facts = {
            "uid": workload["metadata"]["uid"],
            "current": revisions[0].name if revisions else "",
            "wanted": wanted.name if wanted else "",
        }
        if ctx.dry_run:
            return self.planned(ctx, facts)

        async def act(found: Json) -> None:
            await self._go(ctx, found["uid"], revisions, found["wanted"])

        return await self.once(ctx, self.claims(ctx), self.place(ctx).subject, facts, act)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the former revision is rolled out, ready, and stays up."""
        revisions = await revisions_of(self, ctx, await self.workload(ctx))
        wanted = next((one for one in revisions if one.name == receipt.facts.get("wanted")), None)
        if wanted is None:
            return Check(ok=False, reason="the former revision is not kept any more")

        def judged(workload: Json, _pods: list[Json]) -> str:
            return "" if is_present(workload, wanted) else "the former revision is not the present one"

        return await self.until_rolled_out(ctx, judged)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Go forward again to the revision of before."""
        workload = await self.workload(ctx)
        revisions = await revisions_of(self, ctx, workload)
        before = str(receipt.facts.get("current", ""))
        if all(one.name != before for one in revisions):
            return Check(ok=False, reason=f"the revision {before} is not kept any more")
        await self._go(ctx, workload["metadata"]["uid"], revisions, before)
        return Check(ok=True, facts={"current": before})

    async def _go(self, ctx: ActionContext, uid: str, revisions: list[Revision], name: str) -> None:
        wanted = next((one for one in revisions if one.name == name), None)
        if wanted is None:
            raise PermanentError("there is no other revision to go back to")
        await self.ask(ctx, "PATCH", self.place(ctx).path(), body=template_patch(uid, wanted))


def _undo_objection(ctx: ActionContext, workload: Json, current: Revision) -> str:
    if not is_present(workload, current):
        return "its last change is not yet taken up by its controller"
    age = ctx.clock.now() - changed_at(workload, current)
    return f"the last rollout is {age:.0f} s old" if age > ctx.params.window_seconds else ""


def _chosen(revisions: list[Revision], number: int | None) -> Revision | None:
    others = revisions[1:]
    if number is None:
        return others[0] if others else None
    return next((one for one in others if one.number == number), None)
