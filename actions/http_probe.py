"""A question to a page, asked several times: enough good answers are a yes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from actions.http_executor import HttpExecutor
from actions.http_templates import Expression, Question, UrlTemplate
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    Params,
    Receipt,
    RiskClass,
)

_NOTHING = "it changes nothing"


class ProbeParams(Params):
    """Which page, and how many good answers."""

    url: UrlTemplate = "/"
    """On a listed host, or a path on the target's own `url`."""
    samples: int = Field(3, ge=1, le=50)
    """How often the page is asked at most."""
    quorum: int = Field(2, ge=1, le=50)
    """So many samples must be good."""
    expect_status: tuple[Annotated[int, Field(ge=100, le=599)], ...] = (200,)
    """Any other status is a bad sample."""
    assertion: Expression | None = None
    """JMESPath over the JSON answer; only `true` counts."""
    interval_seconds: float = Field(0.2, ge=0, le=60)
    """Between two samples."""

    @model_validator(mode="after")
    def _quorum_can_be_reached(self) -> ProbeParams:
        if self.quorum > self.samples:
            raise ValueError("the quorum is larger than the number of samples")
        return self


class HealthProbe(HttpExecutor):
    """Asks n times; read-only."""

    spec = ActionSpec(
        id="http.health_probe",
        summary="Ask a page several times whether it is healthy.",
        target_kind="*",
        params=ProbeParams,
        risk=RiskClass.R0,
        reversible=False,
        irreversible_reason=_NOTHING,
        deadline_seconds=60.0,
        cooldown_seconds=0.0,
        cost=0.0,
        family="wait",
        read_only=True,
        exemptions={"rollback_restores": _NOTHING, "secrets_redacted": "it is given no secret"},
    )

    async def ping(self, ctx: ActionContext) -> Check:
        """Say which hosts may be asked; none is."""
        return Check(ok=True, reason="asks only when told to")

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse hosts that are not listed; asks nobody."""
        try:
            url = self.url(ctx, ctx.params.url, {})
            self.conf.check_host(url, ctx.target.address.get("url"))
        except ActionError as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True, instances=0, facts={"url": url.partition("?")[0][:500]})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Take the samples once."""
        if ctx.dry_run:
            facts = {"would": f"ask {ctx.params.samples} times"}
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        return Receipt(self.spec.id, ctx.clock.now(), dict((await self._sampled(ctx)).facts))

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Take them anew: what was healthy then may not be now."""
        return await self._sampled(ctx)

    async def _sampled(self, ctx: ActionContext) -> Check:
        question = Question(
            url=ctx.params.url, expect_status=ctx.params.expect_status, assertion=ctx.params.assertion
        )
        good = bad = 0
        reason = ""
        while not self._decided(ctx, good, bad):
            if good + bad:
                await ctx.clock.sleep(ctx.params.interval_seconds)
            check = await self.holds(ctx, question, {})
            good, bad = good + check.ok, bad + (not check.ok)
            reason = reason if check.ok else check.reason
        ok = good >= ctx.params.quorum
        facts = {"good": good, "bad": bad, "quorum": ctx.params.quorum}
        return Check(
            ok=ok, reason="" if ok else f"{good} of {good + bad} were good: {reason}"[:300], facts=facts
        )

    @staticmethod
    def _decided(ctx: ActionContext, good: int, bad: int) -> bool:
        is_certain = good >= ctx.params.quorum or bad > ctx.params.samples - ctx.params.quorum
        return is_certain or ctx.seconds_left <= 0
