"""The prober of Spark applications: does one of the name run, does it move, does it lose executors."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from pydantic import Field

from actions.spark_executor import Cluster
from actions.spark_settings import text_of
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


class SparkProbeParams(Params):
    """What counts as sick."""

    max_seconds: float | None = Field(None, ge=1, le=31_536_000)
    """An application that has run for longer is down; the default never asks."""
    stage_seconds: float | None = Field(None, ge=1, le=31_536_000)
    """So is one with a stage that has run for longer."""
    may_rest: bool = False
    """That none runs is well when the last one came to a good end: for applications that are not always there."""


class SparkProber(Prober):
    """Reads the master and the application's pages; a master that is away is blindness."""

    kind = "spark"
    params = SparkProbeParams

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._cluster = Cluster(settings)

    async def __aenter__(self) -> Self:
        await self._cluster.http.session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cluster.http.session.__aexit__(kind, error, trace)

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Ask the master, then the application itself when a stage's age matters."""
        try:
            return await self._read(target, params, timeout_seconds, clock)
        except PermanentError as error:
            raise TransientError(error.message) from error

    async def _read(self, target: Target, params: Any, seconds: float, clock: Clock) -> Reading:
        found = await self._cluster.master.applications(seconds, text_of(target, "application"))
        active = [one for one in found if not one.is_over]
        if not active:
            last = found[0].state if found else "unknown"
            is_well = params.may_rest and last == "FINISHED"
            return Reading(Signals(up=is_well), {"reason": f"none runs; the last one: {last}", "state": last})
        newest = active[0]
        facts: dict[str, Any] = newest.as_facts()
        age = clock.now() - newest.started_at
        if params.max_seconds is not None and age > params.max_seconds:
            return Reading(Signals(up=False), {**facts, "reason": f"it has run for {age:.0f} s"})
        if newest.state == "WAITING":
            return Reading(Signals(up=False), {**facts, "reason": "it waits for room in the cluster"})
        if params.stage_seconds is None:
            return Reading(Signals(up=True), facts)
        base = await self._cluster.master.ui_of(seconds, newest)
        stages = await self._cluster.pages.running(seconds, base, newest.id, "stage")
        old = [one for one in stages if clock.now() - one.began_at > params.stage_seconds]
        reason = {"reason": f"the stage {old[0].id} is stuck", "stage": old[0].as_facts()} if old else {}
        return Reading(Signals(up=not old), {**facts, **reason})
