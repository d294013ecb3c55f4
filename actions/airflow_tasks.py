"""Clearing the failed tasks of a run, so that Airflow tries them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from actions.airflow_executor import (
    AirflowExecutor,
    RunParams,
    digest_of,
    is_ended,
    is_failed,
    mark_of,
    run_from,
)
from actions.airflow_settings import DAG_KIND, dag_of
from actions.airflow_words import NAME, Run, Work
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    PermanentError,
    Receipt,
    RiskClass,
)
from oncall_agent.models import JsonObject

TaskId = Annotated[str, Field(pattern=NAME)]


class ClearParams(RunParams):
    """Which tasks of which run."""

    tasks: tuple[TaskId, ...] = Field((), max_length=20)
    """The default is all that failed."""
    only_failed: bool = True
    """Leave alone what has succeeded."""
    downstream: bool = False
    """Also what depends on the named tasks."""
    max_tasks: int = Field(10, ge=1, le=50)
    """Airflow's own dry run may count no more task instances than that."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What would be cleared, or why nothing may be."""

    run: Run | None
    chosen: Sequence[Work] = ()
    reason: str = ""

    def as_facts(self) -> dict[str, Any]:
        return {"run": self.run.id if self.run else "", "tasks": {one.name: one.tries for one in self.chosen}}

    def as_intent(self) -> str:
        tries = " ".join(f"{digest_of(one.name, 6)}@{one.tries}" for one in self.chosen)
        return f"clears {len(self.chosen)} tasks: {tries}"


class ClearTasks(AirflowExecutor):
    """Clears task instances of one run; Airflow runs them again."""

    spec = ActionSpec(
        id="airflow.clear_tasks",
        summary="Clear the failed tasks of a DAG run, so that they are tried again.",
        target_kind=DAG_KIND,
        params=ClearParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=900.0,
        cost=0.05,
        family="retry",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a DAG without the tag, too many tasks, too many tries, and what would not run anyway."""
        plan = await self._plan(ctx)
        return Check(ok=not plan.reason, reason=plan.reason, facts=plan.as_facts())

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Write the intent into the run's note, then clear; a second call sees whether that was done."""
        dag = dag_of(ctx.target)
        marked = None if ctx.dry_run else await self.marked(ctx, dag, ctx.params.run)
        if marked is not None:
            return await self._resumed(ctx, dag, *marked)
        plan = await self._plan(ctx)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), plan.as_facts(), planned=True)
        if plan.reason or plan.run is None:
            raise PermanentError(plan.reason)
        await self.api.annotate(ctx, dag, plan.run, f"{mark_of(ctx)} {plan.as_intent()}")
        return await self._clear(ctx, dag, plan.as_facts())

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether every task that was cleared succeeded in a new try within its time."""
        dag, run, tries = dag_of(ctx.target), run_from(receipt.facts), dict(receipt.facts.get("tasks") or {})

        async def sample() -> tuple[Check, bool]:
            found = await self.api.run(ctx, dag, run)
            work = {one.name: one for one in await self.api.work(ctx, dag, run)}
            bad = [name for name in tries if not _is_well(work.get(name))]
            reason = f"not successful: {', '.join(sorted(bad)[:5])}" if bad else ""
            states = {name: work[name].state for name in tries if name in work}
            facts = {**found.as_facts(), "tasks": states}
            return Check(ok=not bad and bool(tries), reason=reason, facts=facts), not is_ended(found)

        return await self.settled(ctx, sample, ctx.params.sla_seconds)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Declare the run failed again."""
        return await self.fail_run(ctx, run_from(receipt.facts))

    async def _plan(self, ctx: ActionContext) -> _Plan:
        dag, reason = await self.dag_or_objection(ctx, must_run=True, tag=self.client.settings.allow_tag)
        if reason:
            return _Plan(None, reason=reason)
        run, reason = await self.failed_run(ctx, dag.id)
        if reason or run is None:
            return _Plan(run, reason=reason)
        chosen = await self._chosen(ctx, dag.id, run.id)
        return _Plan(run, chosen[: ctx.params.max_tasks], reason=_refusal(chosen, run, ctx.params))

    async def _chosen(self, ctx: ActionContext, dag: str, run: str) -> list[Work]:
        """Give what Airflow's own dry run would clear."""
        params = ctx.params
        named = set(
            await self.api.clear(
                ctx,
                dag,
                run,
                tasks=params.tasks,
                only_failed=params.only_failed,
                downstream=params.downstream,
                dry_run=True,
            )
        )
        work = await self.api.work(ctx, dag, run)
        return [one for one in work if one.task in named and (is_failed(one.state) or not params.only_failed)]

    async def _resumed(self, ctx: ActionContext, dag: str, run: Run, intent: str) -> Receipt:
        """Go on from an intent: the tries that it names tell whether the tasks were cleared."""
        before = dict(pair.split("@") for pair in intent.rpartition(": ")[2].split() if "@" in pair)
        work = [one for one in await self.api.work(ctx, dag, run.id) if digest_of(one.name, 6) in before]
        facts = {"run": run.id, "tasks": {one.name: int(before[digest_of(one.name, 6)]) for one in work}}
        untouched = all(str(one.tries) == before[digest_of(one.name, 6)] for one in work)
        if untouched and is_ended(run) and any(is_failed(one.state) for one in work):
            return await self._clear(ctx, dag, facts)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def _clear(self, ctx: ActionContext, dag: str, facts: JsonObject) -> Receipt:
        names = sorted({name.partition("[")[0] for name in facts["tasks"]})
        await self.api.clear(
            ctx, dag, facts["run"], tasks=names, only_failed=ctx.params.only_failed, dry_run=False
        )
        return Receipt(self.spec.id, ctx.clock.now(), facts)


def _is_well(work: Work | None) -> bool:
    return work is not None and work.state in ("success", "skipped")


def _refusal(chosen: Sequence[Work], run: Run, params: ClearParams) -> str:
    if not chosen:
        return f"run {run.id} has no such tasks to clear"
    if not is_ended(run):
        return f"run {run.id} is still {run.state}"
    if len(chosen) > params.max_tasks:
        return f"{len(chosen)} tasks would be cleared, at most {params.max_tasks} may be"
    worn = next((one for one in chosen if one.tries >= params.max_attempts), None)
    return f"{worn.name} was tried {worn.tries} times" if worn else ""
