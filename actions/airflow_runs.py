"""Running a whole DAG run again, and making a new one under an id that an attempt can't use twice."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field, field_validator

from actions.airflow_client import MissingError, TakenError
from actions.airflow_executor import (
    AirflowExecutor,
    RunParams,
    digest_of,
    is_ended,
    judged,
    mark_of,
    run_from,
)
from actions.airflow_settings import DAG_KIND, dag_of
from actions.airflow_words import Run
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
)

_MAX_CONF_BYTES = 4_096


class RerunDagRun(AirflowExecutor):
    """Clears every task of a run that has ended; Airflow runs it from the start."""

    spec = ActionSpec(
        id="airflow.rerun_dag_run",
        summary="Run a DAG run that has ended again from its start.",
        target_kind=DAG_KIND,
        params=RunParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=900.0,
        cost=0.1,
        family="retry",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a run that has not ended, and a DAG whose owner does not say that a rerun does no harm."""
        run, reason = await self._chosen(ctx)
        return Check(ok=not reason, reason=reason, facts=_facts(run))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Write the intent into the run's note, then clear it; a second call sees whether that was done."""
        dag = dag_of(ctx.target)
        marked = None if ctx.dry_run else await self.marked(ctx, dag, ctx.params.run)
        if marked is not None:
            return await self._resumed(ctx, dag, *marked)
        run, reason = await self._chosen(ctx)
        facts = _facts(run)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if reason or run is None:
            raise PermanentError(reason)
        await self.api.annotate(ctx, dag, run, f"{mark_of(ctx)} reruns what ended at {run.ended_at}")
        await self.api.clear_run(ctx, dag, run.id)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the run ended anew, with success, within its time."""
        dag, name, before = dag_of(ctx.target), run_from(receipt.facts), receipt.facts.get("ended_before")

        async def sample() -> tuple[Check, bool]:
            run = await self.api.run(ctx, dag, name)
            if is_ended(run) and run.ended_at == before:
                return Check(ok=False, reason=f"run {name} was not run again", facts=run.as_facts()), False
            return judged(run), not is_ended(run)

        return await self.settled(ctx, sample, ctx.params.sla_seconds)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Declare the run failed again."""
        return await self.fail_run(ctx, run_from(receipt.facts))

    async def _chosen(self, ctx: ActionContext) -> tuple[Run | None, str]:
        dag, reason = await self.dag_or_objection(ctx, must_run=True, tag=self.client.settings.rerun_tag)
        if reason:
            return None, reason
        run, reason = await self.failed_run(ctx, dag.id)
        if reason or run is None:
            return run, reason
        if not is_ended(run):
            return run, f"run {run.id} is still {run.state}"
        tries = max((one.tries for one in await self.api.work(ctx, dag.id, run.id)), default=0)
        return run, f"run {run.id} was tried {tries} times" if tries >= ctx.params.max_attempts else ""

    async def _resumed(self, ctx: ActionContext, dag: str, run: Run, intent: str) -> Receipt:
        before = float(intent.rpartition(" ")[2])
        if is_ended(run) and run.ended_at == before:
            await self.api.clear_run(ctx, dag, run.id)
        return Receipt(self.spec.id, ctx.clock.now(), {"run": run.id, "ended_before": before})


def _facts(run: Run | None) -> dict[str, Any]:
    return {"run": run.id, "state_before": run.state, "ended_before": run.ended_at} if run else {}


class TriggerParams(Params):
    """What the new run is given."""

    conf: dict[str, Any] = Field(default_factory=dict)
    """The run's configuration, 4 KiB of JSON at most."""
    sla_seconds: float = Field(600.0, gt=0, le=3_600)
    """The run must have succeeded within that time."""
    hold_seconds: float = Field(2.0, ge=0, le=600)
    """It must stay so for that long."""

    @field_validator("conf")
    @classmethod
    def _is_small_json(cls, conf: dict[str, Any]) -> dict[str, Any]:
        try:
            size = len(json.dumps(conf, allow_nan=False).encode())
        except (TypeError, ValueError) as error:
            raise ValueError("not JSON") from error
        if size > _MAX_CONF_BYTES:
            raise ValueError(f"more than {_MAX_CONF_BYTES} bytes of JSON")
        return conf


class TriggerDag(AirflowExecutor):
    """Makes a run whose id follows from the attempt: the same attempt can't make two."""

    spec = ActionSpec(
        id="airflow.trigger_dag",
        summary="Make a new run of a DAG.",
        target_kind=DAG_KIND,
        params=TriggerParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=900.0,
        cost=0.1,
        family="retry",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a paused DAG, one with as many runs as it may have, and a second run of this attempt."""
        reason = await self._refusal(ctx)
        if not reason and await self._exists(ctx):
            reason = f"there is a run {run_id_of(ctx)} already"
        return Check(ok=not reason, reason=reason, facts={"run": run_id_of(ctx)})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Make the run; one that is there already is ours."""
        run, facts = run_id_of(ctx), {"run": run_id_of(ctx)}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if await self._exists(ctx):
            return Receipt(self.spec.id, ctx.clock.now(), facts)
        reason = await self._refusal(ctx)
        if reason:
            raise PermanentError(reason)
        try:
            await self.api.trigger(ctx, dag_of(ctx.target), run, ctx.params.conf, mark_of(ctx))
        except TakenError:
            if not await self._exists(ctx):
                raise
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the run succeeded within its time."""
        dag, name = dag_of(ctx.target), run_from(receipt.facts)

        async def sample() -> tuple[Check, bool]:
            try:
                run = await self.api.run(ctx, dag, name)
            except MissingError:
                return Check(ok=False, reason=f"there is no run {name}"), False
            return judged(run), not is_ended(run)

        return await self.settled(ctx, sample, ctx.params.sla_seconds)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Declare the run failed, which ends what still runs of it."""
        try:
            return await self.fail_run(ctx, run_from(receipt.facts))
        except MissingError:
            return Check(ok=True, reason="the run was never made")

    async def _refusal(self, ctx: ActionContext) -> str:
        dag, reason = await self.dag_or_objection(ctx, must_run=True)
        if reason:
            return reason
        active = await self.api.count_active(ctx, dag.id)
        if dag.max_active_runs is not None and active >= dag.max_active_runs:
            return f"{active} runs are active, DAG {dag.id} may have {dag.max_active_runs}"
        return ""

    async def _exists(self, ctx: ActionContext) -> bool:
        try:
            await self.api.run(ctx, dag_of(ctx.target), run_id_of(ctx))
        except MissingError:
            return False
        return True


def run_id_of(ctx: ActionContext) -> str:
    """Give the id of the run that this attempt makes: the same for the same attempt, whoever computes it."""
    return f"oncall-agent__{digest_of(ctx.idempotency_key, 24)}"
