"""Faults made on purpose on sandbox DAGs: `config/airflow/oncall_sandbox.py` has fit ones.

Nothing is deleted: the runs that a drill made stay in the history of the sandbox, ended.
"""

from __future__ import annotations

from typing import Any

from actions.airflow_client import MissingError
from actions.airflow_sandbox import SETTLE, AirflowDrill, end, fit, longest, until, until_run
from actions.airflow_settings import POOL_KIND
from oncall_agent.contract import (
    Check,
    Drill,
    DrillSpec,
    PermanentError,
    SystemContext,
    Target,
    Trial,
)
from oncall_agent.models import JsonObject


class FailedTask(AirflowDrill):
    """A task that fails at its first try."""

    spec = DrillSpec(
        id="airflow.failed_task",
        action="airflow.clear_tasks",
        scenario="failed_task",
        summary="A task of a sandbox DAG fails at its first try and keeps the next one from running.",
        sandbox="named",
        sandbox_keys=("dag",),
        deadline_seconds=120.0,
    )

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make a run that fails."""
        async with self.api() as api:
            await self.make(api, ctx, "fail_first")
            await until_run(api, ctx, self.named("dag"), self.run, lambda run: run.state == "failed")


class FailedRun(FailedTask):
    """The same, to be healed by running everything again."""

    spec = DrillSpec(
        id="airflow.failed_run",
        action="airflow.rerun_dag_run",
        scenario="failed_run",
        summary="A run of a sandbox DAG fails.",
        sandbox="named",
        sandbox_keys=("dag",),
        deadline_seconds=120.0,
    )


class MissedRun(FailedTask):
    """A run that did not do its work; to be healed by a new one."""

    spec = DrillSpec(
        id="airflow.missed_run",
        action="airflow.trigger_dag",
        scenario="missed_run",
        summary="The last run of a sandbox DAG did not do its work.",
        sandbox="named",
        sandbox_keys=("dag",),
        deadline_seconds=120.0,
    )

    def params(self) -> dict[str, Any]:
        """Give the parameters of the action."""
        return dict(SETTLE)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether the newest run ended well; before the drill's own there is nothing wrong."""
        if not self.is_made:
            return Check(ok=True)
        async with self.api() as api:
            newest = await api.runs(ctx, self.named("dag"), limit=1)
        ok = bool(newest) and newest[0].state == "success"
        return Check(ok=ok, reason="" if ok else "the newest run did not succeed")


class StuckRun(AirflowDrill):
    """A task that does not come to an end."""

    spec = DrillSpec(
        id="airflow.stuck_run",
        action="airflow.mark_state",
        scenario="stuck_run",
        summary="A task of a sandbox DAG hangs, and with it the run.",
        sandbox="named",
        sandbox_keys=("dag",),
        deadline_seconds=180.0,
    )

    def params(self) -> dict[str, Any]:
        """Give the parameters of the action."""
        return {"run": self.run, "stuck_seconds": 1.0, "history_factor": 1.0, **SETTLE}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make a run that hangs, and wait until it has taken longer than those before it."""
        dag = self.named("dag")
        async with self.api() as api:
            longest_before = await longest(api, ctx, dag)
            await self.make(api, ctx, "hang")

            async def hangs() -> bool:
                run = await api.run(ctx, dag, self.run)
                age = ctx.clock.now() - run.started_at if run.started_at else 0.0
                work = await api.work(ctx, dag, self.run)
                return age > longest_before + 1.0 and any(one.state == "running" for one in work)

            await until(ctx, hangs)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether the run has come to an end; before it is made there is nothing wrong."""
        if not self.is_made:
            return Check(ok=True)
        async with self.api() as api:
            state = (await api.run(ctx, self.named("dag"), self.run)).state
        ok = state in ("failed", "success")
        return Check(ok=ok, reason="" if ok else f"the run is {state}")


class PausedDag(AirflowDrill):
    """A DAG that somebody paused and forgot."""

    spec = DrillSpec(
        id="airflow.paused_dag",
        action="airflow.unpause_dag",
        scenario="paused_dag",
        summary="A sandbox DAG is paused.",
        sandbox="named",
        sandbox_keys=("dag",),
        deadline_seconds=30.0,
    )

    def params(self) -> dict[str, Any]:
        """Give the parameters of the action."""
        return dict(SETTLE)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Pause it."""
        async with self.api() as api:
            await api.set_paused(ctx, self.named("dag"), is_paused=True)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether it is unpaused."""
        async with self.api() as api:
            is_paused = (await api.dag(ctx, self.named("dag"))).is_paused
        return Check(ok=not is_paused, reason="the DAG is paused" if is_paused else "")

    async def clean_up(self, ctx: SystemContext) -> None:
        """Unpause it: prepare takes no DAG that was paused before."""
        if not self.run:
            return
        async with self.api() as api:
            await api.set_paused(ctx, self.named("dag"), is_paused=False)


class StarvedPool(AirflowDrill):
    """A pool without slots, in which a run waits."""

    spec = DrillSpec(
        id="airflow.starved_pool",
        action="airflow.set_pool_slots",
        scenario="starved_pool",
        summary="A sandbox pool has no slots, and a task waits for one.",
        sandbox="named",
        sandbox_keys=("pool_dag", "pool"),
        deadline_seconds=120.0,
    )

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._slots: int | None = None

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Look at the sandbox pool and the DAG in it."""
        pool = self.named("pool")
        async with self.api() as api:
            await fit(api, ctx, self.named("pool_dag"))
            try:
                self._slots = (await api.pool(ctx, pool)).slots
            except MissingError as error:
                raise PermanentError(f"there is no sandbox pool {pool}: make it, with 0 slots") from error
        self.run = f"oncall-agent-drill__{int(ctx.clock.now() * 1_000)}"
        target = Target(pool, POOL_KIND, address={"pool": pool})
        return Trial(target, {"slots": 1, **SETTLE}, {"run": self.run})

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Take its slots, and make a run that waits for one."""
        pool, dag = self.named("pool"), self.named("pool_dag")
        async with self.api() as api:
            await api.set_pool_slots(ctx, await api.pool(ctx, pool), 0)
            await api.trigger(ctx, dag, self.run, {}, "a drill of oncall-agent")

            async def waits() -> bool:
                return (await api.pool(ctx, pool)).waiting > 0

            await until(ctx, waits)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether nothing waits in vain."""
        async with self.api() as api:
            pool = await api.pool(ctx, self.named("pool"))
        ok = not pool.waiting or pool.open > 0
        return Check(
            ok=ok, reason="" if ok else f"{pool.waiting} tasks wait without a slot", facts=pool.as_facts()
        )

    async def clean_up(self, ctx: SystemContext) -> None:
        """End the run and give the pool its former slots."""
        if self._slots is None:
            return
        async with self.api() as api:
            await end(api, ctx, self.named("pool_dag"), self.run)
            await api.set_pool_slots(ctx, await api.pool(ctx, self.named("pool")), self._slots)


DRILLS: tuple[type[Drill], ...] = (FailedTask, FailedRun, MissedRun, StuckRun, PausedDag, StarvedPool)
