"""Ending an application that runs too long or does not move."""

from __future__ import annotations

from cachetools import LRUCache
from pydantic import Field

from actions.spark_executor import SparkExecutor
from actions.spark_masters import Application
from actions.spark_settings import APPLICATION, submission_of
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
)
from oncall_agent.models import JsonObject

_ID = r"^[A-Za-z0-9_.-]{0,120}$"


class KillParams(Params):
    """When an application may be ended."""

    application_id: str = Field("", pattern=_ID)
    """Which, when several of the target's name run."""
    sla_seconds: float = Field(3_600.0, ge=0, le=2_592_000)
    """Younger ones are left alone, unless they stall."""
    stalled_seconds: float | None = Field(None, ge=1, le=2_592_000)
    """No stage begun or ended for so long counts as a stall; the default never asks."""
    without_undo: bool = False
    """End it even if the target names no submission to start it again."""
    stable_seconds: float = Field(2.0, ge=0, le=600)
    """It must stay ended for so long."""


class KillApplication(SparkExecutor):
    """Ends an application that is over its time or stalls."""

    spec = ActionSpec(
        id="spark.kill_application",
        summary="End a Spark application that runs beyond its time or makes no progress.",
        target_kind=APPLICATION,
        params=KillParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.3,
        family="kill",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._ours: LRUCache[str, str] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is protected, ambiguous, within its time and moving, or can't be started again."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        application, reason = _one(await self.active(ctx), ctx.params.application_id)
        if application is None:
            return Check(ok=False, reason=reason)
        facts = {**application.as_facts(), "application": application.id}
        if submission_of(ctx.target, self.cluster.settings) is None and not ctx.params.without_undo:
            reason = "the target names no submission that would start it again"
        else:
            reason = await self._in_time(ctx, application)
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """End it; an application begun after the attempt is somebody's new one and left alone."""
        reason = self.objection(ctx)
        if reason:
            raise PermanentError(reason)
        old = [one for one in await self.active(ctx) if one.started_at <= ctx.started_at]
        ours = self._ours.get(ctx.idempotency_key)
        application, reason = _one(tuple(old), ours or ctx.params.application_id)
        if application is None:
            if old and ours is None:
                raise PermanentError(reason)
            return Receipt(
                self.spec.id, ctx.clock.now(), {"already": True, **({"application": ours} if ours else {})}
            )
        facts = {"application": application.id, "name": application.name}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        self._ours[ctx.idempotency_key] = application.id
        await self.master.kill(ctx.seconds_left, application)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it has ended everywhere: at its master, and with its last executor."""
        wanted = str(receipt.facts.get("application", ""))

        async def sample() -> Check:
            # Named by its id, only that one matters; else none of the name that is older than the attempt may run.
            only = ctx.params.application_id
            left_over = [
                one
                for one in await self.active(ctx)
                if one.id == wanted or (not only and one.started_at <= ctx.started_at)
            ]
            if left_over:
                return Check(ok=False, reason=f"the application is {left_over[-1].state}")
            left = await self._executors(ctx, wanted)
            return Check(
                ok=not left,
                reason=f"{left} executors are left" if left else "",
                facts={"application": wanted},
            )

        return await self.until(ctx, sample, hold_seconds=ctx.params.stable_seconds)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Submit it again, unless one of its name runs."""
        what = submission_of(ctx.target, self.cluster.settings)
        if what is None:
            return Check(ok=False, reason="the target names no submission that would start it again")
        if await self.active(ctx):
            return Check(ok=True, reason="one of its name runs")
        attempt = f"{ctx.idempotency_key}-undo"
        found = await self.master.find(ctx.seconds_left, attempt, ctx.started_at)
        sent = found.id if found else await self.master.submit(ctx.seconds_left, what, attempt, {})

        async def sample() -> Check:
            known = await self.master.sent(ctx.seconds_left, sent)
            ok = known.has_succeeded or (not known.is_over and bool(await self.active(ctx)))
            reason = "" if ok else f"what was submitted is {known.state}, and no application of its name runs"
            return Check(ok=ok, reason=reason, facts={"submission": sent})

        return await self.until(ctx, sample, hold_seconds=0.0)

    async def _in_time(self, ctx: ActionContext, application: Application) -> str:
        age = ctx.clock.now() - application.started_at
        if age > ctx.params.sla_seconds:
            return ""
        young = f"it has run for {age:.0f} of its {ctx.params.sla_seconds:.0f} s"
        if ctx.params.stalled_seconds is None:
            return young
        base = await self.master.ui_of(ctx.seconds_left, application)
        last = await self.pages.last_step(ctx.seconds_left, base, application.id)
        still = ctx.clock.now() - max(application.started_at, last or 0.0)
        return (
            "" if still > ctx.params.stalled_seconds else f"{young}, and its last stage is {still:.0f} s old"
        )

    async def _executors(self, ctx: ActionContext, wanted: str) -> int:
        if not wanted:
            return 0
        gone = Application(wanted, "", "", 0.0, is_over=True)
        return await self.master.executors_left(ctx.seconds_left, gone)


def _one(active: tuple[Application, ...], wanted: str) -> tuple[Application | None, str]:
    """Choose the application, or say why none."""
    chosen = [one for one in active if not wanted or one.id == wanted]
    if len(chosen) == 1:
        return chosen[0], ""
    if not chosen:
        return None, "no application of that name and id runs"
    return None, f"{len(chosen)} applications of that name run: name one by its id"
