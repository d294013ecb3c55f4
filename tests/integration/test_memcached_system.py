"""Memcached as a system: outages, wrong servers and passwords, restarts by Docker, inspection, drills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from backends.memcached_server import answers_version
from backends.processes import free_port, wait_until
from docker.models.containers import Container
from scenes.memcached import PASSWORD, VARIABLE, World, pool, system_context

from actions.memcached_drill_restart import HungNode
from actions.memcached_drills import DRILLS
from actions.memcached_flush import FlushAll
from actions.memcached_keys import DeleteKeys
from actions.memcached_restart import RestartNode
from actions.memcached_server import LruCrawler, SetCacheMemlimit, SlabsAutomove
from actions.memcached_system import MemcachedSystem
from oncall_agent.contract import ActionContext, Drill, Executor, PermanentError, Receipt, TransientError
from oncall_agent.testing import Fault, FaultyProxy, Upstream, check_outages
from oncall_agent.validation.drilling import carry_out
from oncall_agent.validation.results import Verdict

QUICK = {"sample_seconds": 0.05, "hold_seconds": 0.0}
PARAMS: dict[type[Executor], dict[str, Any]] = {
    DeleteKeys: {"keys": ["price"]},
    FlushAll: {"min_gets": 0, "window_seconds": 0.05},
    LruCrawler: QUICK,
    RestartNode: {"hold_seconds": 0.0, "min_uptime_seconds": 0},
    SetCacheMemlimit: {"megabytes": 16, **QUICK},
    SlabsAutomove: {"mode": 2, **QUICK},
}
EXECUTORS = {kind.spec.id: kind for kind in PARAMS}


@pytest.fixture
async def world(start_memcached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv(VARIABLE, PASSWORD)
    async with pool(start_memcached, tmp_path) as made:
        yield made


# --- outages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PARAMS, ids=lambda kind: kind.spec.id)
async def test_every_method_bears_the_loss_of_the_pool(kind: type[Executor], world: World) -> None:
    class Both(FaultyProxy):
        async def become(self, fault: Fault) -> None:
            await world.become(fault)

    def context(seconds: float) -> ActionContext:
        return world.attempt(kind, seconds=seconds, **PARAMS[kind])

    world.node["unit"] = "memcached.service"
    receipt = Receipt(kind.spec.id, 0.0, {"before": 8, "at": 0.0, "flushes": 0, "digests": []})
    async with kind(world.settings) as executor:
        ended = await check_outages(
            executor, Both(Upstream()), context, receipt=receipt, deadline_seconds=0.4, secret=PASSWORD
        )
    assert {one.how for one in ended if one.method == "execute" and one.fault is Fault.BLACK_HOLE} <= {
        f"TransientError: memcached shop/{node} does not answer in time" for node in "ab"
    }


@pytest.mark.parametrize("kind", PARAMS, ids=lambda kind: kind.spec.id)
async def test_a_slow_node_is_waited_for(kind: type[Executor], world: World) -> None:
    await world.become(Fault.SLOW)
    async with kind(world.settings) as executor:
        assert (await executor.ping(world.attempt(kind, **PARAMS[kind]))).ok
        assert (await executor.execute(world.attempt(kind, dry_run=True, **PARAMS[kind]))).planned


async def test_a_wrong_password_is_named_and_not_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "wr0ng-Memcached-password")
    executor, ctx = DeleteKeys(world.settings), world.attempt(DeleteKeys, keys=["price"])
    with pytest.raises(PermanentError, match="does not let us in") as caught:
        await executor.precheck(ctx)
    assert "wr0ng" not in str(caught.value)
    assert "does not let us in" in (await executor.ping(ctx)).reason
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(PermanentError, match="empty or not set"):
        await executor.execute(ctx)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers otherwise than memcached does"),
        (b"-ERR unknown command 'version'\r\n", "answers otherwise than memcached does"),
        (b"SERVER_ERROR out of memory\r\n", "refuses: out of memory"),
    ],
    ids=["http", "redis", "error"],
)
async def test_what_is_no_memcached_or_an_error_is_named(answer: bytes, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = {"pools": {"shop": {"nodes": {"a": {"port": port}}}}}
    async with server:
        with pytest.raises(PermanentError, match=said):
            await MemcachedSystem(settings).inspect(system_context(2.0), [])


# --- restart ----------------------------------------------------------------------------------------------------


@pytest.fixture
def container(
    memcached_image: str, run_container, docker_host: str, world: World, tmp_path: Path
) -> tuple[Container, World]:
    """Node `a` of the pool in a container."""
    port = free_port()
    argv = ["/usr/bin/memcached", "-u", "nobody", "-U", "0", "-Y", "/memcached.users"]
    made = run_container(
        argv,
        image=memcached_image,
        ports={"11211/tcp": ("127.0.0.1", port)},
        volumes={str(tmp_path / "memcached.users"): {"bind": "/memcached.users", "mode": "ro"}},
    )
    assert wait_until(lambda: answers_version(port), timeout_seconds=15)
    world.more["docker_host"] = docker_host
    world.node.update(container=made.name, port=port)
    return made, world


RESTART = {"stop_seconds": 0, "min_uptime_seconds": 0, "hold_seconds": 0.2, "within_seconds": 15.0}


async def test_a_hung_container_is_restarted_once_per_key(container: tuple[Container, World]) -> None:
    node, world = container
    started = node.attrs["State"]["StartedAt"]
    node.kill("SIGSTOP")
    ctx = world.attempt(RestartNode, **RESTART)
    async with RestartNode(world.settings) as executor:
        check = await executor.precheck(ctx)
        assert (check.ok, "does not answer" in check.facts["answers"]) == (True, True), check.reason
        assert (await executor.execute(world.attempt(RestartNode, dry_run=True, **RESTART))).planned
        short = world.attempt(RestartNode, **{**RESTART, "within_seconds": 0.5})
        planned = Receipt(RestartNode.spec.id, 0.0, {"at": ctx.started_at})
        assert "does not answer" in (await executor.verify(short, planned)).reason
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified.reason
    node.reload()
    once = node.attrs["State"]["StartedAt"]
    async with RestartNode(world.settings) as other:
        await other.execute(ctx)
    node.reload()
    assert once != started
    assert node.attrs["State"]["StartedAt"] == once


async def test_a_restart_that_came_through_unnoticed_is_not_repeated(
    container: tuple[Container, World],
) -> None:
    node, world = container
    ctx = world.attempt(RestartNode, **RESTART)
    async with RestartNode(world.settings) as executor:
        place = executor.memcached.place_of(ctx.target)
        known = {"at": ctx.started_at, "started": await executor._started(ctx, place)}
        await executor.note(ctx, known, executor.memcached.others(place)[0])
        node.restart(timeout=0)
        node.reload()
        once = node.attrs["State"]["StartedAt"]
        receipt = await executor.execute(ctx)
        assert (await executor.verify(ctx, receipt)).ok
    node.reload()
    assert node.attrs["State"]["StartedAt"] == once


async def test_the_drill_of_a_hung_node_is_healed_by_a_restart(container: tuple[Container, World]) -> None:
    _, world = container
    drill = HungNode(world.settings, {"pool": "shop", "node": "a"})
    async with RestartNode(world.settings) as executor:
        drilled = await carry_out(drill, executor, system_context(60.0), check_id="check-hung-node")
    assert drilled.verdict is Verdict.PASSED, drilled


async def test_an_engine_that_is_away_is_transient_and_a_container_that_is_not_there_is_refused(
    world: World, docker_host: str
) -> None:
    world.node["container"] = "no-such-container"
    world.more["docker_host"] = docker_host
    ctx = world.attempt(RestartNode, **RESTART)
    async with RestartNode(world.settings) as executor:
        assert (await executor.precheck(ctx)).reason == "there is no container no-such-container"
    world.more["docker_host"] = "tcp://127.0.0.1:1"
    async with RestartNode(world.settings) as executor:
        with pytest.raises(TransientError, match="can't be reached"):
            await executor.execute(ctx)


async def test_a_node_is_restarted_only_where_the_pool_bears_it(world: World, tmp_path: Path) -> None:
    async def reason(**more: Any) -> str:
        async with RestartNode(world.settings) as executor:
            check = await executor.precheck(world.attempt(RestartNode, **{**RESTART, **more}))
        assert not check.ok
        return check.reason

    assert "not declared (container, unit or pod)" in await reason()
    world.node["pod"] = "cache/memcached-0"
    world.more["kubectl"] = str(tmp_path / "kubectl")
    assert "kubectl is not there" in await reason()
    program = tmp_path / "kubectl"
    program.write_text(f"#!/bin/sh\necho $* > {tmp_path}/said\necho refused\nexit 3\n")
    program.chmod(0o777)
    assert "may be changed by others" in await reason()
    program.chmod(0o755)
    assert "was started" in await reason(min_uptime_seconds=600)
    async with RestartNode(world.settings) as executor:
        with pytest.raises(PermanentError, match="kubectl ended with 3: refused"):
            await executor.execute(world.attempt(RestartNode, **RESTART))
    assert (tmp_path / "said").read_text() == "--namespace cache delete pod memcached-0 --wait=true\n"
    world.pool["consistent_hashing"] = False
    assert "all keys would move" in await reason()
    world.pool["consistent_hashing"] = True
    world.b.stop()
    assert "the pool is not whole" in await reason()


# --- the system -------------------------------------------------------------------------------------------------


async def test_inspect_tells_version_clock_and_that_there_are_no_roles(world: World) -> None:
    ctx = system_context()
    found = await MemcachedSystem(world.settings).inspect(ctx, sorted(EXECUTORS))
    assert (found.product, found.version[:3], found.unsupported) == ("memcached", "1.6", "")
    assert found.identity == "agent"
    assert found.server_time is not None
    assert abs(found.server_time - ctx.clock.now()) < 2
    assert "knows no roles" in found.privileges_unknown
    with pytest.raises(PermanentError, match="no pool"):
        await MemcachedSystem({}).inspect(ctx, [])


def test_grants_say_who_may_connect(world: World) -> None:
    text = MemcachedSystem(world.settings).grants(["memcached.restart_node"]).text
    assert f"tcp dport {world.proxies[1].port}" in text
    assert "docker.restart_container" in text
    assert PASSWORD not in text
    assert "docker" not in MemcachedSystem(world.settings).grants(["memcached.flush_all"]).text


@pytest.mark.parametrize("kind", DRILLS, ids=lambda kind: kind.spec.id)
async def test_every_drill_is_healed_by_its_action_and_leaves_nothing(
    kind: type[Drill], world: World
) -> None:
    before = await MemcachedSystem(world.settings)._read(system_context(), _place(world))
    drill = kind(world.settings, {"pool": "shop", "node": "a"})
    async with EXECUTORS[kind.spec.action](world.settings) as executor:
        drilled = await carry_out(drill, executor, system_context(60.0), check_id=f"check-{kind.spec.id}")
    assert drilled.verdict is Verdict.PASSED, drilled
    after = await MemcachedSystem(world.settings)._read(system_context(), _place(world))
    assert [(one.limit_mb, one.automove, one.has_crawler) for one in (before, after)] == [(64, 1, True)] * 2


def _place(world: World) -> Any:
    return DeleteKeys(world.settings).memcached.place_of(world.target())


def test_a_node_runs_in_one_way_only(memcached_ports: list[int]) -> None:
    node = {"port": memcached_ports[0], "container": "a", "unit": "a.service"}
    with pytest.raises(ValueError, match="at most one"):
        MemcachedSystem({"pools": {"shop": {"nodes": {"a": node}}}})
    with pytest.raises(ValueError, match="stand together"):
        MemcachedSystem({"pools": {"shop": {"nodes": {"a": {}}, "username": "x"}}})


async def test_the_nodes_of_the_run_answer(memcached_ports: list[int]) -> None:
    nodes = {f"n{number}": {"port": port} for number, port in enumerate(memcached_ports)}
    found = await MemcachedSystem({"pools": {"run": {"nodes": nodes}}}).inspect(system_context(), [])
    assert (len(nodes), found.identity) == (2, "anybody")
