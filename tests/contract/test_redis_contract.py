"""Every redis action goes through the contract test, on real servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis
from backends.processes import wait_until
from backends.redis_fixtures import PASSWORD, RedisNode, StartRedis, is_in_step
from redis.backoff import NoBackoff
from redis.retry import Retry

from actions.redis_clients import KillClients, Unblock
from actions.redis_failover import Failover
from actions.redis_flush import FlushDb
from actions.redis_memory import MemoryPurge, UnlinkKeys
from actions.redis_script import KillScript
from actions.redis_server import ConfigSet
from oncall_agent.contract import Executor, Target
from oncall_agent.testing import FakeClock, Harness, check_executor

pytestmark = [pytest.mark.backend("redis")]
MIB = 1_048_576
Sick = Callable[[RedisNode], None]


class BriskClock(FakeClock):
    """Time flies, but a real server gets a moment to catch up with it."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(min(seconds, 0.01))


class Patient:
    """One server with a password, and the applications that make it sick."""

    def __init__(self, node: RedisNode) -> None:
        self.node, self.clients, self.killed = node, list[redis.Redis](), 0
        self.threads: list[threading.Thread] = []
        node.client.config_set("requirepass", PASSWORD)

    @property
    def admin(self) -> redis.Redis:
        return redis.Redis(port=self.node.port, password=PASSWORD, decode_responses=True)

    def calls(self, command: str) -> int:
        return int(self.admin.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))

    def fragmented(self) -> None:
        admin = self.admin
        for first in range(0, 900, 100):
            admin.mset({f"page:{number}": "x" * 100_000 for number in range(first, first + 100)})
        admin.delete(*(f"page:{number}" for number in range(900)))

    def filled(self) -> None:
        self.admin.mset({f"page:{number}": "x" * 1_000 for number in range(300)})

    def full(self) -> None:
        admin = self.admin
        admin.config_set("maxmemory", "0")
        admin.mset({f"page:{number}": "x" * 10_000 for number in range(300)})
        admin.config_set("maxmemory", str(2 * MIB))

    def crowded(self) -> None:
        if not any(one["name"] == "worker" for one in self.admin.client_list()):
            self.clients.append(self._worker())
            self.clients[-1].ping()

    def waiting(self) -> None:
        if not int(self.admin.info("clients")["blocked_clients"]):
            self._in_background(lambda client: client.blpop("queue"))
        wait_until(lambda: int(self.admin.info("clients")["blocked_clients"]) > 0, timeout_seconds=5)

    def busy(self) -> None:
        if not self.is_busy():
            self._in_background(lambda client: client.eval("while true do end", 0))
        wait_until(self.is_busy, timeout_seconds=5)

    def is_busy(self) -> bool:
        try:
            self.admin.ping()
        except redis.ResponseError as error:
            return "BUSY" in str(error)
        return False

    def ended_scripts(self) -> int:
        if not self.is_busy():
            self._join()
        return self.killed

    def _worker(self) -> redis.Redis:
        never = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.node.port, password=PASSWORD, client_name="worker", retry=never)

    def _join(self) -> None:
        for thread in self.threads:
            thread.join(5)

    def _in_background(self, call: Callable[[redis.Redis], Any]) -> None:
        client = self._worker()
        self.clients.append(client)

        def run() -> None:
            try:
                call(client)
            except (redis.RedisError, OSError, ValueError) as error:
                self.killed += "killed by user" in str(error)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def stop(self) -> None:
        self.node.thaw()
        self.node.kill()
        self._join()
        for client in self.clients:
            client.close()


@pytest.fixture
def patient(start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Patient]:
    monkeypatch.setenv("TEST_REDIS_PASSWORD", PASSWORD)
    one = Patient(start_redis())
    yield one
    one.stop()


def harness(
    patient: Patient,
    kind: type[Executor],
    sick: Callable[[], None],
    effects: Callable[[], int],
    **params: Any,
) -> Harness:
    server = {"port": patient.node.port, "password": "env:TEST_REDIS_PASSWORD"}
    server |= {"cache_databases": [0], "key_patterns": ["page:*"]}

    async def snapshot() -> object:
        if patient.is_busy():
            return "busy"
        admin = patient.admin
        return (admin.config_get("maxmemory"), len(admin.keys("page:*")))

    return Harness(
        factory=lambda: kind({"servers": {"shop": server}}),
        target=Target("shop", "redis_server", address={"server": "shop"}),
        make_sick=lambda: asyncio.to_thread(sick),
        count_effects=lambda: asyncio.to_thread(effects),
        snapshot=snapshot,
        hang=_step(patient.node.freeze),
        release=_step(patient.node.thaw),
        secret=PASSWORD,
        params=params,
        clock=BriskClock(),
    )


def _step(function: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def step() -> None:
        function()

    return step


WORLDS: dict[type[Executor], Callable[[Patient], Harness]] = {
    MemoryPurge: lambda p: harness(
        p, MemoryPurge, p.fragmented, lambda: p.calls("memory|purge"), min_excess_bytes=40 * MIB
    ),
    UnlinkKeys: lambda p: harness(p, UnlinkKeys, p.filled, lambda: p.calls("unlink"), pattern="page:*"),
    FlushDb: lambda p: harness(p, FlushDb, p.filled, lambda: p.calls("flushdb")),
    ConfigSet: lambda p: harness(
        p, ConfigSet, p.full, lambda: p.calls("config|set"), name="maxmemory", value=str(64 * MIB)
    ),
    KillClients: lambda p: harness(
        p,
        KillClients,
        p.crowded,
        lambda: p.calls("client|kill"),
        name="worker",
        min_idle_seconds=0,
        min_share=0,
    ),
    Unblock: lambda p: harness(
        p, Unblock, p.waiting, lambda: p.calls("client|unblock"), name="worker", min_blocked_seconds=0
    ),
    KillScript: lambda p: harness(p, KillScript, p.busy, p.ended_scripts),
}


@pytest.mark.parametrize("kind", WORLDS, ids=lambda kind: kind.spec.id)
async def test_contract(patient: Patient, kind: type[Executor]) -> None:
    scorecard = await check_executor(WORLDS[kind](patient))
    assert scorecard.ok, scorecard.failures


async def test_contract_of_failover(
    redis_pair: tuple[RedisNode, RedisNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, replica = redis_pair
    monkeypatch.setenv("TEST_REDIS_PASSWORD", PASSWORD)
    for node in redis_pair:
        # A password that the servers do not ask for among themselves.
        node.client.execute_command("ACL", "SETUSER", "responder", "on", f">{PASSWORD}", "~*", "+@all")

    def sick() -> None:
        primary.client.replicaof("NO", "ONE")
        replica.client.replicaof("127.0.0.1", primary.port)
        wait_until(lambda: is_in_step(primary.client), timeout_seconds=10)

    def effects() -> int:
        stats = [node.client.info("commandstats").get("cmdstat_failover", {}) for node in redis_pair]
        return sum(int(one.get("calls", 0)) for one in stats)

    async def snapshot() -> object:
        return [node.client.info("replication")["role"] for node in redis_pair]

    server = {"port": primary.port, "username": "responder", "password": "env:TEST_REDIS_PASSWORD"}
    world = Harness(
        factory=lambda: Failover({"servers": {"shop": server}}),
        target=Target("shop", "redis_server", address={"server": "shop"}),
        make_sick=lambda: asyncio.to_thread(sick),
        count_effects=lambda: asyncio.to_thread(effects),
        snapshot=snapshot,
        hang=_step(primary.freeze),
        release=_step(primary.thaw),
        secret=PASSWORD,
        clock=BriskClock(),
    )
    scorecard = await check_executor(world)
    assert scorecard.ok, scorecard.failures
