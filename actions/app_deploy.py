"""Deploying a named version of an app: the one that a person has written into the runbook."""

from __future__ import annotations

from pydantic import Field

from actions.app_client import HealthyParams
from actions.app_executor import KIND, PROTECTED, AppExecutor
from oncall_agent.contract import ActionContext, ActionSpec, Check, Receipt, RiskClass


class DeployParams(HealthyParams):
    """Which version."""

    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")
    """The app's pipeline has to know it."""
    quiet_seconds: float = Field(60.0, ge=0, le=86_400)
    """A deployment younger than that is somebody's work under way: it is not deployed over."""


class Deploy(AppExecutor):
    """Deploys a version; rollback deploys the former one."""

    spec = ActionSpec(
        id="app.deploy",
        summary="Deploy a named version of the app.",
        target_kind=KIND,
        params=DeployParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=45.0,
        cost=0.1,
        family="rollback",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when it runs already, or when somebody has deployed just now."""
        if ctx.target.protected:
            return PROTECTED
        facts = await self.snapshot(ctx)
        facts["wanted"] = ctx.params.version
        if facts["version"] == ctx.params.version:
            return Check(ok=False, reason="that version is deployed", facts=facts)
        age = ctx.clock.now() - float(facts["deployed_at"] or 0.0)
        if age < ctx.params.quiet_seconds:
            return Check(ok=False, reason=f"somebody has deployed {age:.0f} s ago", facts=facts)
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """POST /deploy with the version, unless this attempt has."""
        before = await self.snapshot(ctx)
        facts = {"wanted": ctx.params.version, "version": before["version"]}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        old = await self.deploy(ctx, {"version": ctx.params.version}, before)
        return Receipt(self.spec.id, ctx.clock.now(), {**facts, "version": old["version"]})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the version runs and is healthy for a while."""
        return await self.until_healthy(ctx, {"version": ctx.params.version}, None)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Deploy the former version again."""
        return await self.restore(ctx, "version", receipt.facts["version"])
