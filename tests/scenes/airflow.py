"""What the tests of Airflow share: opened executors, runs with a fault, waiting for what Airflow does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from actions.airflow_api import AirflowApi
from actions.airflow_client import Within
from actions.airflow_settings import DAG_KIND, POOL_KIND
from oncall_agent.contract import ActionContext, Executor, SystemClock, Target
from oncall_agent.testing import context_for

SOON = Within(40.0)
AT_ONCE = {"hold_seconds": 0.0}


def attempt(
    kind: type[Executor],
    dag: str = "",
    *,
    pool: str = "",
    seconds: float = 50.0,
    key: str = "",
    **params: Any,
) -> ActionContext:
    """A context on a DAG or a pool, on the real clock."""
    target = (
        Target(pool, POOL_KIND, address={"pool": pool})
        if pool
        else Target(dag, DAG_KIND, address={"dag": dag})
    )
    typed = kind.spec.params.model_validate({**AT_ONCE, **params})
    return context_for(
        typed, target, clock=SystemClock(), seconds=seconds, key=key or f"attempt-{uuid.uuid4().hex}"
    )


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 40.0) -> None:
    """Wait for it: asked ten times a second at most, since every question takes CPU that Airflow needs itself."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.1)


class World:
    """Makes runs of the tests' DAGs and looks at them."""

    def __init__(self, api: AirflowApi, folder: Path) -> None:
        self.api, self.gates = api, folder / "gates"

    async def failed(self, dag: str) -> tuple[str, Path]:
        """Make a run whose first task has failed; the file heals it."""
        gate = self.gates / uuid.uuid4().hex
        run = await self.made(dag, {"gate": gate.name})
        await self.until_state(dag, run, "failed")
        return run, gate

    async def hanging(self, dag: str) -> tuple[str, Path]:
        """Make a run whose first task is running and does not end; the file ends it."""
        gate = self.gates / uuid.uuid4().hex
        run = await self.made(dag, {"hang": gate.name})

        async def hangs() -> bool:
            return any(one.state == "running" for one in await self.api.work(SOON, dag, run))

        await until(hangs)
        return run, gate

    async def made(self, dag: str, conf: dict[str, Any]) -> str:
        """Make a run."""
        run = f"test-{uuid.uuid4().hex}"
        await self.api.trigger(SOON, dag, run, conf, "")
        return run

    async def until_state(self, dag: str, run: str, state: str) -> None:
        """Wait until a run is in a state."""

        async def is_so() -> bool:
            return await self.state(dag, run) == state

        await until(is_so)

    async def state(self, dag: str, run: str) -> str:
        """The state of a run."""
        return (await self.api.run(SOON, dag, run)).state

    async def tries(self, dag: str, run: str) -> dict[str, int]:
        """How often each task of a run was tried."""
        return {one.name: one.tries for one in await self.api.work(SOON, dag, run)}

    async def states(self, dag: str, run: str) -> dict[str, str]:
        """The state of each task of a run."""
        return {one.name: one.state for one in await self.api.work(SOON, dag, run)}
