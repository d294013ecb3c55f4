"""The redis actions against real servers: real faults, the fix proven, taken back, and every refusal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from backends.redis_fixtures import RedisNode, StartRedis

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
from actions.redis_flush import FlushDb
from actions.redis_memory import MemoryPurge, UnlinkKeys
from actions.redis_probe import RedisProber
from actions.redis_script import KillScript
from actions.redis_server import ConfigSet
from oncall_agent.contract import (
    ActionContext,
    Drill,
    Executor,
    NoParams,
    PermanentError,
    SystemClock,
    SystemContext,
    Target,
    TransientError,
    run_inline,
)
from oncall_agent.testing import RecordingLog, context_for

pytestmark = [pytest.mark.backend("redis")]

PATTERN = "oncall-agent:drill:*"
Opened = Callable[..., Any]


def settings(node: RedisNode, **server: Any) -> dict[str, Any]:
    one = {"port": node.port, "cache_databases": [0], "key_patterns": [PATTERN], **server}
    return {"servers": {"shop": one}, "timeout_seconds": 5.0}


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Opens executors and closes them after the test."""
    executors: list[Any] = []

    async def open_one(kind: type[Any], node: RedisNode, **server: Any) -> Any:
        executors.append(await kind(settings(node, **server)).__aenter__())
        return executors[-1]

    yield open_one
    for executor in executors:
        await executor.__aexit__(None, None, None)


@pytest.fixture
async def broken() -> AsyncIterator[Callable[..., Any]]:
    """Prepares and injects drills, and cleans them up after the test."""
    drills: list[Drill] = []

    async def break_it(kind: type[Drill], node: RedisNode, **sandbox: Any) -> tuple[Drill, Any]:
        drill = kind(settings(node), {"server": "shop", "database": 0, **sandbox})
        drills.append(drill)
        trial = await drill.prepare(drill_context())
        assert (await drill.symptom(drill_context(), trial)).ok
        await drill.inject(drill_context(), trial)
        sick = await drill.symptom(drill_context(), trial)
        assert not sick.ok
        assert sick.reason
        return drill, trial

    yield break_it
    for drill in drills:
        await drill.clean_up(drill_context())
        await drill.clean_up(drill_context())


def drill_context(seconds: float = 20.0) -> SystemContext:
    clock = SystemClock()
    return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds)


def attempt(
    kind: type[Executor],
    *,
    seconds: float = 10.0,
    dry_run: bool = False,
    target: Target | None = None,
    **params: Any,
) -> ActionContext:
    return context_for(
        kind.spec.params.model_validate(params),
        target or Target("shop-cache", "redis_server", address={"server": "shop"}),
        clock=SystemClock(),
        seconds=seconds,
        dry_run=dry_run,
    )


async def heal(executor: Executor, ctx: ActionContext) -> Any:
    """Carry the action out twice under one key; give the receipt."""
    check = await executor.precheck(ctx)
    assert check.ok, check
    receipt = await executor.execute(ctx)
    again = await executor.execute(ctx)
    assert {key: again.facts[key] for key in receipt.facts if key != "already"} == dict(receipt.facts)
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    return receipt


CASES = [
    pytest.param(FragmentedMemory, MemoryPurge, id="fragmented memory"),
    pytest.param(StaleKeys, UnlinkKeys, id="stale keys"),
    pytest.param(StaleDatabase, FlushDb, id="stale database"),
    pytest.param(FullMemory, ConfigSet, id="full, noeviction"),
    pytest.param(IdleClients, KillClients, id="too many clients"),
    pytest.param(BlockedClient, Unblock, id="blocked client"),
    pytest.param(BusyScript, KillScript, id="busy script"),
]


@pytest.mark.parametrize(("drill_kind", "kind"), CASES)
async def test_the_action_heals_the_fault(start_redis: StartRedis, opened, broken, drill_kind, kind) -> None:
    node = start_redis()
    drill, trial = await broken(drill_kind, node)
    assert drill_kind.spec.action == kind.spec.id
    executor = await opened(kind, node)
    await heal(executor, attempt(kind, target=trial.target, **trial.params))
    assert (await drill.symptom(drill_context(), trial)).ok


@pytest.mark.parametrize(("drill_kind", "kind"), CASES)
async def test_a_dry_run_plans_and_the_fault_stays(
    start_redis: StartRedis, opened, broken, drill_kind, kind
) -> None:
    node = start_redis()
    drill, trial = await broken(drill_kind, node)
    executor = await opened(kind, node)
    receipt = await executor.execute(attempt(kind, target=trial.target, dry_run=True, **trial.params))
    assert receipt.planned
    assert not (await drill.symptom(drill_context(), trial)).ok
    still_sick = await executor.verify(
        attempt(kind, target=trial.target, seconds=0.6, **trial.params), receipt
    )
    assert not still_sick.ok


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drill_kind", [case.values[0] for case in CASES])
async def test_what_is_protected_is_never_touched(
    start_redis: StartRedis, opened, broken, drill_kind
) -> None:
    node = start_redis()
    _, trial = await broken(drill_kind, node)
    kind = next(case.values[1] for case in CASES if case.values[0] is drill_kind)
    executor = await opened(kind, node, protected=True)
    check = await executor.precheck(attempt(kind, target=trial.target, **trial.params))
    assert (False, "Redis shop is protected") == (check.ok, check.reason)


@pytest.mark.parametrize(
    ("kind", "params", "reason"),
    [
        pytest.param(MemoryPurge, {}, "not fragmented", id="in order"),
        pytest.param(UnlinkKeys, {"pattern": PATTERN}, "no key of that pattern", id="no keys"),
        pytest.param(
            UnlinkKeys, {"pattern": "session:*"}, "not among the server's key_patterns", id="pattern"
        ),
        pytest.param(FlushDb, {}, "the database is empty", id="empty"),
        pytest.param(KillClients, {"min_idle_seconds": 0}, "there is room", id="room"),
        pytest.param(KillClients, {"min_share": 0, "name": "nobody"}, "no client fits", id="nobody"),
        pytest.param(Unblock, {"name": "nobody"}, "no such client waits", id="nobody waits"),
        pytest.param(KillScript, {}, "no script keeps the server busy", id="not busy"),
        pytest.param(ConfigSet, {"name": "maxmemory", "value": "1024"}, "are in use", id="too little"),
        pytest.param(
            ConfigSet, {"name": "maxmemory", "value": "9000000000"}, "beyond max_memory_bytes", id="cap"
        ),
        pytest.param(ConfigSet, {"name": "maxmemory", "host_share": 0.9}, "beyond", id="host"),
        pytest.param(
            ConfigSet, {"name": "maxmemory-policy", "value": "noeviction"}, "already", id="no change"
        ),
        pytest.param(ConfigSet, {"name": "timeout", "value": "1"}, "is not 0 or 10", id="time-out"),
    ],
)
async def test_the_precheck_refuses(start_redis: StartRedis, opened, kind, params, reason) -> None:
    executor = await opened(kind, start_redis())
    check = await executor.precheck(attempt(kind, **params))
    assert not check.ok
    assert reason in check.reason


@pytest.mark.parametrize(("kind", "params"), [(UnlinkKeys, {"pattern": PATTERN}), (FlushDb, {})])
async def test_what_is_no_cache_keeps_its_keys(start_redis: StartRedis, opened, kind, params) -> None:
    node = start_redis()
    node.client.set("oncall-agent:drill:1", "order 4711")
    executor = await opened(kind, node, cache_databases=[1])
    check = await executor.precheck(attempt(kind, **params))
    assert (False, "database 0 of Redis shop is not marked as a cache") == (check.ok, check.reason)


async def test_no_eviction_where_a_database_is_no_cache(start_redis: StartRedis, opened) -> None:
    node = start_redis()
    node.client.set("order:1", "4711")
    executor = await opened(ConfigSet, node, cache_databases=[1])
    ctx = attempt(ConfigSet, name="maxmemory-policy", value="allkeys-lru")
    assert "would be evicted" in (await executor.precheck(ctx)).reason
    with pytest.raises(PermanentError, match="would be evicted"):
        await executor.execute(ctx)


async def test_a_replica_is_not_flushed(redis_pair, opened) -> None:
    primary, replica = redis_pair
    primary.client.set("page:1", "x")
    executor = await opened(FlushDb, replica)
    check = await executor.precheck(attempt(FlushDb))
    assert (False, "the server is a replica: its primary decides") == (check.ok, check.reason)


async def test_a_second_flush_soon_after_is_refused(start_redis: StartRedis, opened) -> None:
    node = start_redis()
    executor = await opened(FlushDb, node)
    node.client.set("page:1", "x")
    await executor.execute(attempt(FlushDb))
    node.client.set("page:1", "x")
    check = await executor.precheck(attempt(FlushDb))
    assert not check.ok
    assert "another database was flushed 0 s ago" in check.reason


async def test_a_script_that_has_written_is_not_ended(start_redis: StartRedis, opened) -> None:
    node = start_redis()
    writer = asyncio.create_task(
        asyncio.to_thread(
            _run, node, "redis.call('set', 'order:1', '1') local n = 0 while n < 2e8 do n = n + 1 end"
        )
    )
    executor = await opened(KillScript, node)
    ctx = attempt(KillScript)
    while not (await executor.precheck(ctx)).ok:
        await asyncio.sleep(0.01)
    with pytest.raises(PermanentError, match="the script has written"):
        await executor.execute(ctx)
    node.kill()
    await writer


def _run(node: RedisNode, script: str) -> None:
    try:
        node.client.eval(script, 0)
    except Exception as error:  # noqa: BLE001 - the server is killed under it
        assert error


# --- what the actions leave alone ---------------------------------------------------------------------------


async def test_replicas_subscribers_waiting_clients_and_ourselves_stay(redis_pair, opened) -> None:
    primary, _ = redis_pair
    subscriber = primary.client.pubsub()
    subscriber.subscribe("orders")
    idle = primary.client
    idle.client_setname("idle")
    waiting = asyncio.create_task(asyncio.to_thread(primary.client.blpop, "queue", 5))
    executor = await opened(KillClients, primary)
    while not any("b" in one["flags"] for one in idle.client_list()):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    ctx = attempt(KillClients, min_idle_seconds=0, min_share=0)
    receipt = await executor.execute(ctx)
    primary.client.rpush("queue", "work")
    assert ("queue", "work") == await waiting
    flags = {one["flags"] for one in primary.client.client_list()}
    assert {"S", "P"} <= flags
    assert len(receipt.facts["killed"]) >= 1
    assert "idle" not in {one["name"] for one in primary.client.client_list(_type="normal")}


async def test_no_more_keys_are_removed_than_allowed(start_redis: StartRedis, opened) -> None:
    node = start_redis()
    node.client.mset({f"oncall-agent:drill:{number}": "x" * 1000 for number in range(3000)})
    executor = await opened(UnlinkKeys, node)
    ctx = attempt(UnlinkKeys, pattern=PATTERN, max_n=1200, hold_seconds=0.1)
    receipt = await heal(executor, ctx)
    assert 1200 == receipt.facts["unlinked"]
    other = await opened(UnlinkKeys, node)
    assert (await other.execute(ctx)).facts["already"]
    # The mark of the attempt is one key.
    assert 1801 == node.client.dbsize()


async def test_keys_that_are_no_text_are_removed_too(start_redis: StartRedis, opened) -> None:
    node = start_redis()
    node.client.set(b"oncall-agent:drill:\xff\xfe", "x")
    executor = await opened(UnlinkKeys, node)
    receipt = await executor.execute(attempt(UnlinkKeys, pattern=PATTERN))
    assert 1 == receipt.facts["unlinked"]


async def test_the_old_setting_comes_back(start_redis: StartRedis, opened, broken) -> None:
    node = start_redis()
    _, trial = await broken(FullMemory, node)
    before = node.client.config_get("maxmemory")
    executor = await opened(ConfigSet, node)
    ctx = attempt(ConfigSet, target=trial.target, **trial.params)
    receipt = await executor.execute(ctx)
    assert before != node.client.config_get("maxmemory")
    for _ in range(2):
        assert (await executor.rollback(ctx, receipt)).ok
    assert before == node.client.config_get("maxmemory")


@pytest.mark.parametrize(("name", "value"), [("maxmemory-policy", "allkeys-lru"), ("timeout", "300")])
async def test_policy_and_time_out_are_set_and_taken_back(
    start_redis: StartRedis, opened, name, value
) -> None:
    node = start_redis()
    executor = await opened(ConfigSet, node)
    ctx = attempt(ConfigSet, name=name, value=value, hold_seconds=0.1)
    receipt = await heal(executor, ctx)
    assert {name: value} == node.client.config_get(name)
    assert (await executor.rollback(ctx, receipt)).ok
    assert value != node.client.config_get(name)[name]


async def test_clients_are_closed_when_the_server_is_full_of_them(
    start_redis: StartRedis, opened, broken
) -> None:
    node = start_redis("--maxclients", "30")
    executor = await opened(KillClients, node)
    ctx = attempt(KillClients, min_idle_seconds=0, min_share=0.8, hold_seconds=0.2)
    assert not (await executor.precheck(ctx)).ok
    drill, trial = await broken(IdleClients, node)
    others = [node.client for _ in range(5)]
    for one in others:
        one.ping()
    ctx = attempt(KillClients, min_idle_seconds=0, min_share=0.8, hold_seconds=0.2)
    check = await executor.precheck(ctx)
    assert check.ok, check
    assert check.facts["share"] >= 0.8
    assert (await executor.verify(ctx, await executor.execute(ctx))).ok
    assert (await drill.symptom(drill_context(), trial)).ok


# --- the prober ----------------------------------------------------------------------------------------------


async def test_the_prober_reads_memory_latency_and_hits(start_redis: StartRedis) -> None:
    node = start_redis("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    node.client.set("page:1", "x")
    node.client.get("page:1")
    node.client.get("page:2")
    prober, target = RedisProber(settings(node)), Target("shop", "redis_server", address={"server": "shop"})
    first = await prober.read(
        target, NoParams(), timeout_seconds=2.0, clock=SystemClock(), run_blocking=run_inline
    )
    reading = await prober.read(
        target, NoParams(), timeout_seconds=2.0, clock=SystemClock(), run_blocking=run_inline
    )
    assert first.signals.up
    assert 0 < (reading.signals.memory or 0) < 0.2
    assert 0 == reading.signals.error_rate
    assert 0.5 == reading.facts["hit_rate"]
    assert (reading.signals.response_seconds or 9) < 1
    await prober.__aexit__()


async def test_the_prober_says_down_for_a_dead_server_and_blind_for_a_refusing_one(
    start_redis: StartRedis,
) -> None:
    node = start_redis()
    node.client.config_set("requirepass", "right")
    target = Target("shop", "redis_server", address={"server": "shop"})
    prober = RedisProber(settings(node))
    read = {"timeout_seconds": 0.5, "clock": SystemClock(), "run_blocking": run_inline}
    with pytest.raises(TransientError, match="refuses our user"):
        await prober.read(target, NoParams(), **read)
    node.kill()
    reading = await prober.read(target, NoParams(), **read)
    assert reading.signals.up is False
    await prober.__aexit__()


async def test_a_frozen_server_ends_in_time(start_redis: StartRedis, opened) -> None:
    node = start_redis()
    executor = await opened(MemoryPurge, node)
    assert (await executor.ping(attempt(MemoryPurge))).ok
    node.freeze()
    began = time.monotonic()
    with pytest.raises(TransientError, match="does not answer in time"):
        await executor.precheck(attempt(MemoryPurge, seconds=0.5))
    assert time.monotonic() - began < 1.5
    node.thaw()
    assert (await executor.ping(attempt(MemoryPurge))).ok


async def test_debug_sleep_is_survived(start_redis: StartRedis, opened) -> None:
    node = start_redis()
    executor = await opened(MemoryPurge, node)
    sleeping = asyncio.create_task(asyncio.to_thread(node.client.execute_command, "DEBUG", "SLEEP", "1"))
    async with asyncio.timeout(5):
        while (await executor.ping(attempt(MemoryPurge, seconds=0.2))).ok:
            await asyncio.sleep(0.01)
    await sleeping
    assert (await executor.ping(attempt(MemoryPurge))).ok
