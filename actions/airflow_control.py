"""Pausing and unpausing a DAG, and giving a pool more slots."""

from __future__ import annotations

from typing import Any, ClassVar

from cachetools import LRUCache
from pydantic import Field

from actions.airflow_client import MissingError
from actions.airflow_executor import AirflowExecutor
from actions.airflow_settings import DAG_KIND, POOL_KIND, dag_of, pool_of
from actions.airflow_words import Pool
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    held,
)
from oncall_agent.models import JsonObject


class PauseParams(Params):
    """How long it must stay as asked."""

    hold_seconds: float = Field(2.0, ge=0, le=600)
    """It must stay so for that long."""


class _SetPaused(AirflowExecutor):
    """Sets `is_paused`; the two actions differ in the value only."""

    wanted: ClassVar[bool]

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what is so already."""
        dag, reason = await self.dag_or_objection(ctx, must_run=False)
        if not reason and dag.is_paused is self.wanted:
            reason = f"DAG {dag.id} is {_word(self.wanted)} already"
        return Check(ok=not reason, reason=reason, facts={"was_paused": dag.is_paused})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set it; a second call finds it set."""
        facts = {"was_paused": not self.wanted}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        dag, reason = await self.dag_or_objection(ctx, must_run=False)
        if reason:
            raise PermanentError(reason)
        if dag.is_paused is not self.wanted:
            await self.api.set_paused(ctx, dag.id, is_paused=self.wanted)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it is and stays as asked."""

        async def sample() -> Check:
            try:
                is_paused = (await self.api.dag(ctx, dag_of(ctx.target))).is_paused
            except ActionError as error:
                return Check(ok=False, reason=error.message)
            ok = is_paused is self.wanted
            return Check(ok=ok, reason="" if ok else f"the DAG is {_word(is_paused)}")

        hold = ctx.params.hold_seconds
        return await held(ctx, sample, hold_seconds=hold, within_seconds=hold + 10.0)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set it back."""
        name = dag_of(ctx.target)
        if (await self.api.dag(ctx, name)).is_paused is self.wanted:
            await self.api.set_paused(ctx, name, is_paused=not self.wanted)
        ok = (await self.api.dag(ctx, name)).is_paused is not self.wanted
        return Check(ok=ok, reason="" if ok else f"the DAG is still {_word(self.wanted)}")


class PauseDag(_SetPaused):
    """Keeps a DAG from making new runs."""

    wanted = True
    spec = ActionSpec(
        id="airflow.pause_dag",
        summary="Pause a DAG: no new run starts.",
        target_kind=DAG_KIND,
        params=PauseParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.1,
        family="other",
    )


class UnpauseDag(_SetPaused):
    """Lets a DAG make runs again."""

    wanted = False
    spec = ActionSpec(
        id="airflow.unpause_dag",
        summary="Unpause a DAG: its runs start again.",
        target_kind=DAG_KIND,
        params=PauseParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.05,
        family="other",
    )


class SlotParams(Params):
    """How many slots, and when that counts as a fix."""

    slots: int = Field(ge=1, le=100_000)
    """The new number; more than there are now, at most `backends.airflow.max_pool_slots`."""
    within_seconds: float = Field(120.0, gt=0, le=600)
    """What waits for the pool must have become less by then."""
    hold_seconds: float = Field(2.0, ge=0, le=600)
    """It must stay so for that long."""


class SetPoolSlots(AirflowExecutor):
    """Gives a pool in which tasks wait more slots."""

    spec = ActionSpec(
        id="airflow.set_pool_slots",
        summary="Give a pool in which tasks wait more slots.",
        target_kind=POOL_KIND,
        params=SlotParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=180.0,
        cost=0.1,
        family="scale",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the pool and the health of the parts."""
        try:
            health, pool = await self.api.health(ctx), await self.api.pool(ctx, pool_of(ctx.target))
        except ActionError as error:
            return {"reason": error.message}
        return {**pool.as_facts(), "scheduler": health.scheduler, "database": health.database}

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a pool in which nothing waits, and numbers out of bounds."""
        try:
            pool = await self.api.pool(ctx, pool_of(ctx.target))
        except MissingError:
            return Check(ok=False, reason=f"there is no pool {pool_of(ctx.target)}")
        reason = self._refusal(pool, ctx.params.slots) or (await self.api.health(ctx)).complaint
        return Check(ok=not reason, reason=reason, facts=_snapshot(pool))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set the number once."""
        pool = await self.api.pool(ctx, pool_of(ctx.target))
        facts = _snapshot(pool)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if pool.slots == ctx.params.slots:
            # Set by a former call of this attempt; what was before is known only if it was in this process.
            known = self._before.get(ctx.idempotency_key, {**facts, "slots_before": None})
            return Receipt(self.spec.id, ctx.clock.now(), known)
        reason = self._refusal(pool, ctx.params.slots)
        if reason:
            raise PermanentError(reason)
        self._before.setdefault(ctx.idempotency_key, facts)
        await self.api.set_pool_slots(ctx, pool, ctx.params.slots)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether less waits than before, with the database and the scheduler well."""
        before = int(receipt.facts.get("waiting_before") or 0)

        async def sample() -> Check:
            try:
                pool, health = await self.api.pool(ctx, pool_of(ctx.target)), await self.api.health(ctx)
            except ActionError as error:
                return Check(ok=False, reason=error.message)
            reason = health.complaint
            if pool.slots != ctx.params.slots:
                reason = f"the pool has {pool.slots} slots"
            elif pool.waiting and pool.waiting >= before:
                reason = f"{pool.waiting} tasks wait, {before} did before"
            return Check(ok=not reason, reason=reason, facts=pool.as_facts())

        return await held(
            ctx, sample, hold_seconds=ctx.params.hold_seconds, within_seconds=ctx.params.within_seconds
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Give it the former number again."""
        old, name = receipt.facts.get("slots_before"), pool_of(ctx.target)
        if not isinstance(old, int):
            return Check(ok=False, reason="the former number of slots is not known")
        pool = await self.api.pool(ctx, name)
        if pool.slots != old:
            await self.api.set_pool_slots(ctx, pool, old)
        slots = (await self.api.pool(ctx, name)).slots
        return Check(ok=slots == old, reason="" if slots == old else f"the pool has {slots} slots")

    def _refusal(self, pool: Pool, slots: int) -> str:
        settings = self.client.settings
        if pool.name in settings.protected_pools:
            return f"pool {pool.name} is protected"
        if pool.slots < 0:
            return f"pool {pool.name} has no limit"
        if slots <= pool.slots:
            return f"pool {pool.name} has {pool.slots} slots already"
        if slots > settings.max_pool_slots:
            return f"{slots} slots are more than the {settings.max_pool_slots} that a pool may have"
        return "" if pool.waiting else f"nothing waits for pool {pool.name}"


def _snapshot(pool: Pool) -> dict[str, Any]:
    return {"slots_before": pool.slots, "waiting_before": pool.waiting}


def _word(is_paused: bool) -> str:
    return "paused" if is_paused else "not paused"
