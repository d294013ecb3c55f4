"""Taking the workers of one host out of service while others have room for what they carry."""

from __future__ import annotations

from collections.abc import Sequence

from cachetools import LRUCache
from pydantic import Field

from actions.spark_executor import SparkExecutor
from actions.spark_masters import Worker
from actions.spark_settings import WORKER, text_of
from oncall_agent.contract import ActionContext, ActionSpec, Check, Params, PermanentError, Receipt, RiskClass
from oncall_agent.errors import TransientError
from oncall_agent.models import JsonObject


class DecommissionParams(Params):
    """What must hold afterwards."""

    application: str = Field("", max_length=200)
    """An application that must have as many cores as before; the default asks for the cluster's cores in use."""
    stable_seconds: float = Field(5.0, ge=0, le=600)
    """For so long without a break."""


class DecommissionExecutorOrWorker(SparkExecutor):
    """Decommissions a sick host: its executors hand their blocks over and end, new ones start elsewhere."""

    spec = ActionSpec(
        id="spark.decommission_executor_or_worker",
        summary="Decommission the Spark workers of one host, with the executors on them.",
        target_kind=WORKER,
        params=DecommissionParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="a decommissioned worker takes nothing any more until it is started again on its host",
        deadline_seconds=180.0,
        cost=0.2,
        family="scale",
        exemptions={"rollback_restores": "only starting the worker again on its host adds it again"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, bool] = LRUCache(4096)

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the workers."""
        try:
            found = await self.master.workers(ctx.seconds_left)
        except (TransientError, PermanentError) as error:
            return {"reason": error.message}
        return {
            "workers": [f"{one.id} {one.state} {one.cores_used}/{one.cores} cores" for one in found[:100]]
        }

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when others lack the room, another one is being taken out, or a driver would die."""
        host, workers = text_of(ctx.target, "host"), await self.master.workers(ctx.seconds_left)
        here = [one for one in workers if one.host == host and one.is_alive]
        reason = refusal(workers, host)
        if ctx.target.protected:
            reason = "the target is protected"
        if not reason and await self.master.busy_with_drivers(ctx.seconds_left, host):
            reason = "a driver runs on that host and would die with its worker"
        facts = {"workers": [one.id for one in here], "cores_used_before": await self._cores(ctx, workers)}
        return Check(ok=not reason, reason=reason, instances=max(1, len(here)), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Ask the master; workers that are on their way out already are left alone."""
        host, workers = text_of(ctx.target, "host"), await self.master.workers(ctx.seconds_left)
        here = [one for one in workers if one.host == host]
        alive = [one for one in here if one.is_alive]
        cores = await self._cores(ctx, workers)
        facts = {"host": host, "workers": [one.id for one in alive], "cores_used_before": cores}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if self._done.get(ctx.idempotency_key) or (here and not alive):
            return Receipt(self.spec.id, ctx.clock.now(), {"host": host, "already": True})
        reason = "the target is protected" if ctx.target.protected else refusal(workers, host)
        if reason:
            raise PermanentError(reason)
        await self.master.decommission(ctx.seconds_left, host)
        self._done[ctx.idempotency_key] = True
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether its workers take nothing any more and what ran on them runs elsewhere."""
        host = text_of(ctx.target, "host")
        old, before = set(receipt.facts.get("workers", ())), int(receipt.facts.get("cores_used_before", 0))

        async def sample() -> Check:
            workers = await self.master.workers(ctx.seconds_left)
            left = [
                one for one in workers if one.is_alive and one.host == host and (not old or one.id in old)
            ]
            used = await self._cores(ctx, workers)
            facts = {"cores_used": used}
            if left:
                return Check(ok=False, reason=f"the worker {left[0].id} is still in service", facts=facts)
            if used < before and not await self._has_ended(ctx):
                return Check(ok=False, reason=f"{used} of {before} cores are in use again", facts=facts)
            return Check(ok=True, facts=facts)

        return await self.until(ctx, sample, hold_seconds=ctx.params.stable_seconds)

    async def _cores(self, ctx: ActionContext, workers: Sequence[Worker]) -> int:
        """Give the cores in use: those of the application that matters, else of the cluster."""
        name = ctx.params.application
        if not name:
            return _used(workers)
        found = await self.master.applications(ctx.seconds_left, name)
        return sum(one.cores or 0 for one in found if not one.is_over)

    async def _has_ended(self, ctx: ActionContext) -> bool:
        """Say whether the application that had the cores is over: then nobody misses them."""
        name = ctx.params.application
        if not name:
            return False
        found = await self.master.applications(ctx.seconds_left, name)
        return not any(not one.is_over for one in found)


def refusal(workers: Sequence[Worker], host: str) -> str:
    """Give the reason why the workers of that host may not be taken out now, or an empty text."""
    here = [one for one in workers if one.host == host and one.is_alive]
    others = [one for one in workers if one.host != host and one.is_alive]
    leaving = [one for one in workers if one.state == "DECOMMISSIONED" and one.cores_used]
    if not here:
        return f"no worker in service on {host}"
    if leaving:
        return f"the worker {leaving[0].id} is still being taken out: one at a time"
    if not others:
        return "it is the last host with workers"
    free_cores = sum(one.cores - one.cores_used for one in others)
    free_memory = sum(one.memory_mb - one.memory_used_mb for one in others)
    if free_cores < _used(here) or free_memory < sum(one.memory_used_mb for one in here):
        return "the other workers have no room for what it carries"
    return ""


def _used(workers: Sequence[Worker]) -> int:
    return sum(one.cores_used for one in workers if one.is_alive)
