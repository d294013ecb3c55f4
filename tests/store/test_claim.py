"""Who may work on what, and when: leases, fences, one incident per target, timers."""

import asyncio

import pytest
from store.building import (
    MEASUREMENT,
    approval,
    attempt,
    begun,
    change,
    claimed,
    decision,
    fixed,
    moved,
    open_one,
    placed,
)

from oncall_agent.errors import StaleLeaseError
from oncall_agent.models import (
    UNKNOWN_TARGET,
    IncidentState,
    OutcomeStatus,
    Phase,
    Severity,
)
from oncall_agent.store import Move, Store


def _names(found):
    return [one.incident.labels["instance"] for one in found]


async def test_claims_by_severity_then_age(store: Store):
    severities = [Severity.INFO, Severity.CRITICAL, Severity.WARNING, Severity.CRITICAL]
    for number, severity in enumerate(severities):
        await store.accept([placed(f"{number}", target=f"t{number}", severity=severity)], 1_000.0 + number)
    assert ["1", "3", "2", "0"] == _names(await claimed(store, 1_010.0, limit=9))


async def test_claims_no_more_than_the_limit(store: Store):
    await store.accept([placed(f"{n}", target=f"t{n}") for n in range(5)], 1_000.0)
    assert [2, 2, 1, 0] == [len(await claimed(store, 1_000.0, limit=2)) for _ in range(4)]


async def test_concurrent_claims_never_share_an_incident(store: Store):
    await store.accept([placed(f"{n}", target=f"t{n}") for n in range(20)], 1_000.0)
    answers = await asyncio.gather(*(claimed(store, 1_000.0, limit=3) for _ in range(10)))
    names = [name for found in answers for name in _names(found)]
    assert sorted({f"{n}" for n in range(20)}) == sorted(names)


async def test_target_is_held_by_one_incident_at_a_time(store: Store):
    await store.accept([placed(f"{n}", target="web") for n in range(3)], 1_000.0)
    (first,) = await claimed(store, 1_000.0, limit=9)
    assert (1, 2) == ((await store.counts())["running"], (await store.counts())["blocked"])
    assert [] == await claimed(store, 1_001.0, limit=9)
    await store.commit(moved(first, 1_001.0, IncidentState.RESOLVED))
    assert (1, 1) == ((await store.counts())["queued"], (await store.counts())["blocked"])
    assert ["1"] == _names(await claimed(store, 1_002.0, limit=9))


async def test_worst_of_the_blocked_is_next(store: Store):
    first = await open_one(store, "0")
    await store.accept([placed("1"), placed("2", severity=Severity.CRITICAL)], 1_001.0)
    assert [] == await claimed(store, 1_001.0, limit=9)
    await store.commit(moved(first, 1_002.0, IncidentState.RESOLVED))
    assert ["2"] == _names(await claimed(store, 1_002.0, limit=9))


async def test_unknown_target_is_never_held(store: Store):
    await store.accept([placed(f"{n}", target=UNKNOWN_TARGET) for n in range(3)], 1_000.0)
    assert 3 == len(await claimed(store, 1_000.0, limit=9))


async def test_many_blocked_do_not_keep_others_from_being_claimed(store: Store):
    crowd = [placed(f"{n}", target="web", severity=Severity.CRITICAL) for n in range(700)]
    await store.accept([*crowd, placed("other", target="db", severity=Severity.INFO)], 1_000.0)
    assert ["0", "other"] == _names(await claimed(store, 1_000.0, limit=2))


@pytest.mark.parametrize(
    ("phase", "is_held"),
    [
        pytest.param(Phase.SETTLING, True, id="a fix settles"),
        pytest.param(Phase.ATTEMPTING, True, id="an attempt is open"),
        pytest.param(Phase.NEW, False, id="waits for its next try"),
    ],
)
async def test_parked_incident_keeps_its_target_only_while_it_was_touched(store: Store, phase, is_held):
    found = await open_one(store, "a")
    await store.accept([placed("b")], 1_000.0)
    await store.commit(moved(found, 1_001.0, IncidentState.PARKED, phase=phase, run_after=1_100.0))
    assert ([] if is_held else ["b"]) == _names(await claimed(store, 1_002.0, limit=9))


async def test_parked_incident_runs_after_its_time_and_goes_on_in_its_phase(store: Store):
    found = await open_one(store, "a")
    parked = moved(
        found, 1_001.0, IncidentState.PARKED, phase=Phase.SETTLING, run_after=1_030.0, settle_until=1_060.0
    )
    await store.commit(parked)
    assert [] == await claimed(store, 1_029.0)
    (again,) = await claimed(store, 1_030.0)
    assert (Phase.SETTLING, 1_060.0, 2) == (
        again.incident.phase,
        again.incident.settle_until,
        again.incident.fence,
    )


async def test_due_incident_with_a_held_target_waits_blocked(store: Store):
    first = await open_one(store, "a")
    await store.commit(moved(first, 1_000.0, IncidentState.PARKED, run_after=1_010.0))
    second = await open_one(store, "b", now=1_001.0)
    assert [] == await claimed(store, 1_020.0, lease_seconds=30, limit=9)
    await store.commit(moved(second, 1_021.0, IncidentState.ESCALATED))
    assert ["a"] == _names(await claimed(store, 1_021.0, limit=9))


async def test_lapsed_lease_is_claimed_by_the_next_and_fences_the_old(store: Store):
    (old,) = [await open_one(store, "a")]
    assert [] == await claimed(store, 1_029.0)
    (new,) = await claimed(store, 1_030.0)
    assert (old.incident.id, 2, 2) == (new.incident.id, new.incident.fence, new.incident.claim_count)
    with pytest.raises(StaleLeaseError):
        await store.commit(moved(old, 1_031.0, IncidentState.RESOLVED))
    assert None is await store.commit(moved(new, 1_031.0, IncidentState.RESOLVED))


async def test_renewed_lease_lasts(store: Store):
    found = await open_one(store, "a")
    leases = [(found.incident.id, found.incident.fence), ("nothing", 1)]
    assert {found.incident.id} == await store.renew(leases, 30.0, 1_020.0)
    assert [] == await claimed(store, 1_045.0)
    (new,) = await claimed(store, 1_050.0)
    assert set() == await store.renew(leases, 30.0, 1_051.0)
    assert {new.incident.id} == await store.renew([(new.incident.id, new.incident.fence)], 30.0, 1_051.0)


async def test_claims_without_progress_are_counted_and_progress_resets_them(store: Store):
    await open_one(store, "a")
    (second,) = await claimed(store, 1_030.0)
    (third,) = await claimed(store, 1_060.0)
    assert [2, 3] == [second.incident.claim_count, third.incident.claim_count]
    await store.commit(moved(third, 1_061.0, IncidentState.PARKED, run_after=1_062.0))
    assert [1] == [one.incident.claim_count for one in await claimed(store, 1_062.0)]


async def test_release_all_makes_leases_of_a_dead_process_void(durable_url, open_store):
    store = await open_store(durable_url)
    found = await open_one(store, "a")
    await store.close()
    store = await open_store(durable_url)
    assert 1 == await store.release_all(1_001.0)
    (again,) = await claimed(store, 1_001.0)
    assert (found.incident.id, 2) == (again.incident.id, again.incident.fence)


async def test_claim_brings_the_story_so_far(store: Store):
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    asked = approval(found, 1_002.0)
    await store.commit(
        change(found, 1_002.0, approval=asked, move=Move(IncidentState.PARKED, Phase.ATTEMPTING))
    )
    (again,) = await claimed(store, 1_003.0)
    assert [first.id] == [one.id for one in again.attempts]
    assert (None, "errors", asked, MEASUREMENT) == (
        again.attempts[0].outcome,
        again.incident.alert_class,
        again.approval,
        again.before,
    )
    assert decision(1_001.0).scored == again.decision.scored
    assert decision(1_001.0).refused == again.decision.refused
    assert placed("a").alert == again.alerts[0]


async def test_history_tells_of_the_target_the_action_and_the_service(store: Store):
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    await store.commit(fixed(found, 1_002.0, first.id))
    await store.accept([placed("b", target="db"), placed("c")], 1_100.0)
    same, other = sorted(
        await claimed(store, 1_100.0, limit=2), key=lambda one: one.incident.target, reverse=True
    )
    assert [(first.id, OutcomeStatus.SUCCEEDED, 0.5)] == [
        (past.id, past.outcome.status, past.reward) for past in same.history.attempts
    ]
    assert () == other.history.attempts
    assert ({"app.restart": 1}, 1, 2, 1) == (
        dict(same.history.action_counts),
        same.history.service_count,
        same.history.open_incidents,
        same.history.recurrences,
    )


async def test_history_forgets_attempts_older_than_the_rate_window(store: Store):
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    await store.commit(fixed(found, 1_002.0, first.id))
    later = await open_one(store, "b", now=1_001.0 + 3_600.0 + 61.0)
    assert ({}, 0) == (dict(later.history.action_counts), later.history.service_count)


async def test_newest_fifty_alerts_come_with_a_claim(store: Store):
    await store.accept([placed(f"{n:03d}", key="k") for n in range(80)], 1_000.0)
    (found,) = await claimed(store, 1_000.0)
    assert [f"print-{n:03d}" for n in range(79, 29, -1)] == [alert.fingerprint for alert in found.alerts]


async def _woken(store: Store, act) -> bool:
    waiting = asyncio.ensure_future(store.wait_for_work(20.0))
    await asyncio.sleep(0.01)
    was_waiting = not waiting.done()
    await act()
    await asyncio.wait_for(waiting, 5.0)
    return was_waiting


async def test_waiting_for_work_ends_with_an_accepted_alert(store: Store):
    assert await _woken(store, lambda: store.accept([placed("a")], 1_000.0))


async def test_waiting_for_work_ends_with_a_freed_target(store: Store):
    found = await open_one(store, "a")
    await store.accept([placed("b")], 1_000.0)
    await claimed(store, 1_000.0)
    await store.wait_for_work(0.001)
    await store.wait_for_work(0.001)
    assert await _woken(store, lambda: store.commit(moved(found, 1_001.0, IncidentState.RESOLVED)))


async def test_waiting_for_work_ends_with_the_next_timer(store: Store, clock):
    found = await open_one(store, "a")
    await store.commit(moved(found, 1_000.0, IncidentState.PARKED, run_after=1_000.02))
    await store.wait_for_work(0.001)
    await asyncio.wait_for(store.wait_for_work(20.0), 5.0)
    clock.time = 1_000.02
    assert 1 == len(await claimed(store, clock.now()))


async def test_waiting_for_work_ends_after_its_timeout(store: Store):
    await asyncio.wait_for(store.wait_for_work(0.001), 5.0)
