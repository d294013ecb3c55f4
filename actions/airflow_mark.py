"""Declaring a stuck run or a stuck task of it ended, so that what depends on it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from actions.airflow_client import MissingError, TakenError
from actions.airflow_executor import AirflowExecutor, digest_of, is_ended, mark_of, run_from
from actions.airflow_settings import DAG_KIND, dag_of
from actions.airflow_words import NAME, TASK_ENDED, Run, Work
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
)

_MAX_UNFINISHED = 100
_HISTORY = 10


class MarkParams(Params):
    """What is declared to be in which state."""

    state: Literal["failed", "success"] = "failed"
    """What it is declared to be."""
    run: str | None = Field(None, pattern=NAME)
    """The default is the run that has been going on for longest."""
    task: str | None = Field(None, pattern=NAME)
    """The default is the run as a whole."""
    map_index: int = Field(-1, ge=-1, le=1_000_000)
    """Which of several instances of the task."""
    stuck_seconds: float = Field(3_600.0, gt=0, le=2_592_000)
    """It must have been going on for longer."""
    history_factor: float = Field(2.0, ge=1, le=100)
    """And for that many times as long as the longest of the last ten runs that succeeded."""
    heartbeat_seconds: float = Field(300.0, gt=0, le=86_400)
    """A trigger that a task waits for and that gave a sign of life within that time is not dead."""
    within_seconds: float = Field(120.0, gt=0, le=600)
    """What depends on it must move by then."""
    hold_seconds: float = Field(2.0, ge=0, le=600)
    """It must stay so for that long."""


@dataclass(frozen=True, slots=True)
class _Stuck:
    """What is stuck: a run, perhaps one task of it, and what of it has not ended."""

    run: Run
    unfinished: tuple[Work, ...]
    task: Work | None = None

    def as_facts(self) -> dict[str, Any]:
        states = {one.name: one.state for one in ([self.task] if self.task else self.unfinished)}
        return {"run": self.run.id, "task": self.task.name if self.task else "", "before": states}

    def as_intent(self, state: str) -> str:
        unfinished = " ".join(digest_of(name, 6) for name in self.as_facts()["before"])
        return f"marks {self.task.name if self.task else 'the run'} {state}, unfinished: {unfinished}"


class MarkState(AirflowExecutor):
    """Sets the state of a run or a task that hangs; Airflow ends what still runs of it."""

    spec = ActionSpec(
        id="airflow.mark_state",
        summary="Declare a stuck DAG run, or a stuck task of it, failed or successful.",
        target_kind=DAG_KIND,
        params=MarkParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=240.0,
        cost=0.2,
        family="kill",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what has not been going on for long, in itself and beside its history, or is alive."""
        stuck, reason = await self._stuck(ctx)
        return Check(ok=not reason, reason=reason, facts=stuck.as_facts() if stuck else {})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Write the intent into the run's note, then set the state; a second call finds it set."""
        dag = dag_of(ctx.target)
        marked = None if ctx.dry_run else await self.marked(ctx, dag, ctx.params.run)
        if marked is not None:
            return await self._resumed(ctx, dag, *marked)
        stuck, reason = await self._stuck(ctx)
        if ctx.dry_run:
            facts = stuck.as_facts() if stuck else {}
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if reason or stuck is None:
            raise PermanentError(reason)
        await self.api.annotate(ctx, dag, stuck.run, f"{mark_of(ctx)} {stuck.as_intent(ctx.params.state)}")
        await self._set(ctx, dag, stuck.run, stuck.task)
        return Receipt(self.spec.id, ctx.clock.now(), stuck.as_facts())

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the state is set and what depends on it has moved."""
        dag, run = dag_of(ctx.target), run_from(receipt.facts)
        task = str(receipt.facts.get("task") or "")
        successors = await self.api.successors(ctx, dag, task.partition("[")[0]) if task else []

        async def sample() -> tuple[Check, bool]:
            found = await self.api.run(ctx, dag, run)
            work = {one.name: one for one in await self.api.work(ctx, dag, run)}
            reason = _complaint(found, work, task, successors, ctx.params.state)
            return Check(ok=not reason, reason=reason, facts=found.as_facts()), bool(reason)

        return await self.settled(ctx, sample, ctx.params.within_seconds)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Clear what was not ended before, so that it goes on; what had ended stays as it is."""
        dag, run = dag_of(ctx.target), run_from(receipt.facts)
        before = dict(receipt.facts.get("before") or {})
        work = [one for one in await self.api.work(ctx, dag, run) if one.name in before]
        names = sorted({one.task for one in work if one.state in TASK_ENDED})
        if names:
            await self.api.clear(ctx, dag, run, tasks=names, only_failed=False, dry_run=False)
        found = await self.api.run(ctx, dag, run)
        ok = not is_ended(found)
        return Check(ok=ok, reason="" if ok else f"run {run} is {found.state}", facts=found.as_facts())

    async def _stuck(self, ctx: ActionContext) -> tuple[_Stuck | None, str]:
        dag, reason = await self.dag_or_objection(ctx, must_run=False)
        if reason:
            return None, reason
        run, reason = await self._run(ctx, dag.id)
        if run is None or reason:
            return None, reason
        unfinished = tuple(w for w in await self.api.work(ctx, dag.id, run.id) if w.state not in TASK_ENDED)
        if len(unfinished) > _MAX_UNFINISHED:
            return None, f"run {run.id} has {len(unfinished)} unfinished tasks: too many to restore"
        stuck = _Stuck(run, unfinished, _task(unfinished, ctx.params))
        if ctx.params.task and stuck.task is None:
            return stuck, f"run {run.id} has no task {ctx.params.task} that is going on"
        return stuck, await self._alive(ctx, dag.id, stuck)

    async def _run(self, ctx: ActionContext, dag: str) -> tuple[Run | None, str]:
        if ctx.params.run:
            try:
                run = await self.api.run(ctx, dag, ctx.params.run)
            except MissingError:
                return None, f"there is no run {ctx.params.run}"
            return run, f"run {run.id} is {run.state}" if is_ended(run) else ""
        going_on = await self.api.runs(ctx, dag, states=("running", "queued"), limit=1, oldest=True)
        return (going_on[0], "") if going_on else (None, "no run is going on")

    async def _alive(self, ctx: ActionContext, dag: str, stuck: _Stuck) -> str:
        """Give the reason why it is not stuck."""
        now, params = ctx.clock.now(), ctx.params
        since = stuck.task.since if stuck.task else stuck.run.since
        age = now - since if since is not None else 0.0
        if age <= params.stuck_seconds:
            return f"it has been going on for {age:.0f} s only"
        longest = await self._longest(ctx, dag)
        if age <= longest * params.history_factor:
            return f"it has been going on for {age:.0f} s, a run took {longest:.0f} s lately"
        waiting = [stuck.task] if stuck.task else stuck.unfinished
        beats = [one.trigger_beat_at for one in waiting if one.trigger_beat_at is not None]
        alive = beats and now - max(beats) <= params.heartbeat_seconds
        return "its trigger gave a sign of life lately" if alive else ""

    async def _longest(self, ctx: ActionContext, dag: str) -> float:
        runs = await self.api.runs(ctx, dag, states=("success",), limit=_HISTORY)
        took = [run.ended_at - run.started_at for run in runs if run.ended_at and run.started_at]
        return max(took, default=0.0)

    async def _resumed(self, ctx: ActionContext, dag: str, run: Run, intent: str) -> Receipt:
        """Go on from an intent: the state tells whether it was carried out."""
        params, listed = ctx.params, intent.rpartition(": ")[2].split()
        work = await self.api.work(ctx, dag, run.id)
        task = _task(tuple(work), params)
        unfinished = tuple(one for one in work if digest_of(one.name, 6) in listed)
        is_set = task.state == params.state if task else is_ended(run)
        if not is_set:
            await self._set(ctx, dag, run, task)
        facts = _Stuck(run, unfinished, task).as_facts()
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def _set(self, ctx: ActionContext, dag: str, run: Run, task: Work | None) -> None:
        if task is None:
            await self.api.set_run_state(ctx, dag, run.id, ctx.params.state)
            return
        try:
            await self.api.set_task_state(ctx, dag, run.id, task, ctx.params.state)
        except TakenError:
            return  # It came to that state by itself a moment ago.


def _task(work: tuple[Work, ...], params: MarkParams) -> Work | None:
    wanted = (params.task, params.map_index)
    return next((one for one in work if (one.task, one.map_index) == wanted), None)


def _complaint(run: Run, work: dict[str, Work], task: str, successors: list[str], state: str) -> str:
    if not task:
        going_on = [one.name for one in work.values() if one.state in ("running", "restarting")]
        if run.state != state:
            return f"run {run.id} is {run.state}"
        return f"still running: {', '.join(going_on[:5])}" if going_on else ""
    found = work.get(task)
    if found is None or found.state != state:
        return f"{task} is {found.state if found else 'gone'}"
    if is_ended(run):
        return ""
    waiting = [name for name in successors if name in work and not work[name].state]
    return f"still waiting: {', '.join(waiting[:5])}" if waiting else ""
