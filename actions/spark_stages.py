"""Ending one stage or job of an application that is stuck."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.spark_executor import SparkExecutor
from actions.spark_masters import Application
from actions.spark_settings import APPLICATION
from actions.spark_ui import Part, Running, percentile_99
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    TransientError,
)
from oncall_agent.models import JsonObject


class PartParams(Params):
    """Which stage or job, and when it may be ended."""

    part: Part = "stage"
    """What is ended."""
    number: int | None = Field(None, ge=0, le=10_000_000)
    """Its number; the default is the one that runs longest."""
    min_seconds: float = Field(600.0, ge=0, le=2_592_000)
    """Younger ones are left alone."""
    factor: float = Field(3.0, ge=1, le=1_000)
    """It must have run for that many times the 99th percentile of the stages of its name, if there were any."""
    stable_seconds: float = Field(2.0, ge=0, le=600)
    """It must stay ended, and the application alive, for so long."""


class KillJobOrStage(SparkExecutor):
    """Ends one stuck stage or job; the application lives and may run it again."""

    spec = ActionSpec(
        id="spark.kill_job_or_stage",
        summary="End one stage or job of a Spark application that is stuck.",
        target_kind=APPLICATION,
        params=PartParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="an ended stage is not continued; the application runs its work again or fails it",
        deadline_seconds=60.0,
        cost=0.15,
        family="kill",
        exemptions={"rollback_restores": "an ended stage is not continued"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._ours: LRUCache[str, int] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is not much older than its like."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        application, base, reason = await self._pages(ctx)
        if application is None:
            return Check(ok=False, reason=reason)
        chosen = _stuck(await self._running(ctx, base, application), ctx.params.number)
        if chosen is None:
            return Check(ok=False, reason=f"no such {ctx.params.part} runs")
        age = ctx.clock.now() - chosen.began_at
        usual = await self._usual(ctx, base, application, chosen)
        facts = {
            **chosen.as_facts(),
            "number": chosen.id,
            "application": application.id,
            "usual_seconds": usual,
        }
        needed = max(ctx.params.min_seconds, ctx.params.factor * (usual or 0.0))
        if age < needed:
            return Check(
                ok=False, reason=f"it has run for {age:.0f} s, less than {needed:.0f} s", facts=facts
            )
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """End it; what was begun after the attempt is left alone."""
        reason = self.objection(ctx)
        application, base, absent = await self._pages(ctx)
        if reason or application is None:
            raise PermanentError(reason or absent)
        old = [one for one in await self._running(ctx, base, application) if one.began_at <= ctx.started_at]
        ours = self._ours.get(ctx.idempotency_key)
        chosen = _stuck(tuple(old), ctx.params.number if ours is None else ours)
        facts: dict[str, Any] = {"application": application.id, "part": ctx.params.part}
        if chosen is None:
            known = ctx.params.number if ours is None else ours
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "already": True, "number": known})
        facts["number"] = chosen.id
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        self._ours[ctx.idempotency_key] = chosen.id
        await self.pages.kill(ctx.seconds_left, base, ctx.params.part, chosen.id)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it has ended while its application lives."""
        number = receipt.facts.get("number")

        async def sample() -> Check:
            application, base, reason = await self._pages(ctx)
            if application is None:
                return Check(ok=False, reason=f"the application has ended, too: {reason}")
            running = await self._running(ctx, base, application)
            stuck = [
                one
                for one in running
                if one.id == number or (number is None and one.began_at <= ctx.started_at)
            ]
            return Check(
                ok=not stuck,
                reason=f"the {ctx.params.part} still runs" if stuck else "",
                facts={"number": number},
            )

        return await self.until(ctx, sample, hold_seconds=ctx.params.stable_seconds)

    async def _pages(self, ctx: ActionContext) -> tuple[Application | None, str, str]:
        if self.cluster.settings.kind != "standalone":
            return None, "", f"{self.cluster.settings.kind} passes no button of an application's pages on"
        active = await self.active(ctx)
        if len(active) != 1:
            return None, "", f"{len(active)} applications of that name run, not one"
        base = await self.master.ui_of(ctx.seconds_left, active[0])
        return active[0], base, ""

    async def _running(self, ctx: ActionContext, base: str, application: Application) -> tuple[Running, ...]:
        return await self.pages.running(ctx.seconds_left, base, application.id, ctx.params.part)

    async def _usual(
        self, ctx: ActionContext, base: str, application: Application, chosen: Running
    ) -> float | None:
        """Give how long the like of it took: here, and when the application last ran."""
        if ctx.params.part != "stage":
            return None
        spans = await self.pages.durations(ctx.seconds_left, base, application.id, chosen.name)
        if self.cluster.history:
            try:
                spans += await self._in_history(ctx, application.name, chosen.name)
            except (TransientError, PermanentError) as error:
                ctx.log.warning("executor.spoke", said=f"the history server was not read: {error.message}")
        return percentile_99(spans)

    async def _in_history(self, ctx: ActionContext, application: str, stage: str) -> tuple[float, ...]:
        history = self.cluster.history
        before = await self.pages.ended(ctx.seconds_left, history, application)
        if before is None:
            return ()
        return await self.pages.durations(ctx.seconds_left, history, before, stage)


def _stuck(running: tuple[Running, ...], number: int | None) -> Running | None:
    """Choose the one asked for, else the one that runs longest."""
    chosen = [one for one in running if number is None or one.id == number]
    return chosen[0] if chosen else None
