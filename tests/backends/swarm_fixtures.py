"""Fixtures on the swarm: services and further nodes of a test, removed after it."""

import contextlib
import itertools
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest

from backends.processes import wait_until
from backends.swarm_node import PORT, Island, NodeEngine

SECOND = 1_000_000_000
_numbers = itertools.count(10 + 40 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))


@pytest.fixture(scope="session")
def swarm_host() -> str:
    """A manager of the swarm of this run."""
    return os.environ["ONCALL_TEST_SWARM_HOST"]


@pytest.fixture(scope="session")
def swarm_image(swarm_host: str) -> str:
    """An image with a busybox, by digest, in the registry of the swarm."""
    return os.environ["ONCALL_TEST_SWARM_IMAGE"]


@pytest.fixture(scope="session")
def swarm_image_2(swarm_host: str) -> str:
    """The same under another digest."""
    return os.environ["ONCALL_TEST_SWARM_IMAGE_2"]


@pytest.fixture(scope="session")
def swarm_api(swarm_host: str) -> Iterator[docker.APIClient]:
    """A client of the manager."""
    client = docker.APIClient(base_url=swarm_host, version="auto", timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def swarm_worker_host(swarm_host: str) -> str:
    """The worker's engine, which knows its own containers only."""
    return os.environ["ONCALL_TEST_SWARM_WORKER_HOST"]


@pytest.fixture
async def open_on_swarm(swarm_host: str) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Opens executors on the manager and closes them after the test."""
    executors: list[Any] = []

    async def open_one(kind: type[Any], **settings: Any) -> Any:
        executors.append(await kind({"host": swarm_host, **settings}).__aenter__())
        return executors[-1]

    yield open_one
    for executor in executors:
        await executor.__aexit__(None, None, None)


@pytest.fixture
def run_service(swarm_api: Any, swarm_image: str) -> Iterator[Callable[..., str]]:
    """Makes services and removes them after the test; gives the name once the tasks run.

    They stay on the first manager, so that tests which take other nodes away do not disturb them.
    """
    made: list[str] = []
    home = f"node.id=={swarm_api.info()['Swarm']['NodeID']}"

    def run(
        command: str = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done",
        *,
        replicas: int = 2,
        running: int | None = None,
        labels: dict[str, str] | None = None,
        constraints: tuple[str, ...] = (home,),
        **more: Any,
    ) -> str:
        name = f"oncall-test-{uuid.uuid4().hex[:12]}"
        body = service_body(name, swarm_image, command, replicas, constraints, more)
        body["Labels"] = labels or {}
        answer = swarm_api._post_json(swarm_api._url("/services/create"), data=body)
        swarm_api._raise_for_status(answer)
        made.append(name)
        expected = replicas if running is None else running
        assert wait_until(lambda: running_tasks(swarm_api, name) == expected, timeout_seconds=20)
        return name

    yield run
    for name in made:
        with contextlib.suppress(docker.errors.NotFound):
            swarm_api.remove_service(name)


def service_body(
    name: str, image: str, command: str, replicas: int, constraints: tuple[str, ...], more: dict[str, Any]
) -> dict[str, Any]:
    """The body of create, with quick updates; `more` replaces parts of the task's template and the rest."""
    container = {"Image": image, "Command": ["sh", "-c", command], "StopGracePeriod": SECOND // 2}
    template = {
        "ContainerSpec": {**container, **more.get("container", {})},
        "RestartPolicy": {"Condition": "any", "Delay": 0, **more.get("restart", {})},
        "Placement": {"Constraints": list(constraints), **more.get("placement", {})},
        "Resources": more.get("resources", {}),
    }
    quick = {"Parallelism": 0, "Monitor": SECOND // 2, "FailureAction": "pause", "Order": "stop-first"}
    return {
        "Name": name,
        "TaskTemplate": template,
        "Mode": more.get("mode", {"Replicated": {"Replicas": replicas}}),
        "UpdateConfig": {**quick, **more.get("update", {})},
        "RollbackConfig": quick,
    }


def running_tasks(api: Any, name: str) -> int:
    """How many tasks of the service run."""
    found = api.tasks(filters={"service": name, "desired-state": "running"})
    return sum(task["Status"]["State"] == "running" for task in found)


@pytest.fixture
def join_node(swarm_api: Any) -> Iterator[Callable[..., NodeEngine]]:
    """Starts further nodes and joins them; they leave the swarm after the test."""
    island = Island(os.environ["ONCALL_TEST_SWARM_BRIDGE"], os.environ["ONCALL_TEST_SWARM_NETWORK"])
    joined: list[tuple[str, NodeEngine]] = []

    def join(*, role: str = "Worker") -> NodeEngine:
        # The path of a socket may not be long.
        folder = Path(tempfile.mkdtemp(prefix="oncall-node-"))
        node = NodeEngine(folder, island, next(_numbers))
        joined.append(("", node))
        place = len(joined) - 1
        node.start()
        token = swarm_api.inspect_swarm()["JoinTokens"][role]
        node.engine.swarm_join(f"{node.address}:{PORT}", f"{island.address(1)}:{PORT}", token)
        joined[place] = (node.engine.node_id(), node)
        return node

    yield join
    for name, _ in joined:
        leave(swarm_api, name)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: one[1].stop(), joined))
    for name, _ in joined:
        forget(swarm_api, name)


def leave(api: Any, node: str) -> None:
    """Make a manager a worker, while it still has a say: without it there might be no majority."""
    with contextlib.suppress(docker.errors.NotFound, docker.errors.NullResource):
        found = api.inspect_node(node)
        if found["Spec"]["Role"] == "manager":
            api.update_node(node, found["Version"]["Index"], {**found["Spec"], "Role": "worker"})
            assert wait_until(lambda: not api.inspect_node(node).get("ManagerStatus"), timeout_seconds=10)


def forget(api: Any, node: str) -> None:
    """Take a node that is gone out of the swarm's list."""
    with contextlib.suppress(docker.errors.NotFound, docker.errors.NullResource):
        api.remove_node(node, force=True)
