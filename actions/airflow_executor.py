"""What the Airflow actions share: the API, objections to touching a DAG, diagnostics, waiting for a run's end.

An intent is written into the note of the run before the run is touched. Whoever finds the intent of the same
attempt there, also in another process, can tell from the run itself whether it was carried out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from actions.airflow_api import AirflowApi
from actions.airflow_client import AirflowClient, MissingError
from actions.airflow_settings import dag_of
from actions.airflow_words import ENDED, NAME, TASK_FAILED, Dag, Run
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    Check,
    Executor,
    Params,
    PermanentError,
    TransientError,
    held,
)
from oncall_agent.models import JsonObject

_POLL_SECONDS = 1.0
_SHOWN_RUNS = 5


class RunParams(Params):
    """Which run, and how long it may take to be well again."""

    run: str | None = Field(None, pattern=NAME)
    """The default is the newest one that failed."""
    max_age_seconds: float = Field(86_400.0, gt=0, le=31_536_000)
    """Without `run`: a failure that is older is not what the alert is about."""
    max_attempts: int = Field(3, ge=1, le=20)
    """A task that was tried so often needs something other than another try."""
    sla_seconds: float = Field(600.0, gt=0, le=3_600)
    """The run must be well within that time."""
    hold_seconds: float = Field(2.0, ge=0, le=600)
    """It must stay so for that long."""


class AirflowExecutor(Executor):
    """The base of every Airflow action."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.client = AirflowClient(settings)
        self.api = AirflowApi(self.client)

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.__aexit__(kind, error, trace)

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether Airflow answers and takes our credentials."""
        try:
            server = await self.client.server(ctx)
            await self.api.dags(ctx)
            health = await self.api.health(ctx)
        except ActionError as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True, reason=f"Airflow {server.version}, scheduler {health.scheduler}")

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the health of the parts, the last runs, and what the newest failure said."""
        found: dict[str, Any] = {}
        try:
            health, dag = await self.api.health(ctx), dag_of(ctx.target)
            found["scheduler"], found["database"] = health.scheduler, health.database
            runs = await self.api.runs(ctx, dag, limit=_SHOWN_RUNS)
            found["runs"] = [run.as_facts() for run in runs]
            found |= await self._failure(ctx, dag, next((run for run in runs if run.state == "failed"), None))
        except ActionError as error:
            found["reason"] = error.message
        return found

    async def _failure(self, ctx: ActionContext, dag: str, run: Run | None) -> dict[str, Any]:
        if run is None:
            return {}
        work = await self.api.work(ctx, dag, run.id)
        failed = [one for one in work if one.state == "failed"]
        found: dict[str, Any] = {"failed_tasks": [f"{one.name}, try {one.tries}" for one in failed[:20]]}
        if failed:
            found["log"] = await self.api.log(ctx, dag, run.id, failed[0])
        return found

    async def dag_or_objection(self, ctx: ActionContext, *, must_run: bool, tag: str = "") -> tuple[Dag, str]:
        """Give the DAG and why it may not be touched, if so.

        Args:
            must_run: the action is of use only if Airflow runs the DAG's tasks now.
            tag: the DAG must have it.
        """
        name = dag_of(ctx.target)
        try:
            dag = await self.api.dag(ctx, name)
        except MissingError:
            gone = Dag(name, False, True, False, None, frozenset())  # noqa: FBT003 - the words stand in Dag
            return gone, f"there is no DAG {name}"
        reason = _objection(dag, self.client.settings.protected_tag, tag, must_run=must_run)
        if not reason and must_run:
            reason = (await self.api.health(ctx)).complaint
        return dag, reason

    async def marked(self, ctx: ActionContext, dag: str, run: str | None) -> tuple[Run, str] | None:
        """Give the run that this very attempt has written its intent to, and the intent."""
        try:
            runs = [await self.api.run(ctx, dag, run)] if run else await self.api.runs(ctx, dag)
        except MissingError:
            return None
        start = f"{mark_of(ctx)} "
        for one in runs:
            for line in one.note.splitlines():
                if line.startswith(start):
                    return one, line.removeprefix(start)
        return None

    async def failed_run(self, ctx: ActionContext, dag: str) -> tuple[Run | None, str]:
        """Give the run that is asked for or the newest that failed, and why it will not do, if so."""
        params = ctx.params
        if params.run:
            try:
                return await self.api.run(ctx, dag, params.run), ""
            except MissingError:
                return None, f"there is no run {params.run}"
        failed = await self.api.runs(ctx, dag, states=("failed",), limit=1)
        if not failed:
            return None, "no run has failed"
        age = ctx.clock.now() - (failed[0].ended_at or failed[0].due_at or 0.0)
        if age > params.max_age_seconds:
            return failed[0], f"the newest failure is {age:.0f} s old"
        return failed[0], ""

    async def settled(
        self, ctx: ActionContext, sample: Callable[[], Awaitable[tuple[Check, bool]]], seconds: float
    ) -> Check:
        """Poll until `sample` says that it is decided, then until a good answer has held.

        Args:
            sample: gives the state of things and whether it can still change by itself.
        """
        clock, end = ctx.clock, ctx.clock.monotonic() + min(seconds, ctx.seconds_left)

        async def asked() -> tuple[Check, bool]:
            try:
                return await sample()
            except TransientError as error:
                return Check(ok=False, reason=error.message), True

        check, may_change = await asked()
        while may_change and clock.monotonic() + _POLL_SECONDS <= end:
            await clock.sleep(_POLL_SECONDS)
            check, may_change = await asked()
        if not check.ok:
            return check

        async def again() -> Check:
            return (await asked())[0]

        hold = ctx.params.hold_seconds
        within = hold + 10 * _POLL_SECONDS
        return await held(
            ctx, again, hold_seconds=hold, within_seconds=within, interval_seconds=_POLL_SECONDS
        )

    async def fail_run(self, ctx: ActionContext, run: str) -> Check:
        """Declare a run failed, unless it has ended already; safe to call twice."""
        dag = dag_of(ctx.target)
        found = await self.api.run(ctx, dag, run)
        if found.state == "success":
            return Check(
                ok=True, reason=f"run {run} has succeeded meanwhile and is left so", facts=found.as_facts()
            )
        if found.state != "failed":
            await self.api.set_run_state(ctx, dag, run, "failed")
            found = await self.api.run(ctx, dag, run)
        ok = found.state == "failed"
        return Check(ok=ok, reason="" if ok else f"run {run} is {found.state}", facts=found.as_facts())


def _objection(dag: Dag, protected_tag: str, tag: str, *, must_run: bool) -> str:
    if protected_tag in dag.tags:
        return f"DAG {dag.id} is protected by its tag"
    if dag.is_gone:
        return f"DAG {dag.id} is no longer in the folder of DAGs"
    if tag and tag not in dag.tags:
        return f"DAG {dag.id} lacks the tag {tag}"
    if must_run and dag.has_import_errors:
        return f"DAG {dag.id} can't be imported"
    return f"DAG {dag.id} is paused" if must_run and dag.is_paused else ""


def mark_of(ctx: ActionContext) -> str:
    """Give the text by which this attempt is known in the note of a run."""
    return f"oncall-agent {digest_of(ctx.idempotency_key, 12)}"


def digest_of(text: str, length: int) -> str:
    """Give a short, stable text for a longer one."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def run_from(receipt_facts: JsonObject) -> str:
    """Give the run that a receipt is about.

    Raises:
        PermanentError: it names none.
    """
    run = receipt_facts.get("run")
    if not isinstance(run, str) or not run:
        raise PermanentError("the receipt names no run")
    return run


def judged(run: Run, wanted: str = "success") -> Check:
    """Say whether a run ended as it should."""
    ok = run.state == wanted
    return Check(
        ok=ok, reason="" if ok else f"run {run.id} is {run.state or 'waiting'}", facts=run.as_facts()
    )


def is_ended(run: Run) -> bool:
    """Say whether a run will not go on by itself."""
    return run.state in ENDED


def is_failed(state: str) -> bool:
    """Say whether a task instance has failed or was kept from running by one that has."""
    return state in TASK_FAILED
