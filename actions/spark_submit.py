"""Submitting again what the settings name: as it was, with more memory, or from its checkpoint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from cachetools import LRUCache
from pydantic import Field

from actions.spark_executor import SparkExecutor
from actions.spark_masters import BUMP_KEY, Application, Sent, megabytes
from actions.spark_settings import APPLICATION, Submission, submission_of
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

_MEMORY = "spark.executor.memory"
_DEFAULT_MEMORY = "1g"
_POLL_SECONDS = 0.5


class SubmitParams(Params):
    """What counts as well after submitting."""

    until: Literal["progress", "finished"] = "progress"
    """Whether a first step is enough, or the application has to come to its end."""
    stable_seconds: float = Field(5.0, ge=0, le=600)
    """For how long it must be so."""


class SubmitExecutor(SparkExecutor):
    """What the three actions share: one submission per attempt, progress as the proof, withdrawing as the undo."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._ours: LRUCache[str, str] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse while one of its name runs or is on its way, and what the action itself refuses."""
        what, reason = self.named(ctx)
        if what is None:
            return Check(ok=False, reason=reason)
        try:
            facts = dict(await self.plan(ctx, what))
        except PermanentError as error:
            return Check(ok=False, reason=error.message)
        reason = await self.lock(ctx)
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Submit once: what this attempt has submitted before is found by its mark."""
        what, reason = self.named(ctx)
        if what is None:
            raise PermanentError(reason)
        known = await self._known(ctx)
        if known is not None:
            return Receipt(self.spec.id, ctx.clock.now(), {"submission": known.id, "already": True})
        plan = await self.plan(ctx, what)
        reason = await self.lock(ctx)
        if reason:
            raise PermanentError(reason)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), {"would": plan}, planned=True)
        await self.make_way(ctx)
        conf = plan.get("conf", {})
        sent = await self.master.submit(ctx.seconds_left, what, ctx.idempotency_key, conf)
        self._ours[ctx.idempotency_key] = sent
        return Receipt(self.spec.id, ctx.clock.now(), {**plan, "submission": sent})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it runs and moves, or has come to a good end."""
        first: list[int] = []

        async def sample() -> Check:
            known = receipt.facts.get("submission")
            sent = await self.master.sent(ctx.seconds_left, str(known)) if known else await self._known(ctx)
            if sent is None:
                return Check(ok=False, reason="nothing was submitted")
            return await self._judge(ctx, sent, first)

        hold = 0.0 if ctx.params.until == "finished" else ctx.params.stable_seconds
        return await self.until(ctx, sample, hold_seconds=hold)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """End what was submitted; what is in the settings was never changed."""
        known = receipt.facts.get("submission")
        sent = await self.master.sent(ctx.seconds_left, str(known)) if known else await self._known(ctx)
        if sent is not None and not sent.is_over:
            await self.master.withdraw(ctx.seconds_left, sent.id)
        while await self.active(ctx) and ctx.seconds_left > _POLL_SECONDS:
            await ctx.clock.sleep(_POLL_SECONDS)
        left = await self.active(ctx)
        return Check(ok=not left, reason="it still runs" if left else "")

    @abstractmethod
    async def plan(self, ctx: ActionContext, what: Submission) -> Mapping[str, Any]:
        """Give the facts of what is to be done; `conf` in them goes over the submission's own.

        Raises:
            PermanentError: this may not be submitted now; the message is the refusal.
        """

    async def lock(self, ctx: ActionContext) -> str:
        """Give the reason why the application's name is taken, or an empty text."""
        active = await self.active(ctx)
        return f"{active[0].id} of that name is {active[0].state}" if active else ""

    async def make_way(self, ctx: ActionContext) -> None:
        """End what stands in the way; nothing may."""

    def named(self, ctx: ActionContext) -> tuple[Submission | None, str]:
        """Give what the target names, or why it may not be submitted."""
        reason = self.objection(ctx)
        what = None if reason else submission_of(ctx.target, self.cluster.settings)
        return what, reason or ("" if what else "the target names no submission")

    async def before(self, ctx: ActionContext, what: Submission) -> tuple[str, str, dict[str, str]]:
        """Give base URL, id and properties of the application when it ran last; empty when that is not known."""
        if not self.cluster.history:
            return "", "", {}
        last = await self.pages.ended(ctx.seconds_left, self.cluster.history, what.app_name)
        if last is None:
            return "", "", {}
        return (
            self.cluster.history,
            last,
            await self.pages.properties(ctx.seconds_left, self.cluster.history, last),
        )

    async def _known(self, ctx: ActionContext) -> Sent | None:
        known = self._ours.get(ctx.idempotency_key)
        if known is not None:
            return await self.master.sent(ctx.seconds_left, known)
        return await self.master.find(ctx.seconds_left, ctx.idempotency_key, ctx.started_at)

    async def _judge(self, ctx: ActionContext, sent: Sent, first: list[int]) -> Check:
        facts = {"submission": sent.id, "state": sent.state}
        if sent.is_over:
            reason = "" if sent.has_succeeded else f"the submission has ended: {sent.state}"
            return Check(ok=sent.has_succeeded, reason=reason, facts=facts)
        if ctx.params.until == "finished":
            return Check(ok=False, reason=f"the submission is {sent.state}, not at its end", facts=facts)
        active = await self.active(ctx)
        if not active:
            return Check(ok=False, reason="the application is not there yet", facts=facts)
        return await self.moving(ctx, active[0], facts, first)

    async def moving(
        self, ctx: ActionContext, application: Application, facts: JsonObject, first: list[int]
    ) -> Check:
        """Say whether the application makes progress."""
        if self.cluster.settings.kind == "kubernetes":
            ok = application.state == "RUNNING"
            return Check(ok=ok, reason="" if ok else f"the application is {application.state}", facts=facts)
        base = await self.master.ui_of(ctx.seconds_left, application)
        progress = await self.pages.progress(ctx.seconds_left, base, application.id)
        ok = progress.steps > 0 or progress.tasks_active > 0
        return Check(ok=ok, reason="" if ok else "the application has not made a step yet", facts=facts)


class Resubmit(SubmitExecutor):
    """Submits an application again whose former run is over."""

    spec = ActionSpec(
        id="spark.resubmit",
        summary="Submit a Spark application again after it has ended.",
        target_kind=APPLICATION,
        params=SubmitParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=300.0,
        cost=0.15,
        family="retry",
    )

    async def plan(self, ctx: ActionContext, what: Submission) -> Mapping[str, Any]:
        """Nothing is changed."""
        return {"application": what.app_name}


class RetryParams(SubmitParams):
    """How much more."""

    until: Literal["progress", "finished"] = "finished"
    memory_factor: float = Field(1.5, gt=1.0, le=2.0)
    """Times the executors' memory of the run that failed."""
    overhead_mb: int | None = Field(None, ge=64, le=65_536)
    """Memory beside the heap."""
    partitions: int | None = Field(None, ge=1, le=100_000)
    """Of a shuffle: more of them are smaller."""


class RetryWithResources(SubmitExecutor):
    """Submits an application again that ran out of memory, with more of it; at most twice in a row."""

    spec = ActionSpec(
        id="spark.retry_with_resources",
        summary="Submit a Spark application again with more memory after it ran out of it.",
        target_kind=APPLICATION,
        params=RetryParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=1_800.0,
        cost=0.3,
        family="retry",
    )

    async def plan(self, ctx: ActionContext, what: Submission) -> Mapping[str, Any]:
        """Ask the last run for evidence and for what it had."""
        base, last, had = await self.before(ctx, what)
        if not last:
            raise PermanentError(
                "the history server does not know a former run: nothing shows what it lacked"
            )
        losses = await self.pages.losses(ctx.seconds_left, base, last)
        if not losses:
            raise PermanentError(f"nothing shows that {last} lost executors or ran out of memory")
        conf, bump = more(had, what, ctx.params, self.cluster.settings.max_bumps)
        memory, cap = megabytes(conf[_MEMORY]), self.cluster.settings.max_executor_memory_mb
        if memory > cap:
            raise PermanentError(f"{memory} MiB for an executor are beyond the cap of {cap} MiB")
        return {"before": last, "evidence": list(losses), "bump": bump, "conf": conf}


def more(
    had: Mapping[str, str], what: Submission, params: RetryParams, max_bumps: int
) -> tuple[dict[str, str], int]:
    """Give the properties of the next try and its number.

    Raises:
        PermanentError: it was tried often enough.
    """
    bump = int(had[BUMP_KEY]) + 1 if had.get(BUMP_KEY, "").isdecimal() else 1
    if bump > max_bumps:
        raise PermanentError(f"it was retried with more {bump - 1} times in a row")
    memory = megabytes(had.get(_MEMORY) or what.conf.get(_MEMORY, _DEFAULT_MEMORY))
    conf = {_MEMORY: f"{int(memory * params.memory_factor)}m", BUMP_KEY: str(bump)}
    if params.overhead_mb is not None:
        conf["spark.executor.memoryOverhead"] = f"{params.overhead_mb}m"
    if params.partitions is not None:
        conf["spark.sql.shuffle.partitions"] = str(params.partitions)
    return conf, bump
