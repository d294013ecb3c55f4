"""Watching and waiting: often trouble passes by itself, and then the best action touches nothing."""

from __future__ import annotations

from pydantic import Field

from oncall_agent.contract import ActionContext, ActionSpec, Check, Executor, Params, Receipt, RiskClass


class WaitParams(Params):
    """How long to leave the target alone."""

    seconds: float = Field(60.0, gt=0, le=86_400, allow_inf_nan=False)


class Wait(Executor):
    """Says how long to wait; the daemon parks the incident and measures again afterwards."""

    spec = ActionSpec(
        id="watch.wait",
        summary="Leave the target alone for a while and look again.",
        target_kind="*",
        params=WaitParams,
        risk=RiskClass.R0,
        reversible=False,
        irreversible_reason="nothing was touched",
        blast_radius=0,
        cooldown_seconds=0.0,
        deadline_seconds=5.0,
        cost=0.0,
        family="wait",
        read_only=True,
        exemptions={
            "verify_fails_when_sick": "waiting does not claim to heal; the daemon's own probes decide afterwards",
            "rollback_restores": "nothing was touched",
            "secrets_redacted": "it is given no secret",
        },
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Always permit it: nothing is touched."""
        return Check(ok=True, instances=0, facts={"seconds": ctx.params.seconds})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Give the time until which the incident is left alone, counted from the start of the attempt."""
        until = ctx.started_at + ctx.params.seconds
        facts = {"seconds": ctx.params.seconds, "until": until}
        return Receipt(action=self.spec.id, at=ctx.started_at, facts=facts, planned=ctx.dry_run)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say that the wait is declared; it never sleeps here, so that no worker is held."""
        return Check(ok=True, reason="the wait is declared", facts=dict(receipt.facts))
