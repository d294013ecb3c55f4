"""The memcached actions on real nodes: the fault, the fix, the undo, and what each refuses."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backends.memcached_server import MemcachedNode
from backends.processes import wait_until
from scenes.memcached import PASSWORD, VARIABLE, World, admin, fill, pool, skew, writing

from actions.memcached_flush import FlushAll
from actions.memcached_keys import DeleteKeys
from actions.memcached_probe import MemcachedProber
from actions.memcached_restart import RestartNode
from actions.memcached_server import LruCrawler, SetCacheMemlimit, SlabsAutomove
from oncall_agent.contract import Executor, PermanentError, Receipt, SystemClock, TransientError
from oncall_agent.testing.harness import run_in_thread

QUICK = {"sample_seconds": 0.3, "hold_seconds": 0.3, "within_seconds": 15.0}
BRIEF = {"sample_seconds": 0.05}
WATCHED = {"window_seconds": 0.5, "within_seconds": 10.0}
KINDS: tuple[type[Executor], ...] = (
    DeleteKeys,
    FlushAll,
    LruCrawler,
    RestartNode,
    SetCacheMemlimit,
    SlabsAutomove,
)
PARAMS = {
    "memcached.delete_keys": {"keys": ["price"]},
    "memcached.set_cache_memlimit": {"megabytes": 16},
    "memcached.slabs_automove": {"mode": 2},
}


@pytest.fixture
async def world(start_memcached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv(VARIABLE, PASSWORD)
    async with pool(start_memcached, tmp_path, "-m", "8") as made:
        yield made


async def refused(world: World, kind: type[Executor], *, is_protected: bool = False, **params: object) -> str:
    ctx = world.attempt(kind, is_protected=is_protected, **params)
    async with kind(world.settings) as executor:
        check = await executor.precheck(ctx)
    assert not check.ok
    return check.reason


@contextmanager
def application(node: MemcachedNode, *, refills: threading.Event) -> Iterator[None]:
    """Reads fifty keys over and over, and fills what misses again from its origin when told to."""
    stop = threading.Event()

    def serve() -> None:
        client = admin(node.port)
        for number in range(50):
            client.set(f"page{number}", "fresh")
        while not stop.wait(0.005):
            for number in range(50):
                if client.get(f"page{number}") is None and refills.is_set():
                    client.set(f"page{number}", "fresh")
        client.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


# --- delete_keys ------------------------------------------------------------------------------------------------


async def test_stale_keys_go_and_fresh_ones_that_came_since_stay(world: World) -> None:
    client = world.admin()
    client.set("price", "old")
    client.set("stock", "old")
    ctx = world.attempt(DeleteKeys, keys=["price", "stock", "gone"], hold_seconds=0.2, within_seconds=1.0)
    executor = DeleteKeys(world.settings)
    check = await executor.precheck(ctx)
    assert (check.ok, check.facts["there"]) == (True, 2)
    receipt = await executor.execute(ctx)
    assert (client.get("price"), client.get("stock")) == (None, None)
    client.set("price", "new")
    assert (await executor.verify(ctx, receipt)).ok
    await DeleteKeys(world.settings).execute(ctx)
    assert client.get("price") == b"new"
    client.set("stock", "old")
    assert "the value that was removed" in (await executor.verify(ctx, receipt)).reason


async def test_after_a_crash_only_what_is_still_stale_is_removed(world: World) -> None:
    client = world.admin()
    client.set_many({"price": "old", "stock": "old"})
    ctx = world.attempt(DeleteKeys, keys=["price", "stock"], hold_seconds=0.0)
    executor = DeleteKeys(world.settings)
    found = (await executor.precheck(ctx)).facts
    await executor.note(ctx, found)  # the call died here, and the application wrote one of them anew
    client.set("price", "new")
    receipt = await DeleteKeys(world.settings).execute(ctx)
    assert (client.get("price"), client.get("stock")) == (b"new", None)
    assert (await executor.verify(ctx, receipt)).ok


@pytest.mark.parametrize("key", ["two words", "a\r\nflush_all", "", "x" * 251, "ü"])
def test_a_key_that_is_no_key_is_not_a_parameter(key: str) -> None:
    with pytest.raises(ValueError, match="keys"):
        DeleteKeys.spec.params.model_validate({"keys": [key]})


# --- flush_all --------------------------------------------------------------------------------------------------


async def test_a_flushed_node_counts_as_well_once_the_hit_rate_is_back(world: World) -> None:
    refills = threading.Event()
    refills.set()
    with application(world.a, refills=refills):
        client = world.admin()
        assert wait_until(lambda: client.stats()[b"get_hits"] > 500, timeout_seconds=5)
        client.set("price", "old")
        ctx = world.attempt(FlushAll, sample_keys=["price"], **WATCHED)
        executor = FlushAll(world.settings)
        check = await executor.precheck(ctx)
        assert check.ok, check.reason
        receipt = await executor.execute(ctx)
        await FlushAll(world.settings).execute(ctx)
        assert world.count("flush_all 0") == 1
        assert (await executor.verify(ctx, receipt)).ok
        assert "was flushed" in await refused(world, FlushAll, **WATCHED)
        refills.clear()
        client.flush_all()
        short = world.attempt(FlushAll, sample_keys=["price"], **{**WATCHED, "within_seconds": 2.0})
        assert "the hit rate is 0%" in (await executor.verify(short, receipt)).reason


async def test_a_flush_without_evidence_does_not_count(world: World) -> None:
    client = world.admin()
    client.set("price", "old")
    ctx = world.attempt(FlushAll, sample_keys=["price"], window_seconds=0.2, within_seconds=0.6)
    executor = FlushAll(world.settings)
    stats = await executor.stats(ctx)
    partial = Receipt(FlushAll.spec.id, 0.0, {"flushes": stats.flushes}, partial=True)
    assert (await executor.verify(ctx, partial)).reason == "the node was not flushed"
    receipt = await executor.execute(ctx)
    assert "too few to tell" in (await executor.verify(ctx, receipt)).reason
    client.set("price", "old")
    assert "the value that was removed" in (await executor.verify(ctx, receipt)).reason


async def test_a_flush_that_was_noted_but_not_made_is_made_by_the_repeat(world: World) -> None:
    executor = FlushAll(world.settings)
    ctx = world.attempt(FlushAll, min_gets=0)
    flushes = (await executor.stats(ctx)).flushes
    for one in executor.memcached.places():
        await executor.note(ctx, {"at": 0.0, "flushes": flushes, "hit_rate": None, "digests": []}, one)
    await FlushAll(world.settings).execute(ctx)
    assert world.count("flush_all 0") == 1


async def test_a_delayed_flush_is_waited_for(world: World) -> None:
    client = world.admin()
    client.set("price", "old")
    ctx = world.attempt(FlushAll, delay_seconds=2, sample_keys=["price"], min_gets=0, window_seconds=0.2)
    executor = FlushAll(world.settings)
    receipt = await executor.execute(ctx)
    assert client.get("price") == b"old"
    assert (await executor.verify(ctx, receipt)).ok


async def test_a_flush_is_refused_where_the_origin_would_not_bear_it(world: World) -> None:
    few = {"window_seconds": 0.1}
    world.pool["origin_gets_per_second"] = None
    assert "is not declared" in await refused(world, FlushAll, **few)
    world.pool["origin_gets_per_second"] = 10.0
    with application(world.a, refills=threading.Event()):
        assert "its origin bears 10" in await refused(world, FlushAll, window_seconds=0.5)
    world.pool["origin_gets_per_second"] = 1e6
    world.b.stop()
    assert "the pool is not whole" in await refused(world, FlushAll, **few)
    with pytest.raises(TransientError):
        await FlushAll(world.settings).execute(world.attempt(FlushAll, **few))
    assert world.count("flush_all 0") == 0


async def test_a_lone_node_is_not_flushed_later(world: World) -> None:
    settings = world.settings
    del settings["pools"]["shop"]["nodes"]["b"]
    ctx = world.attempt(FlushAll, delay_seconds=5, window_seconds=0.1)
    assert "another node" in (await FlushAll(settings).precheck(ctx)).reason
    with pytest.raises(PermanentError, match="another node"):
        await FlushAll(settings).execute(ctx)


# --- settings of a node -----------------------------------------------------------------------------------------


async def test_more_memory_ends_evictions_and_can_be_taken_back(world: World) -> None:
    with writing(world.a, "page", 1_200, 10_000):
        client = world.admin()
        assert wait_until(lambda: client.stats()[b"evictions"] > 0, timeout_seconds=5)
        ctx = world.attempt(SetCacheMemlimit, megabytes=64, **QUICK)
        executor = SetCacheMemlimit(world.settings)
        check = await executor.precheck(ctx)
        assert (check.ok, check.facts["before"]) == (True, 8)
        receipt = await executor.execute(ctx)
        assert (receipt.facts["before"], receipt.facts["evictions_per_second"] > 0) == (8, True)
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified.reason
        assert (await SetCacheMemlimit(world.settings).rollback(ctx, receipt)).ok
        assert client.stats()[b"limit_maxbytes"] == 8 * 2**20


async def test_limits_that_the_machine_or_the_need_do_not_bear_out_are_refused(world: World) -> None:
    assert "8 already" in await refused(world, SetCacheMemlimit, megabytes=8)
    assert "nothing is evicted" in await refused(world, SetCacheMemlimit, megabytes=16, **BRIEF)
    assert "more than 102 MiB" in await refused(world, SetCacheMemlimit, megabytes=120, **BRIEF)
    world.more["max_memlimit_mb"] = 32
    assert "more than 32 MiB" in await refused(world, SetCacheMemlimit, megabytes=64, **BRIEF)
    world.node["memory_mb"] = None
    assert "not declared" in await refused(world, SetCacheMemlimit, megabytes=16, **BRIEF)
    client = world.admin()
    client.cache_memlimit(32)
    fill(client, "page", 1_600, 10_000)
    assert "more than that is in use" in await refused(world, SetCacheMemlimit, megabytes=8, **BRIEF)


async def test_pages_that_move_end_the_evictions_of_one_item_size(world: World) -> None:
    client = world.admin()
    skew(client)
    with writing(world.a, "large", 30, 100_000):
        ctx = world.attempt(SlabsAutomove, mode=2, **QUICK)
        executor = SlabsAutomove(world.settings)
        check = await executor.precheck(ctx)
        assert (check.ok, check.facts["before"]) == (True, 0), check.reason
        receipt = await executor.execute(ctx)
        assert receipt.facts["evictions_per_second"] > 0
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified.reason
        assert (await executor.rollback(ctx, receipt)).ok
        assert (await executor.stats(ctx)).automove == 0


async def test_pages_are_left_alone_where_moving_them_helps_nothing(world: World, start_memcached) -> None:
    assert "already" in await refused(world, SlabsAutomove, mode=1)
    assert "nothing is evicted" in await refused(world, SlabsAutomove, mode=2, **BRIEF)
    with writing(world.a, "page", 1_600, 10_000):
        client = world.admin()
        assert wait_until(lambda: client.stats()[b"evictions"] > 0, timeout_seconds=5)
        reason = await refused(world, SlabsAutomove, mode=2, sample_seconds=0.5)
        assert reason == "no item size has pages to spare"
    rigid = start_memcached("-o", "no_slab_reassign,slab_automove=0")
    nodes = {"nodes": {"a": {"port": rigid.port}}}
    check = await SlabsAutomove({"pools": {"shop": nodes}}).precheck(
        world.attempt(SlabsAutomove, mode=1, **BRIEF)
    )
    assert "can't move" in check.reason


async def test_the_crawler_frees_what_has_expired(world: World) -> None:
    client = world.admin()
    client.raw_command("lru_crawler disable")
    fill(client, "page", 1_600, 10_000, expire=1)
    assert wait_until(lambda: client.get("page1599") is None, timeout_seconds=5)
    items = client.stats()[b"curr_items"]
    ctx = world.attempt(LruCrawler, **QUICK)
    executor = LruCrawler(world.settings)
    assert (await executor.precheck(ctx)).ok
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    assert wait_until(lambda: client.stats()[b"curr_items"] < items / 2, timeout_seconds=5)
    assert (await executor.rollback(ctx, receipt)).ok
    assert not (await executor.stats(ctx)).has_crawler


async def test_the_crawler_is_left_alone_without_need(world: World) -> None:
    assert "it is True already" in await refused(world, LruCrawler)
    world.admin().raw_command("lru_crawler disable")
    assert "memory is left" in await refused(world, LruCrawler, **BRIEF)
    assert "it is False already" in await refused(world, LruCrawler, enabled=False)


# --- all of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.spec.id)
async def test_protected_always_wins_and_an_unknown_node_is_not_touched(
    kind: type[Executor], world: World
) -> None:
    params = PARAMS.get(kind.spec.id, {})
    assert "is protected" in await refused(world, kind, is_protected=True, **params)
    world.node["protected"] = True
    assert "is protected" in await refused(world, kind, **params)
    settings = {"pools": {"other": world.settings["pools"]["shop"]}}
    with pytest.raises(PermanentError, match="must name a pool and a node"):
        await kind(settings).execute(world.attempt(kind, **params))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.spec.id)
async def test_diagnose_tells_counters_and_neither_keys_nor_values(
    kind: type[Executor], world: World
) -> None:
    world.admin().set("customer:4711", "Ann")
    ctx = world.attempt(kind, **PARAMS.get(kind.spec.id, {}))
    found = await kind(world.settings).diagnose(ctx)
    assert found["items"] == 1
    assert "4711" not in str(found)


async def test_the_prober_reads_fill_and_hit_rate(world: World) -> None:
    client = world.admin()
    prober = MemcachedProber(world.settings)

    async def seen(**params: object) -> tuple[bool | None, str]:
        reading = await prober.read(
            world.target(),
            prober.params.model_validate(params),
            timeout_seconds=1.0,
            clock=SystemClock(),
            run_blocking=run_in_thread,
        )
        return reading.signals.up, str(reading.facts.get("reason", ""))

    assert await seen(min_hit_rate=0.5) == (True, "")
    for _ in range(30):
        client.get("missing")
    assert await seen(min_hit_rate=0.5) == (False, "only 0% of the reads hit")
    assert await seen() == (True, "")
    world.a.stop()
    assert (await seen())[0] is False
