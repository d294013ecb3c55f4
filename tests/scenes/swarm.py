"""Services of a swarm that fall ill, attempts on them, and what a drill's whole life is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from backends.processes import wait_until
from backends.swarm_fixtures import running_tasks

from actions.docker_scripts import CRASH
from actions.swarm_state import judge, service_of, task_of
from oncall_agent.contract import ActionContext, Executor, SystemClock, SystemContext, Target
from oncall_agent.testing import RecordingLog, context_for
from oncall_agent.testing.harness import run_in_thread


def attempt(kind: type[Executor], name: str, *, seconds: float = 45.0, **params: Any) -> ActionContext:
    """One attempt on a service or node of that name."""
    given = {"stable_seconds": 0.5, **params}
    return context_for(
        kind.spec.params.model_validate(given),
        Target("shop", kind.spec.target_kind, address={"service": name, "node": name}),
        clock=SystemClock(),
        seconds=seconds,
        run_blocking=run_in_thread,
    )


def system_context(seconds: float = 60.0) -> SystemContext:
    """What an inspection or a drill is given."""
    clock = SystemClock()
    return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds, run_in_thread)


def change(api: Any, name: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a service as its owner would."""
    found = api.inspect_service(name)
    spec = copy.deepcopy(found["Spec"])
    edit(spec)
    answer = api._post_json(
        api._url("/services/{0}/update", found["ID"]),
        data=spec,
        params={"version": found["Version"]["Index"]},
    )
    api._raise_for_status(answer)


def crash(spec: dict[str, Any]) -> None:
    """A change after which every task crashes."""
    spec["TaskTemplate"]["ContainerSpec"]["Command"] = ["sh", "-c", CRASH]


def is_well(api: Any, name: str) -> bool:
    """Whether the service is as it should be."""
    tasks = api.tasks(filters={"service": name, "desired-state": "running"})
    return judge(service_of(api.inspect_service(name)), [task_of(one) for one in tasks]).ok


def until(is_true: Callable[[], bool]) -> None:
    """Wait for it."""
    assert wait_until(is_true, timeout_seconds=20)


def kill_one(api: Any, name: str) -> None:
    """Kill one task of a service on this engine, and wait until it is missing."""
    tasks = api.tasks(filters={"service": name, "desired-state": "running"})
    api.kill(tasks[0]["Status"]["ContainerStatus"]["ContainerID"], "SIGKILL")
    until(lambda: running_tasks(api, name) == len(tasks) - 1)
