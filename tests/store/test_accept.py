"""What becomes of alerts, and that each of them stays counted."""

import asyncio

import pytest
from store.building import claimed, moved, open_one, placed, resolved

from oncall_agent.errors import QueueFullError
from oncall_agent.models import (
    Disposition,
    EndReason,
    IncidentState,
    Phase,
    Severity,
    SuppressReason,
)
from oncall_agent.store import Store


def _said(accepted):
    return [(row.disposition, row.reason) for row in accepted]


async def test_first_alert_opens_an_incident(store: Store):
    (accepted,) = await store.accept([placed("a", severity=Severity.CRITICAL)], 1_000.0)
    detail = await store.incident(accepted.incident_id)
    assert Disposition.OPENED == accepted.disposition
    assert (IncidentState.QUEUED, Phase.NEW, Severity.CRITICAL, "a fails") == (
        detail.incident.state,
        detail.incident.phase,
        detail.incident.severity,
        detail.incident.title,
    )
    assert placed("a", severity=Severity.CRITICAL).alert == detail.alerts[0].alert


async def test_same_key_merges_and_takes_the_worst_severity(store: Store):
    opened, merged = await store.accept(
        [placed("a", key="k"), placed("b", key="k", severity=Severity.CRITICAL)], 1_000.0
    )
    (later,) = await store.accept([placed("c", key="k", severity=Severity.ERROR)], 1_001.0)
    incident = (await store.incident(opened.incident_id)).incident
    assert [opened.incident_id] * 2 == [merged.incident_id, later.incident_id]
    assert (3, 3, Severity.CRITICAL) == (incident.alert_count, incident.firing_count, incident.severity)


async def test_repeat_is_a_duplicate_with_the_first_id(store: Store):
    (first,) = await store.accept([placed("a")], 1_000.0)
    again = await store.accept([placed("a"), placed("a")], 1_050.0)
    stored = (await store.incident(first.incident_id)).alerts[0]
    assert [(Disposition.SUPPRESSED, SuppressReason.DUPLICATE)] * 2 == _said(again)
    assert {(first.id, first.incident_id)} == {(row.id, row.incident_id) for row in again}
    assert (2, 1_050.0, 1_000.0) == (stored.repeat_count, stored.last_seen_at, stored.received_at)


async def test_firing_and_resolved_of_one_body_work_in_order(store: Store):
    accepted = await store.accept([placed("a"), resolved("a"), resolved("a")], 1_000.0)
    incident = (await store.incident(accepted[0].incident_id)).incident
    assert [
        (Disposition.OPENED, None),
        (Disposition.CLEARED, None),
        (Disposition.SUPPRESSED, SuppressReason.DUPLICATE),
    ] == _said(accepted)
    assert (2, 0, True) == (incident.alert_count, incident.firing_count, incident.is_cleared)


async def test_resolved_before_firing_keeps_the_late_firing_from_opening(store: Store):
    early = await store.accept([resolved("a")], 1_000.0)
    late = await store.accept([placed("a")], 1_001.0)
    assert [(Disposition.SUPPRESSED, SuppressReason.RESOLVED_WITHOUT_FIRING)] == _said(early)
    assert [(Disposition.SUPPRESSED, SuppressReason.STALE_FIRING)] == _said(late)
    assert 0 == (await store.counts())["queued"]


async def test_cleared_alert_that_fires_anew_is_merged_and_firing_again(store: Store):
    (first, _) = await store.accept([placed("a"), resolved("a")], 1_000.0)
    (again,) = await store.accept([placed("a", starts_at=950.0)], 1_010.0)
    incident = (await store.incident(first.incident_id)).incident
    assert (Disposition.MERGED, 1) == (again.disposition, incident.firing_count)


async def test_silenced_alert_is_stored_and_opens_nothing(store: Store):
    accepted = await store.accept([placed("a", silence="s1"), resolved("b", silence="s1")], 1_000.0)
    assert [(Disposition.SUPPRESSED, SuppressReason.SILENCED)] * 2 == _said(accepted)
    assert 2 == (await store.conservation()).suppressed["silenced"]


async def test_coming_back_too_often_is_flapping_and_then_suppressed(store: Store):
    said = []
    for number in range(4):
        (accepted,) = await store.accept([placed("a", starts_at=900.0 + number)], 1_000.0 + number)
        said.append(accepted)
        for found in await claimed(store, 1_000.0 + number):
            await store.commit(
                moved(found, 1_000.0 + number, IncidentState.RESOLVED, end_reason=EndReason.SELF_HEALED)
            )
    flapping = [(await store.incident(row.incident_id)).incident.flapping for row in said[:3]]
    assert [False, False, True] == flapping
    assert (Disposition.SUPPRESSED, SuppressReason.FLAPPING, None) == (
        said[3].disposition,
        said[3].reason,
        said[3].incident_id,
    )


async def test_flapping_is_over_after_its_window(store: Store):
    for number in range(4):
        await store.accept([placed("a", starts_at=900.0 + number)], 1_000.0 + number)
        for found in await claimed(store, 1_000.0 + number):
            await store.commit(moved(found, 1_000.0 + number, IncidentState.RESOLVED))
    (later,) = await store.accept([placed("a", starts_at=2_000.0)], 1_700.0)
    assert Disposition.OPENED == later.disposition


@pytest.mark.parametrize(
    ("clear", "now", "expected"),
    [
        pytest.param(False, 1_900.0, Disposition.MERGED, id="still firing, escalated lately"),
        pytest.param(False, 2_100.0, Disposition.OPENED, id="still firing, escalated long ago"),
        pytest.param(True, 1_900.0, Disposition.OPENED, id="cleared"),
    ],
)
async def test_alert_of_an_escalated_incident(store: Store, clear, now, expected):
    found = await open_one(store, "a", key="k")
    await store.commit(moved(found, 1_000.0, IncidentState.ESCALATED, end_reason=EndReason.POLICY_CHOSE))
    if clear:
        (cleared,) = await store.accept([resolved("a", key="k")], 1_001.0)
        assert Disposition.CLEARED == cleared.disposition
    (accepted,) = await store.accept([placed("b", key="k")], now)
    assert expected == accepted.disposition
    assert (await store.conservation()).balanced


async def test_resolved_alert_of_a_resolved_incident_is_stored_alone(store: Store):
    found = await open_one(store, "a")
    await store.commit(moved(found, 1_000.0, IncidentState.RESOLVED, end_reason=EndReason.FIXED))
    accepted = await store.accept([resolved("a")], 1_001.0)
    assert [(Disposition.SUPPRESSED, SuppressReason.RESOLVED_WITHOUT_FIRING)] == _said(accepted)


async def test_last_clear_makes_a_parked_incident_claimable_at_once(store: Store):
    found = await open_one(store, "a")
    await store.commit(moved(found, 1_000.0, IncidentState.PARKED, phase=Phase.NEW, run_after=9_000.0))
    assert [] == await claimed(store, 1_001.0)
    await store.accept([resolved("a")], 1_002.0)
    (again,) = await claimed(store, 1_002.0)
    assert (found.incident.id, Phase.NEW, True) == (
        again.incident.id,
        again.incident.phase,
        again.incident.is_cleared,
    )


async def test_request_beyond_the_open_bound_is_refused_whole(any_url, open_store):
    store = await open_store(any_url, max_open_incidents=2)
    with pytest.raises(QueueFullError):
        await store.accept([placed("a"), placed("b"), placed("c")], 1_000.0)
    assert 0 == (await store.conservation()).accepted
    first, second = await asyncio.gather(
        store.accept([placed("a"), placed("b")], 1_000.0),
        store.accept([placed("c")], 1_000.0),
        return_exceptions=True,
    )
    assert (2, True) == (len(first), isinstance(second, QueueFullError))
    merged = await store.accept([placed("d", key="key-a")], 1_001.0)
    assert [(Disposition.MERGED, None)] == _said(merged)


async def test_refused_request_may_be_repeated_later(any_url, open_store):
    store = await open_store(any_url, max_open_incidents=1)
    found = await open_one(store, "a")
    with pytest.raises(QueueFullError):
        await store.accept([placed("b")], 1_000.0)
    await store.commit(moved(found, 1_001.0, IncidentState.RESOLVED))
    (accepted,) = await store.accept([placed("b")], 1_002.0)
    assert Disposition.OPENED == accepted.disposition


async def test_writes_beyond_the_waiting_bound_are_refused(any_url, open_store):
    store = await open_store(any_url, max_waiting_writes=10)

    async def accepted(number: int) -> object:
        return await store.accept([placed(f"n{number}")], 1_000.0)

    answers = await asyncio.gather(*(accepted(number) for number in range(30)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, QueueFullError)]
    stored = (await store.conservation()).accepted
    assert 20 == len(refused)
    assert 10 == stored


async def test_concurrent_requests_with_one_key_open_one_incident(store: Store):
    answers = await asyncio.gather(*(store.accept([placed(f"n{i}", key="k")], 1_000.0) for i in range(50)))
    assert 1 == len({row.incident_id for answer in answers for row in answer})
    assert [50] == [row.alert_count for row in (await store.incidents()).items]


async def test_empty_request_is_accepted(store: Store):
    assert [] == await store.accept([], 1_000.0)


async def test_text_that_databases_dislike_is_stored(store: Store):
    odd = placed("nul\x00 ' \" % :x é 🔥", key="k%s", service="50%\x00")
    (first,) = await store.accept([odd], 1_000.0)
    (again,) = await store.accept([odd], 1_000.0)
    detail = await store.incident(first.incident_id)
    assert SuppressReason.DUPLICATE == again.reason
    assert odd.alert.labels == detail.alerts[0].alert.labels


async def test_alert_that_cannot_be_written_fails_alone(store: Store):
    broken = placed("\ud800")
    answers = await asyncio.gather(
        store.accept([placed("a")], 1_000.0),
        store.accept([broken], 1_000.0),
        store.accept([placed("b")], 1_000.0),
        return_exceptions=True,
    )
    assert [list, True, list] == [type(answers[0]), isinstance(answers[1], Exception), type(answers[2])]
    assert (2, True) == ((await store.conservation()).accepted, (await store.conservation()).balanced)
    assert "" == (await store.stats()).failing_for


async def test_accepted_alerts_outlive_the_store(durable_url, open_store):
    store = await open_store(durable_url)
    (first,) = await store.accept([placed("a")], 1_000.0)
    await store.close()
    store = await open_store(durable_url)
    (again,) = await store.accept([placed("a")], 1_001.0)
    assert (first.id, SuppressReason.DUPLICATE) == (again.id, again.reason)
    assert {"a"} == {(await store.incident(first.incident_id)).incident.labels["instance"]}
