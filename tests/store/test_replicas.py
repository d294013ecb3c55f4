"""Two processes on one PostgreSQL: what one does, the other respects."""

import asyncio

from store.building import attempt as new_attempt
from store.building import begun, claimed, fixed, moved, placed
from store.conftest import empty

from oncall_agent.models import IncidentState
from oncall_agent.store import BeginLimits


async def _pair(postgres_url, open_store):
    url = empty(postgres_url)
    return await open_store(url), await open_store(url)


async def test_alerts_of_one_kind_open_one_incident_whoever_accepts_them(postgres_url, open_store):
    pair = await _pair(postgres_url, open_store)
    requests = (
        pair[n % 2].accept([placed(f"{n // 2}", key=f"k{n // 2 % 5}", target=f"t{n % 5}")], 1_000.0)
        for n in range(200)
    )
    answers = await asyncio.gather(*requests)
    assert [1] * 200 == [len(answer) for answer in answers]
    terms = await pair[0].conservation()
    assert (200, 100, True) == (terms.accepted, terms.suppressed["duplicate"], terms.balanced)
    assert 5 == len((await pair[1].incidents()).items)


async def test_incidents_and_targets_are_never_shared(postgres_url, open_store):
    pair = await _pair(postgres_url, open_store)
    await pair[0].accept([placed(f"{n}", target=f"t{n % 20}") for n in range(60)], 1_000.0)
    done: list[str] = []

    async def work(number: int) -> None:
        store = pair[number % 2]
        for _ in range(2_000):
            if len(done) >= 60:
                return
            found = await claimed(store, 1_000.0)
            if not found:
                await asyncio.sleep(0.001)  # the other one has it all for a moment
            for one in found:
                begin = new_attempt(one, 1_000.0)
                assert None is await store.commit(begun(one, 1_000.0, begin, None))
                done.append(one.incident.id)
                await store.commit(fixed(one, 1_001.0, begin.id))

    await asyncio.gather(*(work(number) for number in range(6)))
    assert (60, 60) == (len(done), len(set(done)))
    assert {"resolved": 60} == {state: n for state, n in (await pair[0].counts()).items() if n}
    assert (await pair[1].conservation()).balanced


async def test_a_rate_holds_over_both(postgres_url, open_store):
    pair = await _pair(postgres_url, open_store)
    await pair[0].accept([placed(f"{n}", target=f"t{n}") for n in range(12)], 1_000.0)
    found = await claimed(pair[0], 1_000.0, limit=12)
    limits = BeginLimits(0.0, 5, 99, 3_600.0)
    answers = await asyncio.gather(
        *(
            pair[n % 2].commit(begun(one, 1_000.0, new_attempt(one, 1_000.0), limits))
            for n, one in enumerate(found)
        )
    )
    assert 5 == sum(answer is None for answer in answers)


async def test_work_done_by_one_frees_the_target_for_the_other(postgres_url, open_store):
    one, two = await _pair(postgres_url, open_store)
    await one.accept([placed("a"), placed("b")], 1_000.0)
    (first,) = await claimed(one, 1_000.0, limit=2)
    assert [] == await claimed(two, 1_000.0, limit=2)
    await one.commit(moved(first, 1_001.0, IncidentState.RESOLVED))
    assert 1 == len(await claimed(two, 1_001.0, limit=2))
