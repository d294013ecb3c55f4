"""The memcached actions keep the contract, on real nodes that ask for a password."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from backends.base import require_command
from backends.memcached_server import answers_version
from backends.processes import free_port, wait_until
from scenes.memcached import CLOCK, PASSWORD, VARIABLE, World, authentication, fill, pool, skew, writing

from actions.memcached_flush import FlushAll
from actions.memcached_keys import DeleteKeys
from actions.memcached_restart import RestartNode
from actions.memcached_server import LruCrawler, SetCacheMemlimit, SlabsAutomove
from oncall_agent.contract import Executor
from oncall_agent.testing import Fault, FaultyProxy, Harness, Upstream, check_executor
from oncall_agent.testing.harness import run_in_thread

TUNING = {"sample_seconds": 0.05, "hold_seconds": 0.0, "within_seconds": 1.0}


@pytest.fixture
async def world(start_memcached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv(VARIABLE, PASSWORD)
    async with pool(start_memcached, tmp_path, "-m", "8") as made:
        yield made


def harness(
    world: World,
    kind: type[Executor],
    sick: Callable[[], Any],
    effects: Callable[[], int],
    look: Callable[[], Any],
    **params: Any,
) -> Harness:
    async def make_sick() -> None:
        await run_in_thread(sick)

    async def count() -> int:
        return effects()

    async def snapshot() -> object:
        return await run_in_thread(look)

    return Harness(
        factory=lambda: kind(world.settings),
        target=world.target(),
        make_sick=make_sick,
        count_effects=count,
        snapshot=snapshot,
        hang=lambda: world.become(Fault.BLACK_HOLE),
        release=lambda: world.become(Fault.NONE),
        secret=PASSWORD,
        params=params,
        clock=CLOCK,
        run_blocking=run_in_thread,
    )


def delete_keys(world: World) -> Harness:
    client = world.admin()
    return harness(
        world,
        DeleteKeys,
        lambda: client.set("price", "old"),
        lambda: world.count("delete price"),
        lambda: client.get("price"),
        keys=["price"],
        hold_seconds=0.0,
        within_seconds=1.0,
    )


def flush_all(world: World) -> Harness:
    client = world.admin()
    return harness(
        world,
        FlushAll,
        lambda: client.set("price", "old"),
        lambda: world.count("flush_all 0"),
        lambda: client.get("price"),
        sample_keys=["price"],
        min_gets=0,
        window_seconds=0.05,
        within_seconds=1.0,
    )


def memlimit(world: World) -> Harness:
    client = world.admin()
    fill(client, "page", 1_600, 10_000)
    return harness(
        world,
        SetCacheMemlimit,
        lambda: client.cache_memlimit(8),
        lambda: world.count("cache_memlimit 16"),
        lambda: client.stats()[b"limit_maxbytes"],
        megabytes=16,
        **TUNING,
    )


def automove(world: World) -> Harness:
    client = world.admin()
    skew(client)
    return harness(
        world,
        SlabsAutomove,
        lambda: client.raw_command("slabs automove 0"),
        lambda: world.count("slabs automove 2"),
        lambda: b"slab_automove 2" in client.raw_command("stats settings", "END\r\n"),
        mode=2,
        **TUNING,
    )


def crawler(world: World) -> Harness:
    client = world.admin()
    fill(client, "page", 1_600, 10_000)
    return harness(
        world,
        LruCrawler,
        lambda: client.raw_command("lru_crawler disable"),
        lambda: world.count("lru_crawler enable"),
        lambda: b"lru_crawler yes" in client.raw_command("stats settings", "END\r\n"),
        **TUNING,
    )


HARNESSES = {
    "memcached.delete_keys": delete_keys,
    "memcached.flush_all": flush_all,
    "memcached.lru_crawler": crawler,
    "memcached.set_cache_memlimit": memlimit,
    "memcached.slabs_automove": automove,
}


@pytest.mark.parametrize("action", HARNESSES)
async def test_executor_keeps_the_contract(action: str, world: World) -> None:
    made = HARNESSES[action](world)
    with writing(world.a, "large", 30, 100_000) if "slabs" in action else nullcontext():
        scorecard = await check_executor(made)
    assert scorecard.ok, str(scorecard)


class Unit:
    """A node that a stand-in for systemctl restarts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.pid_file, self.runs = folder / "node.pid", folder / "runs"
        self.program = folder / "systemctl"
        argv = [require_command("memcached"), "-d", "-P", str(self.pid_file), "-u", "root", "-U", "0"]
        argv += ["-l", "127.0.0.1", "-p", str(self.port), *authentication(folder)]
        pid, runs = shlex.quote(str(self.pid_file)), shlex.quote(str(self.runs))
        # Who is dead may stay listed until somebody reaps it.
        lives = 'grep -qs "^State:.[^Z]" /proc/$old/status'
        stop = f"old=$(cat {pid}) && kill -9 $old; while {lives}; do sleep 0.01; done"
        self.program.write_text(f'#!/bin/sh\necho "$@" >> {runs}\n{stop}\nrm -f {pid}\n{shlex.join(argv)}\n')
        self.program.chmod(0o755)
        self.start_argv = argv

    @property
    def pid(self) -> int:
        wait_until(
            lambda: self.pid_file.exists() and self.pid_file.read_text().strip() != "", timeout_seconds=5
        )
        return int(self.pid_file.read_text())

    def hang(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def count(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


@pytest.fixture
def unit(memcached_ports: list[int], tmp_path: Path) -> Iterator[Unit]:
    made = Unit(tmp_path)
    os.spawnvp(os.P_WAIT, made.start_argv[0], made.start_argv)
    assert wait_until(lambda: answers_version(made.port), timeout_seconds=5)
    yield made
    os.kill(made.pid, signal.SIGKILL)


async def test_restart_keeps_the_contract(world: World, unit: Unit) -> None:
    async with FaultyProxy(Upstream(port=unit.port)) as proxy:
        world.proxies[0] = proxy
        world.node["unit"] = "memcached@a.service"
        world.more.update(systemctl=str(unit.program), timeout_seconds=0.3)
        kept = harness(
            world,
            RestartNode,
            unit.hang,
            unit.count,
            lambda: unit.pid,
            min_uptime_seconds=0,
            hold_seconds=0.0,
            within_seconds=1.5,
        )
        scorecard = await check_executor(kept)
    assert scorecard.ok, str(scorecard)
    assert unit.runs.read_text().splitlines()[0] == "restart memcached@a.service"
