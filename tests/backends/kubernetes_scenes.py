"""What the tests of the kubernetes actions share: executors opened on the cluster, and attempts on a workload."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from backends.kubernetes_world import World
from oncall_agent.contract import ActionContext, Executor, SystemClock, SystemContext, Target
from oncall_agent.testing import RecordingLog, context_for

Open = Callable[..., Awaitable[Any]]
_keys = itertools.count(1)


def target(world: World, name: str = "web", kind: str = "Deployment", **more: Any) -> Target:
    """The workload as an operator would name it."""
    address = {"namespace": world.namespace, "kind": kind, "name": name}
    return Target(name, "kubernetes_workload", address=address, **more)


def node_target(name: str, **more: Any) -> Target:
    """A node as an operator would name it."""
    return Target(name, "kubernetes_node", address={"node": name}, **more)


def attempt_on(
    executor: type[Executor], on: Target, *, seconds: float = 40.0, key: str = "", **params: Any
) -> Any:
    """An attempt on a target, on the real clock."""
    if "stable_seconds" in executor.spec.params.model_fields:
        params.setdefault("stable_seconds", 0.5)
    parsed = executor.spec.params.model_validate(params)
    return context_for(
        parsed, on, clock=SystemClock(), seconds=seconds, key=key or f"key-{next(_keys)}-{id(params)}"
    )


def attempt(
    executor: type[Executor], world: World, *, name: str = "web", kind: str = "Deployment", **more: Any
) -> ActionContext:
    """An attempt on a workload of this namespace."""
    found: ActionContext = attempt_on(executor, target(world, name, kind), **more)
    return found


def fresh(ctx: ActionContext, **more: Any) -> ActionContext:
    """The same attempt, changed in something."""
    return replace(ctx, **more)


@pytest.fixture
async def opened(kubernetes_settings: dict[str, Any]) -> AsyncIterator[Open]:
    """Opens executors (or probers, systems) on the real cluster and closes them after the test."""
    found: list[Any] = []

    async def open_one(kind: type[Any], **settings: Any) -> Any:
        one = await kind({**kubernetes_settings, **settings}).__aenter__()
        found.append(one)
        return one

    yield open_one
    for one in found:
        await one.__aexit__(None, None, None)


@pytest.fixture
def kubernetes_settings(kubernetes_keys: Any) -> dict[str, Any]:
    """The settings of an administrator."""
    return {"kubeconfig": str(kubernetes_keys / "kubeconfig")}


def system_context(seconds: float = 60.0) -> SystemContext:
    """What an inspection or a drill is given, on the real clock."""
    clock = SystemClock()
    return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds)
