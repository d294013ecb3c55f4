"""Reading the health of a DAG or a pool: the state of its last run, what waits, and the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from actions.airflow_api import AirflowApi
from actions.airflow_client import AirflowClient, MissingError, Within
from actions.airflow_settings import POOL_KIND, dag_of, pool_of
from actions.airflow_words import Dag, Run
from oncall_agent.contract import (
    Clock,
    Params,
    PermanentError,
    Prober,
    Reading,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject

_RUNS = 5


class AirflowProbeParams(Params):
    """What counts as well."""

    running_seconds: float = Field(3_600.0, gt=0, le=2_592_000)
    """A run that goes on for longer is stuck."""
    may_be_paused: bool = False
    """A paused DAG is well, too."""


class AirflowProber(Prober):
    """Up means: the scheduler is healthy, the DAG is not paused, its last run that ended succeeded, none is stuck.

    For a pool: no task waits while there is no open slot.
    """

    kind = "airflow"
    params = AirflowProbeParams

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._client = AirflowClient(settings)
        self._api = AirflowApi(self._client)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Ask once; an Airflow that does not answer or refuses us says nothing of the DAG."""
        within = Within(timeout_seconds)
        try:
            return await self._reading(within, target, params, clock.now())
        except MissingError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        except PermanentError as error:
            raise TransientError(error.message) from error

    async def _reading(self, within: Within, target: Target, params: Any, now: float) -> Reading:
        health = await self._api.health(within)
        facts: dict[str, Any] = {"scheduler": health.scheduler, "scheduler_beat_at": health.scheduler_beat_at}
        if target.kind == POOL_KIND:
            pool = await self._api.pool(within, pool_of(target))
            starved = pool.waiting > 0 and pool.open <= 0 and pool.slots >= 0
            reason = f"{pool.waiting} tasks wait, no slot is open" if starved else ""
            facts |= pool.as_facts()
        else:
            dag = await self._api.dag(within, dag_of(target))
            runs = await self._api.runs(within, dag.id, limit=_RUNS)
            facts |= {"is_paused": dag.is_paused, "runs": [run.as_facts() for run in runs]}
            reason = complaint(dag, runs, params, now)
        reason = health.complaint or reason
        return Reading(Signals(up=not reason), {**facts, **({"reason": reason} if reason else {})})


def complaint(dag: Dag, runs: Sequence[Run], params: AirflowProbeParams, now: float) -> str:
    """Give the reason why a DAG is not well, from its newest runs; empty when it is."""
    if dag.is_gone or dag.has_import_errors:
        return "the DAG is not in the folder of DAGs or can't be imported"
    if dag.is_paused and not params.may_be_paused:
        return "the DAG is paused"
    for run in runs:
        age = now - run.since if run.since is not None else 0.0
        if run.state in ("running", "queued") and age > params.running_seconds:
            return f"run {run.id} has been {run.state} for {age:.0f} s"
    ended = next((run for run in runs if run.state in ("success", "failed")), None)
    return f"run {ended.id} failed" if ended is not None and ended.state == "failed" else ""
