"""Redis as a system: what inspect says, that the generated user can do its work and no more, and outages."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from backends.redis_fixtures import PASSWORD, RedisNode, StartRedis

from actions.redis_clients import KillClients, Unblock
from actions.redis_drills import (
    BlockedClient,
    BusyScript,
    FragmentedMemory,
    FullMemory,
    IdleClients,
    StaleDatabase,
    StaleKeys,
)
from actions.redis_failover import Failover
from actions.redis_flush import FlushDb
from actions.redis_memory import MemoryPurge, UnlinkKeys
from actions.redis_script import KillScript
from actions.redis_server import ConfigSet
from actions.redis_system import RedisSystem
from oncall_agent.contract import (
    ActionContext,
    Executor,
    PermanentError,
    Receipt,
    SystemClock,
    SystemContext,
    Target,
    TransientError,
)
from oncall_agent.testing import Fault, FaultyProxy, RecordingLog, Upstream, check_outages, context_for
from oncall_agent.testing.outage import BREAKING

pytestmark = [pytest.mark.backend("redis")]
PATTERN = "oncall-agent:drill:*"
KINDS: list[type[Executor]] = [
    MemoryPurge,
    UnlinkKeys,
    FlushDb,
    ConfigSet,
    KillClients,
    Unblock,
    KillScript,
    Failover,
]
ACTIONS = [kind.spec.id for kind in KINDS]
PARAMS: dict[type[Executor], dict[str, Any]] = {
    UnlinkKeys: {"pattern": PATTERN},
    ConfigSet: {"name": "maxmemory", "value": "104857600"},
    Unblock: {"name": "worker"},
}


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_REDIS_PASSWORD", PASSWORD)
    monkeypatch.setenv("TEST_REDIS_WRONG", "wrong-Zx82")


def settings(port: int, **server: Any) -> dict[str, Any]:
    one = {"port": port, "cache_databases": [0], "key_patterns": [PATTERN], **server}
    return {"servers": {"shop": one}, "timeout_seconds": 5.0}


LEAST = {"username": "oncall-agent", "password": "env:TEST_REDIS_PASSWORD"}


def grant(node: RedisNode, actions: list[str]) -> str:
    """Make exactly the generated user; give the line."""
    text = RedisSystem(settings(node.port)).grants(actions).text
    node.client.execute_command(*shlex.split(text.replace("PASSWORD", PASSWORD)))
    return text


def system_context(seconds: float = 10.0) -> SystemContext:
    clock = SystemClock()
    return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds)


def attempt(kind: type[Executor], seconds: float = 10.0, **params: Any) -> ActionContext:
    return context_for(
        kind.spec.params.model_validate({**PARAMS.get(kind, {}), **params}),
        Target("shop", "redis_server", address={"server": "shop"}),
        clock=SystemClock(),
        seconds=seconds,
    )


# --- least privilege -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drill_kind", "kind"),
    [
        (FragmentedMemory, MemoryPurge),
        (StaleKeys, UnlinkKeys),
        (StaleDatabase, FlushDb),
        (FullMemory, ConfigSet),
        (IdleClients, KillClients),
        (BlockedClient, Unblock),
        (BusyScript, KillScript),
    ],
)
async def test_the_generated_user_can_do_its_action(start_redis: StartRedis, drill_kind, kind) -> None:
    node = start_redis()
    grant(node, [kind.spec.id])
    drill = drill_kind(settings(node.port), {"server": "shop", "database": 0})
    trial = await drill.prepare(system_context())
    await drill.inject(system_context(), trial)
    async with kind(settings(node.port, **LEAST)) as executor:
        ctx = attempt(kind, **trial.params)
        assert (await executor.ping(ctx)).ok
        check = await executor.precheck(ctx)
        assert check.ok, check
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
        assert "reason" not in await executor.diagnose(ctx)
        if kind.spec.reversible:
            assert (await executor.rollback(ctx, receipt)).ok
    await drill.clean_up(system_context())


async def test_the_generated_user_can_fail_over_and_back(redis_pair) -> None:
    for node in redis_pair:
        grant(node, ["redis.failover"])
    async with Failover(settings(redis_pair[0].port, **LEAST)) as executor:
        ctx = attempt(Failover, hold_seconds=0.1)
        assert (await executor.precheck(ctx)).ok
        receipt = await executor.execute(ctx)
        assert (await executor.verify(ctx, receipt)).ok
        assert (await executor.rollback(ctx, receipt)).ok


@pytest.mark.parametrize(
    "forbidden",
    [
        ("FLUSHALL",),
        ("GET", "order:1"),
        ("UNLINK", "order:1"),
        ("EVAL", "return 1", "0"),
        ("SHUTDOWN",),
        ("ACL", "SETUSER", "x"),
        ("REPLICAOF", "NO", "ONE"),
        ("KEYS", "*"),
    ],
    ids=" ".join,
)
def test_the_generated_user_can_do_no_more(start_redis: StartRedis, forbidden) -> None:
    node = start_redis()
    grant(node, ACTIONS)
    with (
        redis.Redis(port=node.port, username="oncall-agent", password=PASSWORD) as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(*forbidden)


async def test_inspect_finds_the_generated_user_just_right(start_redis: StartRedis) -> None:
    node = start_redis()
    grant(node, ACTIONS)
    async with RedisSystem(settings(node.port, **LEAST)) as system:
        found = await system.inspect(system_context(), ACTIONS)
    assert ("Redis", "", "oncall-agent@shop", "") == (
        found.product,
        found.unsupported,
        found.identity,
        found.privileges_unknown,
    )
    assert found.version.startswith("7.")
    assert abs((found.server_time or 0) - SystemClock().now()) < 5
    assert [] == [one.name for one in found.privileges if one.needed_by and not one.held]
    assert [] == [one.name for one in found.privileges if one.held and not one.needed_by]


async def test_inspect_names_what_is_lacking_and_what_is_too_much(start_redis: StartRedis) -> None:
    node = start_redis()
    grant(node, ["redis.memory_purge"])
    async with RedisSystem(settings(node.port, **LEAST)) as system:
        found = await system.inspect(system_context(), ["redis.memory_purge", "redis.flush_db"])
    lacking = {one.name: one.needed_by for one in found.privileges if one.needed_by and not one.held}
    assert {"flushdb", "dbsize", "exists", "set"} == set(lacking)
    assert ("redis.flush_db",) == lacking["flushdb"]
    async with RedisSystem(settings(node.port)) as system:
        admin = await system.inspect(system_context(), ["redis.memory_purge"])
    too_much = {one.name for one in admin.privileges if one.held and not one.needed_by}
    assert {"flushall", "shutdown", "eval", "acl|setuser", "replicaof", "any key", "config|set"} <= too_much


async def test_inspect_says_when_privileges_cannot_be_asked(start_redis: StartRedis) -> None:
    node = start_redis()
    node.client.execute_command("ACL", "SETUSER", "poor", "on", "nopass", "+info", "+time", "+client|setname")
    async with RedisSystem(settings(node.port, username="poor")) as system:
        found = await system.inspect(system_context(), ACTIONS)
    assert () == found.privileges
    assert "ACL DRYRUN" in found.privileges_unknown


def test_grants_hold_the_key_patterns_of_the_actions_only(start_redis: StartRedis) -> None:
    system = RedisSystem(settings(1))
    assert "~" not in system.grants(["redis.memory_purge"]).text
    assert f"~{PATTERN}" in system.grants(["redis.unlink_keys"]).text
    assert PASSWORD not in system.grants(ACTIONS).text


# --- outages, wrong credentials, wrong product ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.spec.id)
async def test_outages_end_in_time_and_with_a_name(start_redis: StartRedis, kind) -> None:
    node = start_redis()
    node.client.config_set("requirepass", PASSWORD)
    async with FaultyProxy(Upstream(port=node.port)) as proxy:
        here = {"host": "127.0.0.1", "port": proxy.port}
        facts = {"old": here, "new": here, "before": "0", "wanted": "1"}
        async with kind(settings(proxy.port, password="env:TEST_REDIS_PASSWORD")) as executor:
            ended = await check_outages(
                executor,
                proxy,
                lambda seconds: attempt(kind, seconds),
                receipt=Receipt(kind.spec.id, 0.0, facts),
                faults=(*BREAKING, Fault.SLOW) if kind is MemoryPurge else BREAKING,
                deadline_seconds=0.25,
                secret=PASSWORD,
            )
    assert len(ended) >= 20


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.spec.id)
async def test_wrong_credentials_are_named_and_not_repeated(start_redis: StartRedis, kind) -> None:
    node = start_redis()
    node.client.config_set("requirepass", PASSWORD)
    async with kind(settings(node.port, password="env:TEST_REDIS_WRONG")) as executor:
        assert "refuses our user" in (await executor.ping(attempt(kind))).reason
        for step in (executor.precheck, executor.execute):
            with pytest.raises(PermanentError, match="refuses our user") as caught:
                await step(attempt(kind))
            assert "wrong-Zx82" not in str(caught.value)


@pytest.fixture
def stranger() -> Iterator[Callable[[bytes], Any]]:
    """Starts a server that answers everything with the same bytes."""
    servers: list[asyncio.Server] = []

    async def start(answer: bytes) -> int:
        async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(4096):
                writer.write(answer)
            writer.close()

        servers.append(await asyncio.start_server(say, "127.0.0.1", 0))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    "answer", [b"ERROR\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["memcached", "http"]
)
async def test_what_is_no_redis_is_said_to_be_none(stranger, answer) -> None:
    async with MemoryPurge(settings(await stranger(answer))) as executor:
        with pytest.raises((PermanentError, TransientError), match=r"does not speak|reached|Redis shop"):
            await executor.precheck(attempt(MemoryPurge, 1.0))
        assert not (await executor.ping(attempt(MemoryPurge, 1.0))).ok


async def test_a_target_without_a_configured_server_is_refused() -> None:
    async with MemoryPurge(settings(1)) as executor:
        ctx = context_for(MemoryPurge.spec.params(), Target("x", "redis_server", address={"server": "other"}))
        with pytest.raises(PermanentError, match="must name a server"):
            await executor.precheck(ctx)


@pytest.mark.parametrize(
    ("product", "version", "reason"),
    [("Redis", "6.0.16", "Redis 6.0.16 is older than 6.2"), ("Redis", "7.0.15", ""), ("Valkey", "8.1.0", "")],
)
def test_versions_that_are_not_supported(product, version, reason) -> None:
    from actions.redis_facts import unsupported

    assert reason == unsupported(product, version)
