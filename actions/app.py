"""Apps that speak `/api/v1/status`, `/deploy`, `/restart` and `/logs`: restart, roll back, scale up.

Such an app honours the header `Idempotency-Key` on every POST: the same key is answered again, not acted on
again. `GET /deploy` names the key of the last change, so that a crashed attempt is recognised from outside.
"""

from __future__ import annotations

from pydantic import Field

from actions.app_client import HealthyParams
from actions.app_executor import KIND, PROTECTED, AppExecutor
from oncall_agent.contract import ActionContext, ActionSpec, Check, PermanentError, Receipt, RiskClass


class RollbackParams(HealthyParams):
    """Which version to go back to."""

    version: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")
    """The default is the one before the last deployment."""
    window_seconds: float = Field(86_400.0, gt=0, le=31_536_000)
    """An older deployment is not what broke the app just now."""


class ScaleParams(HealthyParams):
    """How far to scale."""

    step: int = Field(1, ge=1, le=10)
    max_replicas: int = Field(5, ge=1, le=1000)


class Restart(AppExecutor):
    """Restarts the app; memory and stuck connections go, the version stays."""

    spec = ActionSpec(
        id="app.restart",
        summary="Restart the app.",
        target_kind=KIND,
        params=HealthyParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="a restart can't be taken back; the app runs as before it",
        deadline_seconds=45.0,
        cost=0.05,
        family="restart",
        exemptions={"rollback_restores": "a restart can't be taken back"},
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Permit it when the control side answers."""
        if ctx.target.protected:
            return PROTECTED
        return Check(ok=True, facts=await self.snapshot(ctx))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """POST /restart; the app answers once it is started."""
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), {"would": "POST /restart"}, planned=True)
        answer = await self.app.change(ctx, "/restart", {}, ctx.idempotency_key)
        return Receipt(self.spec.id, ctx.clock.now(), {"started_at": answer.get("started_at")})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the app was started anew and is healthy for a while."""
        before = receipt.facts.get("started_before")
        # The app's own clock on both sides: ours may differ. A hair more than the former start, when only that is known.
        after = receipt.facts.get("started_at", before + 0.001 if before is not None else None)
        return await self.until_healthy(ctx, {}, after)


class RollbackDeploy(AppExecutor):
    """Puts the version before the last deployment back."""

    spec = ActionSpec(
        id="app.rollback_deploy",
        summary="Go back to the version before the last deployment.",
        target_kind=KIND,
        params=RollbackParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=45.0,
        cost=0.1,
        family="rollback",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when there is nothing to go back to, or the deployment is old."""
        if ctx.target.protected:
            return PROTECTED
        facts = await self.snapshot(ctx)
        wanted = ctx.params.version or facts["previous"]
        facts["wanted"] = wanted
        if not wanted or wanted == facts["version"]:
            return Check(ok=False, reason="there is no other version to go back to", facts=facts)
        age = ctx.clock.now() - float(facts["deployed_at"] or 0.0)
        if age > ctx.params.window_seconds:
            return Check(ok=False, reason=f"the last deployment is {age:.0f} s old", facts=facts)
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """POST /deploy with the former version."""
        before = await self.snapshot(ctx)
        is_done = before["key"] == ctx.idempotency_key
        wanted = before["version"] if is_done else ctx.params.version or before["previous"]
        if not wanted:
            raise PermanentError("there is no other version to go back to")
        facts = {"wanted": wanted, "version": before["version"]}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        old = await self.deploy(ctx, {"version": wanted}, before)
        return Receipt(self.spec.id, ctx.clock.now(), {**facts, "version": old["version"]})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the former version runs and is healthy for a while."""
        return await self.until_healthy(ctx, {"version": receipt.facts.get("wanted")}, None)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Deploy the newer version again."""
        return await self.restore(ctx, "version", receipt.facts["version"])


class ScaleUp(AppExecutor):
    """Adds replicas up to a bound."""

    spec = ActionSpec(
        id="app.scale_up",
        summary="Run more replicas of the app.",
        target_kind=KIND,
        params=ScaleParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=45.0,
        cost=0.1,
        family="scale",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse at the bound."""
        if ctx.target.protected:
            return PROTECTED
        facts = await self.snapshot(ctx)
        count = int(facts["replicas"] or 0)
        facts["wanted"] = min(count + ctx.params.step, ctx.params.max_replicas)
        if facts["wanted"] <= count:
            return Check(ok=False, reason=f"{count} replicas are the bound", facts=facts)
        return Check(ok=True, instances=facts["wanted"] - count, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """POST /deploy with the new number of replicas."""
        before = await self.snapshot(ctx)
        count = int(before["replicas"] or 0)
        is_done = before["key"] == ctx.idempotency_key
        wanted = count if is_done else min(count + ctx.params.step, ctx.params.max_replicas)
        facts = {"wanted": wanted, "replicas": count}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        old = await self.deploy(ctx, {"replicas": wanted}, before)
        return Receipt(self.spec.id, ctx.clock.now(), {**facts, "replicas": old["replicas"]})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the replicas run and the app is healthy for a while."""
        return await self.until_healthy(ctx, {"replicas": receipt.facts.get("wanted")}, None)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Go back to the former number of replicas."""
        return await self.restore(ctx, "replicas", receipt.facts["replicas"])
