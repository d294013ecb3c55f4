"""A hung backend keeps its own threads and nobody else's."""

from __future__ import annotations

import asyncio
import threading

import pytest

from oncall_agent import pools
from oncall_agent.errors import TransientError
from oncall_agent.pools import Pools


async def test_a_blocking_call_runs_outside_the_event_loop():
    here = threading.get_ident()
    assert await Pools(2).of("docker").run(threading.get_ident) != here


async def test_the_error_of_the_call_reaches_the_caller():
    def fail():
        raise KeyError("gone")

    with pytest.raises(KeyError):
        await Pools(1).of("docker").run(fail)


async def test_a_system_whose_threads_all_hang_is_refused_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(pools, "_WAIT_FOR_THREAD_SECONDS", 0.01)
    release = threading.Event()
    both = Pools(2)
    hanging = [asyncio.create_task(both.of("hung").run(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TransientError, match="hung"):
        await both.of("hung").run(int)
    assert await both.of("well").run(int) == 0
    release.set()
    assert await asyncio.gather(*hanging) == [True, True]


async def test_a_thread_comes_back_only_when_its_call_returns(monkeypatch):
    monkeypatch.setattr(pools, "_WAIT_FOR_THREAD_SECONDS", 0.01)
    release = threading.Event()
    pool = Pools(1).of("hung")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.005):
            await pool.run(release.wait)
    with pytest.raises(TransientError):
        await pool.run(int)
    release.set()
    for _ in range(500):
        try:
            assert await pool.run(int) == 0
            return
        except TransientError:
            await asyncio.sleep(0.001)
    pytest.fail("the thread never came back")
