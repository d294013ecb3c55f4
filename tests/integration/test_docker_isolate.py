"""Isolating a sick replica and pruning a full disk on real engines: fix, undo, every refusal, outages."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from actions.docker import RestartContainer, StartOrUnpause
from actions.docker_image import RecreateWithImage
from actions.docker_isolate import IsolateOrStop
from actions.docker_limits import UpdateLimits
from actions.docker_prune import Prune
from oncall_agent.contract import (
    ActionContext,
    Executor,
    PermanentError,
    Receipt,
    SystemClock,
    Target,
    TransientError,
)
from oncall_agent.testing import FaultyProxy, Upstream, check_outages, context_for
from oncall_agent.testing.harness import run_in_thread

pytestmark = [pytest.mark.slow]

Run = Callable[..., Container]
MIB = 1_048_576


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    executors: list[Any] = []

    async def open_one(kind: type[Any], host: str, **settings: Any) -> Any:
        executors.append(await kind({"host": host, **settings}).__aenter__())
        return executors[-1]

    yield open_one
    for executor in executors:
        await executor.__aexit__(None, None, None)


def attempt(kind: type[Executor], name: str, *, seconds: float = 45.0, **params: Any) -> ActionContext:
    return context_for(
        kind.spec.params.model_validate(params),
        Target("web", kind.spec.target_kind, address={"container": name}),
        clock=SystemClock(),
        seconds=seconds,
        run_blocking=run_in_thread,
    )


# --- isolate or stop -----------------------------------------------------------------------------------


@pytest.fixture
def network(docker_client: docker.DockerClient) -> Iterator[str]:
    made = docker_client.networks.create(f"oncall-test-{uuid.uuid4().hex[:12]}")
    yield made.name
    made.reload()
    for container in made.containers:
        made.disconnect(container, force=True)
    made.remove()


@pytest.fixture
def replicas(run_container: Run, docker_client: docker.DockerClient, network: str) -> list[Container]:
    """Two replicas of one service, the way compose labels and connects them."""
    labels = {"com.docker.compose.project": uuid.uuid4().hex, "com.docker.compose.service": "web"}
    two = [run_container(["sleep", "600"], init=True, labels=labels, network=network) for _ in range(2)]
    for one in two:
        docker_client.networks.get(network).disconnect(one)
        docker_client.networks.get(network).connect(one, aliases=["web"])
    return two


def aliases(container: Container, network: str) -> list[str] | None:
    container.reload()
    end = container.attrs["NetworkSettings"]["Networks"].get(network)
    return None if end is None else [alias for alias in end["Aliases"] if alias != container.short_id]


async def test_stopping_one_replica_leaves_the_other_and_rollback_starts_it(
    replicas, opened, docker_host: str
) -> None:
    executor = await opened(IsolateOrStop, docker_host)
    ctx = attempt(IsolateOrStop, replicas[0].name, stop_seconds=1, stable_seconds=0.3)
    check = await executor.precheck(ctx)
    assert (check.ok, check.facts["healthy_others"]) == (True, 1), check
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    replicas[0].reload()
    assert replicas[0].status == "exited"
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        replicas[0].reload()
        assert replicas[0].status == "running"


async def test_isolating_cuts_one_replica_off_and_rollback_connects_it_as_it_was(
    replicas, opened, docker_host: str, network: str
) -> None:
    executor = await opened(IsolateOrStop, docker_host)
    ctx = attempt(IsolateOrStop, replicas[0].name, network=network, stable_seconds=0.3)
    assert (await executor.precheck(ctx)).ok
    receipt = await executor.execute(ctx)
    assert aliases(replicas[0], network) is None
    assert (await executor.verify(ctx, receipt)).ok
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        assert aliases(replicas[0], network) == ["web"]


async def test_isolating_acts_once_also_in_another_process(replicas, opened, docker_host: str) -> None:
    ctx = attempt(IsolateOrStop, replicas[0].name, stop_seconds=1)
    first, second = await opened(IsolateOrStop, docker_host), await opened(IsolateOrStop, docker_host)
    await first.execute(ctx)
    replicas[0].reload()
    ended = replicas[0].attrs["State"]["FinishedAt"]
    await first.execute(ctx)
    assert (await second.execute(ctx)).facts["already"]
    replicas[0].reload()
    assert replicas[0].attrs["State"]["FinishedAt"] == ended


async def test_isolating_after_a_crash_is_undone_from_the_precheck_facts_alone(
    replicas, opened, docker_host: str, network: str
) -> None:
    first, second = await opened(IsolateOrStop, docker_host), await opened(IsolateOrStop, docker_host)
    ctx = attempt(IsolateOrStop, replicas[0].name, network=network, stable_seconds=0.1)
    facts = (await first.precheck(ctx)).facts
    await first.execute(ctx)
    receipt = Receipt("docker.isolate_or_stop", ctx.started_at, facts, partial=True)
    assert (await second.verify(ctx, receipt)).ok
    assert (await second.rollback(ctx, receipt)).ok
    assert aliases(replicas[0], network) == ["web"]


async def test_isolating_verify_fails_when_the_rest_of_the_service_falls_ill(
    replicas, opened, docker_host: str
) -> None:
    executor = await opened(IsolateOrStop, docker_host)
    ctx = attempt(IsolateOrStop, replicas[0].name, stop_seconds=1, stable_seconds=0.1)
    receipt = await executor.execute(ctx)
    await asyncio.to_thread(replicas[1].pause)
    verified = await executor.verify(replace(ctx, deadline_at=ctx.clock.monotonic() + 0.5), receipt)
    assert (verified.ok, verified.reason) == (
        False,
        "0 other replicas of its service are well, 1 are needed",
    )


async def test_a_dry_run_leaves_the_replica_alone(replicas, opened, docker_host: str) -> None:
    executor = await opened(IsolateOrStop, docker_host)
    ctx = attempt(IsolateOrStop, replicas[0].name)
    assert (await executor.execute(replace(ctx, dry_run=True))).planned
    replicas[0].reload()
    assert replicas[0].status == "running"


async def test_the_last_healthy_replica_is_refused_in_precheck_and_just_before_acting(
    replicas, opened, docker_host: str
) -> None:
    executor = await opened(IsolateOrStop, docker_host)
    ctx = attempt(IsolateOrStop, replicas[0].name)
    await asyncio.to_thread(replicas[1].pause)
    check = await executor.precheck(ctx)
    assert (check.ok, check.reason) == (False, "0 other replicas of its service are well, 1 are needed")
    with pytest.raises(PermanentError, match="0 other replicas"):
        await executor.execute(ctx)


@pytest.mark.parametrize(
    ("options", "params", "reason"),
    [
        ({}, {}, "no service label"),
        ({"labels": {"oncall-agent.protected": "true"}}, {}, "protected"),
        ({"labels": {"com.docker.swarm.task.id": "x"}}, {}, "swarm service"),
        ({"auto_remove": True}, {}, "removes itself"),
        ({}, {"network": "none-such"}, "not connected to none-such"),
    ],
    ids=["no service", "protected", "swarm", "auto remove", "other network"],
)
async def test_isolating_refuses(options, params, reason, run_container: Run, opened, docker_host) -> None:
    container = run_container(["sleep", "600"], init=True, **options)
    executor = await opened(IsolateOrStop, docker_host)
    check = await executor.precheck(attempt(IsolateOrStop, container.name, **params))
    assert not check.ok
    assert reason in check.reason


async def test_isolating_refuses_what_is_out_already(replicas, opened, docker_host: str) -> None:
    await asyncio.to_thread(replicas[0].stop, timeout=1)
    executor = await opened(IsolateOrStop, docker_host)
    check = await executor.precheck(attempt(IsolateOrStop, replicas[0].name))
    assert (check.ok, check.reason) == (False, "the container is exited already")
    check = await executor.precheck(attempt(IsolateOrStop, "no-such-container"))
    assert (check.ok, check.reason) == (False, "there is no container no-such-container")


FACTS = {"state_before": "running", "before": {"Memory": MIB}, "wanted": {"Memory": MIB}, "old_id": "x"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (IsolateOrStop, {}),
        (Prune, {}),
        (RestartContainer, {}),
        (StartOrUnpause, {}),
        (UpdateLimits, {"memory_factor": 1.5}),
        (RecreateWithImage, {"image": "oncall-test/base:2"}),
    ],
    ids=lambda value: value.spec.id if isinstance(value, type) else "",
)
async def test_outages_end_in_time_and_with_a_name(kind, params, run_container: Run, docker_host) -> None:
    container = run_container(["sleep", "600"], init=True)
    async with FaultyProxy(Upstream(path=docker_host.removeprefix("unix://"))) as proxy:
        settings = {"host": f"tcp://127.0.0.1:{proxy.port}", "timeout_seconds": 1}
        async with kind(settings) as executor:
            ended = await check_outages(
                executor,
                proxy,
                lambda seconds: attempt(kind, container.name, seconds=seconds, **params),
                receipt=Receipt(kind.spec.id, 0.0, FACTS),
            )
    assert len(ended) >= 20


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("500 Internal Server Error", TransientError),
        ("401 Unauthorized", PermanentError),
        ("200 OK", TransientError),
    ],
    ids=["failing engine", "not let in", "another product"],
)
async def test_what_is_no_working_engine_has_a_name(answer: str, error: type[Exception], opened) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    executor = await opened(IsolateOrStop, f"tcp://127.0.0.1:{port}")
    ctx = attempt(IsolateOrStop, "web")
    with pytest.raises(error):
        await executor.precheck(ctx)
    assert not (await executor.ping(ctx)).ok
    server.close()


# --- prune ---------------------------------------------------------------------------------------------


class Disk:
    """The small engine's disk, and what lies on it."""

    def __init__(self, api: docker.APIClient, image: str) -> None:
        self.api, self.image = api, image

    def container(self, mib: int, name: str, **more: Any) -> str:
        script = f"echo {name} > /name; dd if=/dev/zero of=/big bs=1M count={mib} 2>/dev/null"
        made = self.api.create_container(self.image, ["sh", "-c", script], name=name, **more)["Id"]
        self.api.start(made)
        self.api.wait(made)
        return made

    def unused_image(self, mib: int, name: str, tag: str = "1") -> str:
        made = self.container(mib, f"making-{name}")
        found = self.api.commit(made, name, tag)["Id"]
        self.api.remove_container(made)
        return found

    def clear(self) -> None:
        for one in self.api.containers(all=True):
            self.api.remove_container(one["Id"], force=True, v=True)
        for one in self.api.images(all=True):
            if self.image not in (one["RepoTags"] or []):
                self.api.remove_image(one["Id"], force=True)
        self.api.prune_builds()

    def names(self) -> set[str]:
        return {name[1:] for one in self.api.containers(all=True) for name in one["Names"]}

    def tags(self) -> set[str]:
        return {tag for one in self.api.images() for tag in one["RepoTags"]} - {self.image}


@pytest.fixture
def disk(small_docker: docker.APIClient, small_docker_image: str) -> Iterator[Disk]:
    found = Disk(small_docker, small_docker_image)
    found.clear()
    yield found
    found.clear()


def pruning(**params: Any) -> ActionContext:
    return attempt(Prune, "", **{"older_than_seconds": 0, "over": 0.3, "target": 0.25, **params})


YOUNG = {"min_prune_age_seconds": 0}


@pytest.mark.exclusive
async def test_prune_frees_the_disk_oldest_first_and_stops_at_its_target(
    disk: Disk, opened, small_docker_host: str
) -> None:
    await asyncio.to_thread(disk.container, 40, "old")
    await asyncio.to_thread(disk.container, 20, "young")
    executor = await opened(Prune, small_docker_host, **YOUNG)
    ctx = pruning()
    check = await executor.precheck(ctx)
    assert check.ok, check
    assert [line["name"] for line in check.facts["listing"]] == ["old"]
    receipt = await executor.execute(ctx)
    assert (receipt.facts["removed"], receipt.facts["skipped"]) == (1, [])
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    assert verified.facts["used"] < 0.25
    assert disk.names() == {"young"}


@pytest.mark.exclusive
async def test_prune_acts_once_per_key_also_in_another_process(
    disk: Disk, opened, small_docker_host: str
) -> None:
    for name in ("one", "two"):
        await asyncio.to_thread(disk.container, 35, name)
    first = await opened(Prune, small_docker_host, **YOUNG)
    second = await opened(Prune, small_docker_host, **YOUNG)
    ctx = pruning(max_bytes=36 * MIB, target=0.01)
    await first.execute(ctx)
    assert disk.names() == {"two"}
    await first.execute(ctx)
    assert (await second.execute(ctx)).facts["already"]
    assert disk.names() == {"two"}


@pytest.mark.exclusive
async def test_prune_spares_volumes_protected_things_and_what_is_in_use(
    disk: Disk, opened, small_docker_host: str
) -> None:
    api = disk.api
    volume = api.create_volume()["Name"]
    config = api.create_host_config(binds=[f"{volume}:/kept"])
    await asyncio.to_thread(disk.container, 10, "with-volume", host_config=config)
    await asyncio.to_thread(disk.container, 10, "protected", labels={"oncall-agent.protected": "true"})
    await asyncio.to_thread(disk.unused_image, 10, "in-use")
    api.create_container("in-use:1", ["true"], name="user-of-it", labels={"oncall-agent.protected": "true"})
    await asyncio.to_thread(disk.unused_image, 10, "nobody")
    await asyncio.to_thread(disk.container, 20, "free")
    executor = await opened(Prune, small_docker_host, **YOUNG)
    await executor.execute(pruning(images="unused", over=0.1, target=0.01))
    assert (disk.names(), disk.tags()) == ({"with-volume", "protected", "user-of-it"}, {"in-use:1"})
    assert api.inspect_volume(volume)["Name"] == volume
    await asyncio.to_thread(disk.clear)
    api.remove_volume(volume)


@pytest.mark.exclusive
async def test_prune_of_dangling_images_leaves_those_with_a_name(
    disk: Disk, opened, small_docker_host: str
) -> None:
    nameless = await asyncio.to_thread(disk.unused_image, 30, "again")
    await asyncio.to_thread(disk.unused_image, 20, "again")  # takes the name away from the first
    executor = await opened(Prune, small_docker_host, **YOUNG)
    await executor.execute(pruning(over=0.1, target=0.01))
    assert disk.tags() == {"again:1"}
    with pytest.raises(docker.errors.ImageNotFound):
        disk.api.inspect_image(nameless)


@pytest.mark.exclusive
async def test_prune_frees_build_cache(disk: Disk, opened, small_docker_host: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {disk.image}\nRUN echo {uuid.uuid4().hex} > /x; dd if=/dev/zero of=/b bs=1M count=40\n"
    )
    program = shutil.which("docker", path="/usr/bin") or "docker"
    subprocess.run(
        [program, "-H", small_docker_host, "build", "-q", "-t", "built:1", str(tmp_path)],
        env={"DOCKER_BUILDKIT": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    await asyncio.to_thread(disk.api.remove_image, "built:1")
    assert sum(one["Size"] for one in disk.api.df()["BuildCache"]) > 40 * MIB
    executor = await opened(Prune, small_docker_host, **YOUNG)
    ctx = pruning(images="none", containers=False, over=0.1, target=0.15)
    assert (await executor.precheck(ctx)).ok
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    assert sum(one["Size"] for one in disk.api.df()["BuildCache"] or []) < MIB


@pytest.mark.exclusive
async def test_prune_refuses(disk: Disk, opened, small_docker_host: str) -> None:
    await asyncio.to_thread(disk.container, 40, "old")
    young, grown = await opened(Prune, small_docker_host, **YOUNG), await opened(Prune, small_docker_host)
    elsewhere = await opened(Prune, small_docker_host, **YOUNG, data_root="/nonexistent")
    cases = [
        (young, {"over": 0.9}, "full, not 90%"),
        (young, {"older_than_seconds": 3600, "over": 0.1}, "nothing may be removed"),
        (grown, {"over": 0.1}, "nothing may be removed"),
        (young, {"over": 0.1, "target": 0.001}, "not enough for the target"),
        (young, {"over": 0.1, "max_bytes": 1}, "nothing may be removed"),
        (elsewhere, {"over": 0.1}, "set data_root"),
    ]
    found = [(await executor.precheck(pruning(**params))).reason for executor, params, _ in cases]
    assert all(reason in said for said, (_, _, reason) in zip(found, cases, strict=True)), found
    assert disk.names() == {"old"}


@pytest.mark.exclusive
async def test_prune_dry_run_lists_and_verify_fails_while_the_disk_is_full(
    disk: Disk, opened, small_docker_host: str
) -> None:
    await asyncio.to_thread(disk.container, 60, "old")
    executor = await opened(Prune, small_docker_host, **YOUNG)
    ctx = pruning()
    receipt = await executor.execute(replace(ctx, dry_run=True))
    assert (receipt.planned, [line["name"] for line in receipt.facts["listing"]]) == (True, ["old"])
    soon = replace(ctx, deadline_at=ctx.clock.monotonic() + 0.3)
    assert "the disk is still" in (await executor.verify(soon, receipt)).reason
    assert (await executor.diagnose(ctx))["containers"] == 1
    assert disk.names() == {"old"}
