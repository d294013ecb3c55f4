"""Failover between real servers: by the primary itself, and by a sentinel when the primary is dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from backends.redis_fixtures import RedisNode, is_in_step

from actions.redis_drills import ReadOnlyPrimary
from actions.redis_failover import Failover
from oncall_agent.contract import ActionContext, SystemClock, SystemContext, Target, TransientError
from oncall_agent.testing import RecordingLog, context_for

pytestmark = [pytest.mark.backend("redis"), pytest.mark.slow]
Pair = tuple[RedisNode, RedisNode]


def settings(node: RedisNode, **server: Any) -> dict[str, Any]:
    return {"servers": {"shop": {"port": node.port, **server}}, "timeout_seconds": 2.0}


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Any]]:
    executors: list[Failover] = []

    async def open_one(node: RedisNode, **server: Any) -> Failover:
        executors.append(Failover(settings(node, **server)))
        return executors[-1]

    yield open_one
    for executor in executors:
        await executor.__aexit__(None, None, None)


def attempt(*, seconds: float = 15.0, dry_run: bool = False, key: str = "", **params: Any) -> ActionContext:
    return context_for(
        Failover.spec.params.model_validate({"hold_seconds": 0.1, "handover_seconds": 3, **params}),
        Target("shop", "redis_server", address={"server": "shop"}),
        clock=SystemClock(),
        seconds=seconds,
        dry_run=dry_run,
        key=key,
    )


def role(node: RedisNode) -> str:
    return str(node.client.info("replication")["role"])


async def test_a_replica_takes_over_once_and_the_primary_comes_back(redis_pair: Pair, opened) -> None:
    primary, replica = redis_pair
    primary.client.set("order:1", "4711")
    executor, ctx = await opened(primary), attempt()
    check = await executor.precheck(ctx)
    assert check.ok, check
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    assert ("slave", "master") == (role(primary), role(replica))
    assert (await executor.execute(ctx)).facts["already"]
    assert (await (await opened(primary)).execute(ctx)).facts["already"]
    assert ("slave", "master") == (role(primary), role(replica))
    replica.client.set("order:2", "4712")
    for _ in range(2):
        undone = await executor.rollback(ctx, receipt)
        assert undone.ok, undone
    assert ("master", "slave") == (role(primary), role(replica))
    assert ["4711", "4712"] == primary.client.mget("order:1", "order:2")


async def test_the_drill_of_a_primary_without_writes(redis_pair: Pair, opened) -> None:
    primary, _ = redis_pair
    clock = SystemClock()
    ctx = SystemContext(clock, RecordingLog(), clock.monotonic() + 20)
    drill = ReadOnlyPrimary(settings(primary), {"server": "shop"})
    trial = await drill.prepare(ctx)
    await drill.inject(ctx, trial)
    assert "takes no writes" in (await drill.symptom(ctx, trial)).reason
    executor, action = await opened(primary), attempt()
    receipt = await executor.execute(action)
    assert (await executor.verify(action, receipt)).ok
    assert (await drill.symptom(ctx, trial)).ok
    await drill.clean_up(ctx)
    assert {"min-replicas-to-write": "0"} == primary.client.config_get("min-replicas-to-write")


async def test_a_dry_run_changes_no_role(redis_pair: Pair, opened) -> None:
    primary, replica = redis_pair
    executor = await opened(primary)
    receipt = await executor.execute(attempt(dry_run=True))
    assert receipt.planned
    assert ("master", "slave") == (role(primary), role(replica))
    assert not (await executor.verify(attempt(seconds=0.5), receipt)).ok


async def test_no_failover_without_a_replica(start_redis, opened) -> None:
    check = await (await opened(start_redis())).precheck(attempt())
    assert (False, "no replica is online") == (check.ok, check.reason)


async def test_no_failover_of_what_is_protected(redis_pair: Pair, opened) -> None:
    check = await (await opened(redis_pair[0], protected=True)).precheck(attempt())
    assert (False, "Redis shop is protected") == (check.ok, check.reason)


async def test_no_failover_at_a_replica(redis_pair: Pair, opened) -> None:
    primary, replica = redis_pair
    check = await (await opened(replica)).precheck(attempt())
    assert (False, f"the server is a replica of 127.0.0.1:{primary.port}") == (check.ok, check.reason)


async def test_no_failover_to_a_replica_that_lacks_much(redis_pair: Pair, opened) -> None:
    primary, replica = redis_pair
    replica.freeze()
    primary.client.set("order:1", "x" * 100_000)
    check = await (await opened(primary)).precheck(attempt(max_gap_bytes=10_000))
    replica.thaw()
    assert not check.ok
    assert "the closest replica lacks" in check.reason


async def test_a_dead_primary_without_sentinels_is_left_to_a_person(redis_pair: Pair, opened) -> None:
    primary, replica = redis_pair
    executor = await opened(primary)
    primary.kill()
    with pytest.raises(TransientError, match="can't be reached"):
        await executor.precheck(attempt())
    assert "slave" == role(replica)


async def test_a_sentinel_fails_over_from_a_dead_primary(redis_pair: Pair, start_sentinel, opened) -> None:
    primary, replica = redis_pair
    sentinel = start_sentinel(primary)
    executor = await opened(primary, sentinels=[f"127.0.0.1:{sentinel.port}"], sentinel_primary="shop")
    primary.kill()
    ctx = attempt()
    check = await executor.precheck(ctx)
    assert check.ok, check
    receipt = await executor.execute(ctx)
    assert replica.port == receipt.facts["new"]["port"]
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    assert "master" == role(replica)
    other = await opened(primary, sentinels=[f"127.0.0.1:{sentinel.port}"], sentinel_primary="shop")
    assert (await other.execute(ctx)).facts["already"]


async def test_a_primary_that_comes_back_follows_and_gets_its_role_again(
    redis_pair: Pair, start_sentinel, opened
) -> None:
    primary, replica = redis_pair
    sentinel = start_sentinel(primary)
    executor = await opened(primary, sentinels=[f"127.0.0.1:{sentinel.port}"], sentinel_primary="shop")
    ctx = attempt()
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    async with asyncio.timeout(15):
        while not await asyncio.to_thread(lambda: role(primary) == "slave" and is_in_step(replica.client)):
            await asyncio.sleep(0.01)
    undone = await executor.rollback(ctx, receipt)
    assert undone.ok, undone
    assert ("master", "slave") == (role(primary), role(replica))


async def test_no_failover_without_the_sentinels_quorum(redis_pair: Pair, start_sentinel, opened) -> None:
    primary, _ = redis_pair
    sentinel = start_sentinel(primary, quorum=3)
    executor = await opened(primary, sentinels=[f"127.0.0.1:{sentinel.port}"], sentinel_primary="shop")
    check = await executor.precheck(attempt())
    assert not check.ok
    assert "NOQUORUM" in check.reason
