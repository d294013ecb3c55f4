"""What the Airflow drills share: the sandbox DAG, a run of it, and waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from actions.airflow_api import AirflowApi
from actions.airflow_client import AirflowClient, MissingError
from actions.airflow_settings import DAG_KIND
from actions.airflow_words import Run
from oncall_agent.contract import (
    Check,
    Drill,
    PermanentError,
    SystemContext,
    Target,
    TransientError,
    Trial,
)
from oncall_agent.models import JsonObject

_POLL_SECONDS = 0.5
SETTLE = {"hold_seconds": 1.0}


class AirflowDrill(Drill):
    """What the drills share: the sandbox DAG, a run of it, and waiting."""

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self.run = ""
        self.is_made = False

    @asynccontextmanager
    async def api(self) -> AsyncIterator[AirflowApi]:
        """Open the API for one step."""
        async with AirflowClient(self.settings) as client:
            yield AirflowApi(client)

    def named(self, key: str) -> str:
        """Give what the operator named."""
        value = self.sandbox.get(key)
        if not isinstance(value, str) or not value:
            raise PermanentError(f"the drill {self.spec.id} needs a sandbox: name its {key}")
        return value

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Look at the sandbox DAG, and name the run to come."""
        dag = self.named("dag")
        async with self.api() as api:
            await fit(api, ctx, dag)
        self.run = f"oncall-agent-drill__{int(ctx.clock.now() * 1_000)}"
        return Trial(Target(dag, DAG_KIND, address={"dag": dag}), self.params(), {"run": self.run})

    def params(self) -> dict[str, Any]:
        """Give the parameters of the action."""
        return {"run": self.run, **SETTLE}

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether the run ended well; before it is made there is nothing wrong."""
        if not self.is_made:
            return Check(ok=True)
        async with self.api() as api:
            state = (await api.run(ctx, self.named("dag"), self.run)).state
        return Check(ok=state == "success", reason="" if state == "success" else f"the run is {state}")

    async def clean_up(self, ctx: SystemContext) -> None:
        """End the run, if it was made and still goes on."""
        if not self.run:
            return
        async with self.api() as api:
            await end(api, ctx, self.named("dag"), self.run)

    async def make(self, api: AirflowApi, ctx: SystemContext, fault: str) -> None:
        """Make the run with a fault."""
        await api.trigger(ctx, self.named("dag"), self.run, {"fault": fault}, "a drill of oncall-agent")
        self.is_made = True


async def fit(api: AirflowApi, ctx: SystemContext, dag: str) -> None:
    """Look whether a sandbox DAG is there and runs.

    Raises:
        PermanentError: it is not fit.
    """
    try:
        found = await api.dag(ctx, dag)
    except MissingError as error:
        raise PermanentError(f"there is no sandbox DAG {dag}: put it into the folder of DAGs") from error
    if found.is_paused or found.is_gone or found.has_import_errors:
        raise PermanentError(f"the sandbox DAG {dag} is paused or can't run")


async def end(api: AirflowApi, ctx: SystemContext, dag: str, run: str) -> None:
    """End a run that still goes on."""
    try:
        state = (await api.run(ctx, dag, run)).state
    except MissingError:
        return
    if state not in ("failed", "success"):
        await api.set_run_state(ctx, dag, run, "failed")


async def longest(api: AirflowApi, ctx: SystemContext, dag: str) -> float:
    """Give how long the longest of the last runs that succeeded took, in seconds."""
    runs = await api.runs(ctx, dag, states=("success",), limit=10)
    return max(
        (run.ended_at - run.started_at for run in runs if run.ended_at and run.started_at), default=0.0
    )


async def until_run(
    api: AirflowApi, ctx: SystemContext, dag: str, run: str, is_so: Callable[[Run], bool]
) -> None:
    """Wait until a run is so."""

    async def asked() -> bool:
        return is_so(await api.run(ctx, dag, run))

    await until(ctx, asked)


async def until(ctx: SystemContext, is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is so.

    Raises:
        TransientError: the time is over.
    """
    while not await is_so():
        if ctx.seconds_left <= _POLL_SECONDS:
            raise TransientError("the fault could not be made in time")
        await ctx.clock.sleep(_POLL_SECONDS)
