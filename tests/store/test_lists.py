"""Lists, pages, the feed and housekeeping."""

import asyncio

import pytest
from store.building import (
    attempt,
    begun,
    claimed,
    fixed,
    moved,
    open_one,
    placed,
    resolved,
)

from oncall_agent.errors import NotFoundError, PayloadError
from oncall_agent.models import IncidentState
from oncall_agent.store import FeedItem, Store

_DAY = 86_400.0


async def _some(store: Store) -> None:
    """Six incidents: two resolved, one escalated, one running, two queued."""
    await store.accept(
        [placed(f"{n}", target=f"t{n % 3}", alert_class=f"c{n % 2}") for n in range(3)], 1_000.0
    )
    ends = (IncidentState.RESOLVED, IncidentState.ESCALATED, IncidentState.RESOLVED)
    for found, state in zip(await claimed(store, 1_000.0, limit=3), ends, strict=True):
        await store.commit(moved(found, 1_001.0, state))
    await open_one(store, "3", target="t0", alert_class="c1")
    await store.accept([placed("4", target="t1", alert_class="c0")], 1_000.0)
    await store.accept([placed("5", target="t2", alert_class="c1")], 1_000.0)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        pytest.param({}, "543210", id="all"),
        pytest.param({"state": "open"}, "543", id="open"),
        pytest.param({"state": "final"}, "210", id="final"),
        pytest.param({"state": "resolved"}, "20", id="one state"),
        pytest.param({"state": "running"}, "3", id="running"),
        pytest.param({"alert_class": "c1"}, "531", id="class"),
        pytest.param({"target": "t0"}, "30", id="target"),
        pytest.param({"state": "open", "alert_class": "c1", "target": "t2"}, "5", id="all filters"),
        pytest.param({"target": "none"}, "", id="nothing"),
    ],
)
async def test_list_is_filtered_newest_first_and_paged(store: Store, filters, expected):
    await _some(store)
    whole = await store.incidents(**filters)
    assert list(expected) == [incident.labels["instance"] for incident in whole.items]
    assert None is whole.next_cursor
    seen, cursor = [], None
    for _ in range(len(expected) + 1):
        page = await store.incidents(**filters, limit=1, cursor=cursor)
        seen.extend(incident.labels["instance"] for incident in page.items)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert list(expected) == seen


async def test_unknown_state_is_named(store: Store):
    with pytest.raises(PayloadError) as error:
        await store.incidents("nonsense")
    assert "state" == error.value.field


async def test_unknown_incident_is_not_found(store: Store):
    with pytest.raises(NotFoundError):
        await store.incident("nothing")


async def test_ledger_is_filtered_and_paged(store: Store):
    ids = []
    for number in range(3):
        found = await open_one(store, f"{number}", target=f"t{number}", service=f"s{number}")
        begin = attempt(found, 1_001.0, action=f"app.action_{number % 2}")
        ids.append(begin.id)
        await store.commit(begun(found, 1_001.0, begin, None))
        await store.commit(fixed(found, 1_002.0, begin.id))
    first = await store.attempts(limit=2)
    rest = await store.attempts(limit=2, cursor=first.next_cursor)
    assert ids[::-1] == [row.id for row in (*first.items, *rest.items)]
    assert [ids[1]] == [row.id for row in (await store.attempts(action="app.action_1")).items]
    one = (await store.incidents(target="t2")).items[0].id
    assert [ids[2]] == [row.id for row in (await store.attempts(incident_id=one)).items]


async def test_watchers_are_told_after_the_commit(store: Store):
    with store.feed.subscribe() as watcher:
        (accepted,) = await store.accept([placed("a")], 1_000.0)
        item = await asyncio.wait_for(anext(watcher), 5.0)
    assert FeedItem(accepted.incident_id, "queued", "incident.opened") == item
    assert not store.feed.is_watched


async def test_slow_watcher_loses_the_oldest_and_is_told(store: Store):
    watcher = store.feed.subscribe(bound=3)
    await store.accept([placed(f"{n}", target=f"t{n}") for n in range(5)], 1_000.0)
    assert "feed.reloaded" == (await asyncio.wait_for(anext(watcher), 5.0)).name
    await store.accept([placed("9", target="t9")], 1_000.0)
    assert "incident.opened" == (await asyncio.wait_for(anext(watcher), 5.0)).name
    watcher.close()
    with pytest.raises(StopAsyncIteration):
        await anext(watcher)


async def test_old_incidents_are_forgotten_and_stay_counted(any_url, open_store):
    store = await open_store(any_url, retention_days=1)
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    await store.commit(fixed(found, 1_002.0, first.id))
    await store.accept([placed("a"), resolved("a"), resolved("a"), placed("s", silence="x")], 1_003.0)
    kept = await open_one(store, "b", now=1_004.0)
    before = await store.conservation()
    assert 0 == await store.housekeeping(1_002.0 + _DAY)
    assert 3 == await store.housekeeping(1_004.0 + _DAY)
    assert 0 == await store.housekeeping(1_004.0 + _DAY)
    after = await store.conservation()
    assert (before, True) == (after, after.balanced)
    with pytest.raises(NotFoundError):
        await store.incident(found.incident.id)
    assert () == (await store.attempts()).items
    assert kept.incident.id == (await store.incidents()).items[0].id
    assert (0, 1) == ((await store.counts())["resolved"], (await store.counts())["running"])


async def test_housekeeping_takes_bounded_slices(any_url, open_store):
    store = await open_store(any_url, retention_days=1)
    await store.accept([placed(f"{n}", silence="x") for n in range(450)], 1_000.0)
    sizes = [await store.housekeeping(1_001.0 + _DAY) for _ in range(4)]
    assert [200, 200, 50, 0] == sizes
    assert (True, 450) == ((await store.conservation()).balanced, (await store.conservation()).accepted)


async def test_stats_tell_how_the_store_does(store: Store):
    await store.accept([placed("a")], 1_000.0)
    stats = await store.stats()
    assert (0, "", True) == (stats.waiting, stats.failing_for, stats.committed >= 1)
