"""A process that is killed at any moment has lost nothing that it said was stored."""

import asyncio
import sys
from pathlib import Path

import pytest
from store.building import placed

from oncall_agent.models import SuppressReason

_TESTS = Path(__file__).parent.parent
_CHILD = """
import asyncio, sys
from store.building import placed
from oncall_agent.contract import SystemClock
from oncall_agent.settings.model import StoreSettings
from oncall_agent.store import Store

async def caller(store, name):
    for number in range(100_000):
        await store.accept([placed(f"{name}-{number}", target=name)], 1_000.0)
        print(f"{name}-{number}", flush=True)
        for found in await store.claim(name, limit=1, lease_seconds=30.0, now=1_000.0):
            pass

async def main():
    store = await Store.open(StoreSettings(url=sys.argv[1]), clock=SystemClock())
    await asyncio.gather(*(caller(store, f"c{n}") for n in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 40, 300])
async def test_killed_process_has_lost_nothing_it_answered_for(tmp_path, open_store, lines):
    url = f"sqlite:///{tmp_path}/store.db"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, url, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": str(_TESTS)}
    )
    told = [(await asyncio.wait_for(child.stdout.readline(), 30)).decode().strip() for _ in range(lines)]
    child.kill()
    told += (await child.stdout.read()).decode().split()
    await child.wait()
    store = await open_store(url)
    again = [await store.accept([placed(name, target=name.partition("-")[0])], 1_001.0) for name in told]
    assert {SuppressReason.DUPLICATE} == {row.reason for (row,) in again}
    terms = await store.conservation()
    assert (True, True) == (terms.balanced, terms.accepted >= 2 * len(told))
