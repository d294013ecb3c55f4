"""The docker actions against a real engine: real faults, the fix proven, taken back, and every refusal."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from docker.models.containers import Container

from actions.docker import DockerProber, RestartContainer, StartOrUnpause
from actions.docker_image import ATTEMPT_LABEL, RecreateWithImage, names_for
from actions.docker_limits import UpdateLimits
from oncall_agent.contract import (
    ActionContext,
    Executor,
    PermanentError,
    Receipt,
    SystemClock,
    Target,
    TransientError,
)
from oncall_agent.testing import context_for
from oncall_agent.testing.harness import run_in_thread

pytestmark = [pytest.mark.backend("docker"), pytest.mark.slow]

SECOND = 1_000_000_000
SERVER = ["python3", "-m", "http.server", "8000", "--bind", "127.0.0.1"]
HEALTH = {
    "test": ["CMD", "curl", "-fsS", "-m", "1", "http://127.0.0.1:8000/"],
    "interval": SECOND,
    "timeout": 2 * SECOND,
    "retries": 2,
}
MIB = 1_048_576
HOG = [
    "python3",
    "-c",
    "import sys,time; keep = b'x' * ({} * 2**20); print(len(keep), flush=True); time.sleep(600)",
]

Run = Callable[..., Container]


@pytest.fixture
async def opened(docker_host: str) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Opens executors on the real engine and closes them after the test."""
    executors: list[Any] = []

    async def open_one(kind: type[Any], **settings: Any) -> Any:
        executor = await kind({"host": docker_host, **settings}).__aenter__()
        executors.append(executor)
        return executor

    yield open_one
    for executor in executors:
        await executor.__aexit__(None, None, None)


def attempt(
    kind: type[Executor], container: Container | str, *, seconds: float = 45.0, key: str = "", **params: Any
) -> ActionContext:
    name = container if isinstance(container, str) else container.name
    return context_for(
        kind.spec.params.model_validate(params),
        Target("shop", "docker_container", address={"container": name}),
        clock=SystemClock(),
        seconds=seconds,
        key=key,
        run_blocking=run_in_thread,
    )


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


def state(container: Container) -> dict[str, Any]:
    container.reload()
    return container.attrs["State"]


def is_health(container: Container, word: str) -> Callable[[], bool]:
    return lambda: state(container).get("Health", {}).get("Status") == word


def hung_server(run_container: Run) -> Container:
    return run_container(SERVER, init=True, healthcheck=HEALTH)


async def make_hang(container: Container) -> None:
    """Stop the server process inside, as a deadlock would: it holds its port and answers nobody."""
    await until(is_health(container, "healthy"))
    server = next(
        int(line[1])
        for line in container.top()["Processes"]
        if "http.server" in line[-1] and "init" not in line[-1]
    )
    os.kill(server, signal.SIGSTOP)
    await until(is_health(container, "unhealthy"))


# --- restart -----------------------------------------------------------------------------------------------


async def test_restart_heals_a_hung_container_and_proves_it(run_container: Run, opened) -> None:
    container = hung_server(run_container)
    await make_hang(container)
    executor = await opened(RestartContainer)
    ctx = attempt(RestartContainer, container, stop_seconds=1)
    check = await executor.precheck(ctx)
    assert check.ok, check
    assert check.facts["health"] == "unhealthy"
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    assert state(container)["Health"]["Status"] == "healthy"


async def test_restart_verify_fails_while_the_container_hangs(run_container: Run, opened) -> None:
    container = hung_server(run_container)
    executor = await opened(RestartContainer)
    ctx = attempt(RestartContainer, container, stop_seconds=1)
    await until(is_health(container, "healthy"))
    receipt = await executor.execute(ctx)
    await make_hang(container)
    verified = await executor.verify(attempt(RestartContainer, container, seconds=1.0), receipt)
    assert not verified.ok
    assert "unhealthy" in verified.reason


async def test_restart_acts_once_per_key_also_in_another_process(run_container: Run, opened) -> None:
    container = run_container(["sleep", "600"], init=True)
    ctx = attempt(RestartContainer, container, stop_seconds=1, stable_seconds=0.5)
    first, second = await opened(RestartContainer), await opened(RestartContainer)
    receipt = await first.execute(ctx)
    started = state(container)["StartedAt"]
    assert receipt.facts["started_before"] != started
    await first.execute(ctx)
    replayed = await second.execute(ctx)
    assert state(container)["StartedAt"] == started
    assert (await second.verify(ctx, replayed)).ok


async def test_restart_after_a_crash_is_seen_from_the_precheck_facts_alone(
    run_container: Run, opened
) -> None:
    container = run_container(["sleep", "600"], init=True)
    executor = await opened(RestartContainer)
    ctx = attempt(RestartContainer, container, stop_seconds=1, stable_seconds=0.2, seconds=3.0)
    facts = (await executor.precheck(ctx)).facts
    await executor.execute(attempt(RestartContainer, container, stop_seconds=1))
    receipt = Receipt("docker.restart_container", ctx.started_at, facts, partial=True)
    assert (await executor.verify(ctx, receipt)).ok


async def test_restart_is_not_seen_when_it_never_took_place(run_container: Run, opened) -> None:
    container = run_container(["sleep", "600"], init=True)
    executor = await opened(RestartContainer)
    ctx = attempt(RestartContainer, container, stable_seconds=0.1, seconds=1.0)
    receipt = await executor.execute(_dry(ctx))
    assert receipt.planned
    verified = await executor.verify(ctx, receipt)
    assert (verified.ok, verified.reason) == (False, "the container was not started anew")


def _dry(ctx: ActionContext) -> ActionContext:
    return replace(ctx, dry_run=True)


async def test_restart_does_not_heal_a_crash_loop(run_container: Run, opened) -> None:
    container = run_container(
        ["sh", "-c", "sleep 0.3; exit 3"], restart_policy={"Name": "on-failure", "MaximumRetryCount": 50}
    )
    await until(lambda: state(container) and container.attrs["RestartCount"] >= 2)
    executor = await opened(RestartContainer)
    ctx = attempt(RestartContainer, container, seconds=6.0, stable_seconds=3.0, stop_seconds=1)
    verified = await executor.verify(ctx, await executor.execute(ctx))
    assert not verified.ok


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"oncall-agent.protected": "true"}, "protected"),
        ({"com.docker.swarm.task.id": "x"}, "swarm"),
    ],
    ids=["protected", "swarm"],
)
@pytest.mark.parametrize(
    "kind",
    [RestartContainer, StartOrUnpause, UpdateLimits, RecreateWithImage],
    ids=lambda kind: kind.__name__,
)
async def test_precheck_refuses_by_label(kind, labels, reason, run_container: Run, opened) -> None:
    container = run_container(["sleep", "600"], init=True, labels=labels)
    params = {UpdateLimits: {"memory_factor": 1.2}, RecreateWithImage: {"image": "oncall-test/base:2"}}.get(
        kind, {}
    )
    check = await (await opened(kind)).precheck(attempt(kind, container, **params))
    assert not check.ok
    assert reason in check.reason


async def test_precheck_refuses_a_container_that_is_not_there(opened) -> None:
    check = await (await opened(RestartContainer)).precheck(attempt(RestartContainer, "no-such-container"))
    assert (check.ok, check.reason) == (False, "there is no container no-such-container")


async def test_precheck_refuses_a_container_that_was_restarted_too_often(run_container: Run, opened) -> None:
    container = run_container(["sleep", "600"], init=True)
    executor = await opened(RestartContainer, max_restarts_per_hour=2)
    for _ in range(2):
        await asyncio.to_thread(container.restart, timeout=0)
    check = await executor.precheck(attempt(RestartContainer, container))
    assert not check.ok
    assert "times within an hour" in check.reason


async def test_execute_on_a_vanished_container_is_permanent(opened) -> None:
    with pytest.raises(PermanentError):
        await (await opened(RestartContainer)).execute(attempt(RestartContainer, "no-such-container"))


@pytest.fixture
def absent_engine() -> Iterator[str]:
    """Nobody listens there; the client library leaves the socket of a failed connect to the collector."""
    yield "unix:///nonexistent/docker.sock"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def test_an_absent_engine_is_transient_and_ping_says_so(absent_engine: str) -> None:
    ctx = attempt(RestartContainer, "any")
    async with RestartContainer({"host": absent_engine}) as executor:
        assert not (await executor.ping(ctx)).ok
        with pytest.raises(TransientError):
            await executor.precheck(ctx)


async def test_diagnose_keeps_log_and_processes(run_container: Run, opened) -> None:
    container = run_container(["sh", "-c", "echo started; sleep 600"], environment={"PASSWORD": "hunter2"})
    found = await (await opened(RestartContainer)).diagnose(attempt(RestartContainer, container))
    assert "started" in found["log"]
    assert found["processes"]
    assert "hunter2" not in str(found)


# --- start or unpause --------------------------------------------------------------------------------------


async def test_start_brings_a_crashed_container_back_and_rollback_stops_it(
    run_container: Run, opened
) -> None:
    container = run_container(
        ["sh", "-c", "test -e /tmp/second || { touch /tmp/second; exit 3; }; sleep 600"], init=True
    )
    await until(lambda: state(container)["Status"] == "exited")
    executor = await opened(StartOrUnpause)
    ctx = attempt(StartOrUnpause, container, stable_seconds=0.5)
    check = await executor.precheck(ctx)
    assert (check.ok, check.facts["exit_code"], check.facts["oom_killed"]) == (True, 3, False)
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        assert state(container)["Status"] == "exited"


async def test_unpause_brings_a_paused_container_back_and_rollback_pauses_it(
    run_container: Run, opened
) -> None:
    container = run_container(["sleep", "600"], init=True)
    await asyncio.to_thread(container.pause)
    executor = await opened(StartOrUnpause)
    ctx = attempt(StartOrUnpause, container, stable_seconds=0.2)
    assert (await executor.precheck(ctx)).ok
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        assert state(container)["Status"] == "paused"


async def test_start_refuses_a_running_container(run_container: Run, opened) -> None:
    container = run_container(["sleep", "600"], init=True)
    check = await (await opened(StartOrUnpause)).precheck(attempt(StartOrUnpause, container))
    assert (check.ok, check.reason) == (False, "the container is running, not exited or paused")


async def test_start_verify_fails_when_it_exits_again(run_container: Run, opened) -> None:
    container = run_container(["sh", "-c", "exit 3"])
    await until(lambda: state(container)["Status"] == "exited")
    executor = await opened(StartOrUnpause)
    ctx = attempt(StartOrUnpause, container, seconds=2.0, stable_seconds=0.5)
    verified = await executor.verify(ctx, await executor.execute(ctx))
    assert not verified.ok
    assert "exit code 3" in verified.reason


# --- limits ------------------------------------------------------------------------------------------------


def limits(container: Container) -> tuple[int, int]:
    container.reload()
    return container.attrs["HostConfig"]["Memory"], container.attrs["HostConfig"]["MemorySwap"]


def memory_hog(run_container: Run, hog_mib: int) -> Container:
    command = [*HOG[:2], HOG[2].format(hog_mib)]
    return run_container(command, mem_limit=f"{64 * MIB}", memswap_limit=64 * MIB)


async def test_update_limits_heals_a_container_that_ran_out_of_memory(run_container: Run, opened) -> None:
    container = memory_hog(run_container, 70)
    await until(lambda: state(container)["Status"] == "exited")
    assert state(container)["OOMKilled"]
    executor = await opened(UpdateLimits)
    ctx = attempt(UpdateLimits, container, memory_factor=1.5, stable_seconds=1.0)
    check = await executor.precheck(ctx)
    assert check.ok, check
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    assert limits(container) == (96 * MIB, 96 * MIB)
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        assert limits(container) == (64 * MIB, 64 * MIB)
        assert state(container)["Status"] == "exited"


async def test_update_limits_verify_fails_when_memory_is_still_short(run_container: Run, opened) -> None:
    container = memory_hog(run_container, 200)
    await until(lambda: state(container)["Status"] == "exited")
    executor = await opened(UpdateLimits)
    ctx = attempt(UpdateLimits, container, memory_factor=1.5, seconds=4.0, stable_seconds=1.0)
    verified = await executor.verify(ctx, await executor.execute(ctx))
    assert not verified.ok


async def test_update_limits_by_factor_does_not_add_up_in_another_process(run_container: Run, opened) -> None:
    container = run_container(["sleep", "600"], init=True, mem_limit=64 * MIB, memswap_limit=64 * MIB)
    ctx = attempt(
        UpdateLimits, container, memory_factor=1.25, restart_policy="unless-stopped", stable_seconds=0.1
    )
    first, second = await opened(UpdateLimits), await opened(UpdateLimits)
    await first.execute(ctx)
    replayed = await second.execute(ctx)
    assert limits(container) == (80 * MIB, 80 * MIB)
    assert replayed.facts["before"]["Memory"] == 64 * MIB
    assert (await second.verify(ctx, replayed)).ok


async def test_update_limits_raises_cpus_and_takes_it_back(run_container: Run, opened) -> None:
    container = run_container(["sleep", "600"], init=True, nano_cpus=400_000_000)
    executor = await opened(UpdateLimits)
    ctx = attempt(UpdateLimits, container, cpus=0.5, stable_seconds=0.1)
    assert (await executor.precheck(ctx)).ok
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    container.reload()
    assert container.attrs["HostConfig"]["NanoCpus"] == 500_000_000
    assert (await executor.rollback(ctx, receipt)).ok
    container.reload()
    assert container.attrs["HostConfig"]["NanoCpus"] == 400_000_000


@pytest.mark.parametrize(
    ("options", "params", "settings", "reason"),
    [
        ({}, {"memory_factor": 1.2}, {}, "no memory limit"),
        ({"mem_limit": 64 * MIB}, {"memory_bytes": 128 * MIB}, {}, "beyond half as much again"),
        ({"mem_limit": 64 * MIB}, {"memory_factor": 1.5}, {"max_memory_bytes": 80 * MIB}, "or the cap"),
        (
            {"mem_limit": 64 * MIB},
            {"memory_factor": 1.5},
            {"memory_reserve": 0.9999},
            "the host has room for",
        ),
        ({}, {"cpus": 1.0}, {}, "not limited in CPUs"),
        ({"nano_cpus": 200_000_000}, {"cpus": 0.5}, {}, "that many CPUs"),
    ],
    ids=["unlimited", "too much", "cap", "no headroom", "cpu unlimited", "too many cpus"],
)
async def test_update_limits_refuses(
    *, options, params, settings, reason, run_container: Run, opened
) -> None:
    container = run_container(["sleep", "600"], init=True, **options)
    check = await (await opened(UpdateLimits, **settings)).precheck(
        attempt(UpdateLimits, container, **params)
    )
    assert not check.ok
    assert reason in check.reason


# --- another image -----------------------------------------------------------------------------------------


@pytest.fixture
def shop(run_container: Run, docker_client):
    """A healthy server that was configured in every way that has to survive."""
    container = run_container(
        SERVER,
        init=True,
        healthcheck=HEALTH,
        environment={"MODE": "live"},
        labels={"team": "shop"},
        mem_limit=128 * MIB,
        restart_policy={"Name": "always"},
        ports={"8000/tcp": ("127.0.0.1", 0)},
    )
    yield container
    for one in docker_client.containers.list(all=True, filters={"name": container.name}):
        one.remove(force=True)


async def test_recreate_runs_the_other_image_and_rollback_brings_the_old_one_back(
    shop: Container, opened, docker_client, docker_image_2: str
) -> None:
    executor = await opened(RecreateWithImage)
    ctx = attempt(RecreateWithImage, shop, image=docker_image_2, stop_seconds=1)
    check = await executor.precheck(ctx)
    assert check.ok, check
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    new = docker_client.containers.get(shop.name)
    wanted = docker_client.images.get(docker_image_2).id
    assert new.image.id == wanted
    assert (new.id != shop.id, new.labels["team"], new.labels[ATTEMPT_LABEL]) == (
        True,
        "shop",
        ctx.idempotency_key,
    )
    assert "MODE=live" in new.attrs["Config"]["Env"]
    assert new.attrs["HostConfig"]["Memory"] == 128 * MIB
    assert new.attrs["HostConfig"]["PortBindings"] == shop.attrs["HostConfig"]["PortBindings"]
    backup = docker_client.containers.get(receipt.facts["backup"])
    assert (backup.id, backup.status, backup.attrs["HostConfig"]["RestartPolicy"]["Name"]) == (
        shop.id,
        "exited",
        "no",
    )
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
        old = docker_client.containers.get(shop.name)
        assert (old.id, old.status, old.attrs["HostConfig"]["RestartPolicy"]["Name"]) == (
            shop.id,
            "running",
            "always",
        )
    assert [old.name] == [
        one.name for one in docker_client.containers.list(all=True, filters={"name": shop.name})
    ]


class _CutError(RuntimeError):
    pass


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("then", ["carry on", "take back"])
async def test_recreate_recovers_from_a_crash_between_any_two_steps(
    *,
    steps: int,
    then: str,
    shop: Container,
    opened,
    docker_client,
    docker_image_2: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off before the create, after the create, the stop, the first and the second rename."""
    ctx = attempt(RecreateWithImage, shop, image=docker_image_2, stop_seconds=1)
    crashing, after = await opened(RecreateWithImage), await opened(RecreateWithImage)
    done = 0

    def crash(method: str) -> None:
        api = type(docker_client.api)
        real = getattr(api, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done == steps:
                raise _CutError
            done += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(api, method, counted)

    for method in ("create_container_from_config", "stop", "rename", "start"):
        crash(method)
    with pytest.raises(_CutError):
        await crashing.execute(ctx)
    monkeypatch.undo()
    receipt = Receipt("docker.recreate_with_image", 0.0, {}, partial=True)
    if then == "carry on":
        await after.execute(ctx)
        assert (await after.verify(ctx, receipt)).ok
        expected = {shop.name, names_for(shop.name, ctx.idempotency_key).backup}
    else:
        assert (await after.rollback(ctx, receipt)).ok
        assert docker_client.containers.get(shop.name).id == shop.id
        expected = {shop.name}
    assert {
        one.name for one in docker_client.containers.list(all=True, filters={"name": shop.name})
    } == expected
    assert docker_client.containers.get(shop.name).status == "running"


async def test_recreate_verify_fails_when_the_new_one_is_sick(
    run_container: Run, opened, docker_client, docker_image_2: str
) -> None:
    container = run_container(["sh", "-c", "test -e /tmp/fine || exit 4; sleep 600"], name="oncall-test-sick")
    executor = await opened(RecreateWithImage)
    ctx = attempt(RecreateWithImage, container, image=docker_image_2, seconds=8.0, stable_seconds=0.5)
    receipt = await executor.execute(ctx)
    try:
        verified = await executor.verify(
            attempt(RecreateWithImage, container, image=docker_image_2, seconds=1.5, key=ctx.idempotency_key),
            receipt,
        )
        assert not verified.ok
        assert "exit code 4" in verified.reason
        assert (await executor.rollback(ctx, receipt)).ok
    finally:
        for one in docker_client.containers.list(all=True, filters={"name": container.name}):
            one.remove(force=True)


async def test_recreate_keeps_one_backup_only(
    shop: Container, opened, docker_client, docker_image: str, docker_image_2: str
) -> None:
    executor = await opened(RecreateWithImage)
    for image in (docker_image_2, docker_image):
        ctx = attempt(RecreateWithImage, shop, image=image, stop_seconds=1)
        await executor.execute(ctx)
    names = {one.name for one in docker_client.containers.list(all=True, filters={"name": shop.name})}
    assert names == {shop.name, names_for(shop.name, ctx.idempotency_key).backup}


@pytest.mark.parametrize(
    ("options", "image", "reason"),
    [
        ({}, "oncall-test/base:1", "runs this image already"),
        ({}, "oncall-test/none:9", "not on the host"),
        ({"volumes": ["/data"]}, "oncall-test/base:2", "anonymous volumes"),
        ({"auto_remove": True}, "oncall-test/base:2", "removes itself"),
    ],
    ids=["same image", "absent image", "anonymous volume", "auto remove"],
)
async def test_recreate_refuses(options, image, reason, run_container: Run, opened) -> None:
    container = run_container(["sleep", "600"], init=True, **options)
    check = await (await opened(RecreateWithImage)).precheck(
        attempt(RecreateWithImage, container, image=image)
    )
    assert not check.ok
    assert reason in check.reason


# --- the prober --------------------------------------------------------------------------------------------


async def read(
    prober: DockerProber, container: Container | str, *, stats: bool = False, seconds: float = 10.0
):
    name = container if isinstance(container, str) else container.name
    return await prober.read(
        Target("shop", "docker_container", address={"container": name}),
        prober.params(stats=stats),
        timeout_seconds=seconds,
        clock=SystemClock(),
        run_blocking=run_in_thread,
    )


async def test_prober_reads_cpu_and_memory_of_a_busy_container(run_container: Run, opened) -> None:
    script = "keep = b'x' * (40 * 2**20)\nwhile True: pass"
    container = run_container(["python3", "-c", script], mem_limit=100 * MIB, nano_cpus=300_000_000)
    prober = await opened(DockerProber)
    await read(prober, container, stats=True)
    reading = await read(prober, container, stats=True)
    assert reading.signals.up
    assert 0.3 < reading.signals.memory < 0.8
    assert 0.05 < reading.signals.cpu < 0.5


async def test_prober_calls_a_hung_container_down(run_container: Run, opened) -> None:
    container = hung_server(run_container)
    prober = await opened(DockerProber)
    await until(is_health(container, "healthy"))
    assert (await read(prober, container)).signals.up is True
    await make_hang(container)
    reading = await read(prober, container)
    assert (reading.signals.up, reading.facts["health"]) == (False, "unhealthy")


async def test_prober_calls_a_crash_loop_down_whenever_it_looks(run_container: Run, opened) -> None:
    container = run_container(["sh", "-c", "sleep 0.4; exit 3"], restart_policy={"Name": "always"})
    prober = await opened(DockerProber)
    await until(lambda: state(container) and container.attrs["RestartCount"] >= 1)
    readings = [await read(prober, container) for _ in range(20)]
    assert {reading.signals.up for reading in readings} == {False}


async def test_prober_calls_an_absent_container_down_and_an_absent_engine_blind(
    opened, absent_engine: str
) -> None:
    prober = await opened(DockerProber)
    assert (await read(prober, "no-such-container")).signals.up is False
    with pytest.raises(TransientError):
        await read(DockerProber({"host": absent_engine}), "any")
