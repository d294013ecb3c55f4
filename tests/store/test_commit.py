"""A change is written whole or not at all, once, and by the holder of the lease only."""

import asyncio
from dataclasses import replace

import pytest
from store.building import (
    ACTION,
    LIMITS,
    MEASUREMENT,
    OUTCOME,
    RECEIPT,
    REWARD,
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

from oncall_agent.errors import OncallAgentError, StaleLeaseError, StoreError
from oncall_agent.models import (
    EndReason,
    IncidentState,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Phase,
    RefusalReason,
)
from oncall_agent.policy.base import PolicyUpdate
from oncall_agent.store import BeginLimits, Finished, Move, Store, TimelineEntry, new_id


async def test_a_whole_incident_is_told_in_its_detail(store: Store):
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    await store.commit(change(found, 1_002.0, receipt=(first.id, RECEIPT)))
    await store.commit(fixed(found, 1_003.0, first.id))
    detail = await store.incident(found.incident.id)
    incident = detail.incident
    assert (IncidentState.RESOLVED, EndReason.FIXED, 1_003.0, 1) == (
        incident.state,
        incident.end_reason,
        incident.closed_at,
        incident.attempt_count,
    )
    (told,) = detail.attempts
    assert (OUTCOME, RECEIPT, 0.5, 1_003.0) == (
        told.attempt.outcome,
        told.attempt.receipt,
        told.attempt.reward,
        told.attempt.finished_at,
    )
    assert (MEASUREMENT, MEASUREMENT, REWARD) == (told.before, told.after, told.reward)
    assert ["attempt.begun", "attempt.finished"] == [line.name for line in detail.timeline]
    assert [1_001.0, 1_003.0] == [line.at for line in detail.timeline]


async def test_decision_is_stored_whole_with_its_inputs(store: Store):
    found = await open_one(store, "a")
    made = decision(1_001.0)
    await store.commit(change(found, 1_001.0, decision=made, context={"hour": 3, "deep": {"x": [1.5]}}))
    stored = await store.decision(found.incident.id)
    assert (made, {"hour": 3, "deep": {"x": [1.5]}}) == (stored.decision, stored.context)


async def test_incident_without_a_decision_has_none(store: Store):
    assert None is await store.decision("nothing")


async def test_begun_attempt_is_in_the_ledger_before_it_ends(durable_url, open_store):
    store = await open_store(durable_url)
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    await store.close()
    store = await open_store(durable_url)
    (stored,) = (await store.attempts()).items
    assert (first, Phase.ATTEMPTING) == (stored, (await store.incident(found.incident.id)).incident.phase)


async def test_wrong_fence_writes_nothing(store: Store):
    found = await open_one(store, "a")
    stale = replace(begun(found, 1_001.0, attempt(found, 1_001.0)), fence=found.incident.fence + 1)
    with pytest.raises(StaleLeaseError):
        await store.commit(stale)
    detail = await store.incident(found.incident.id)
    assert ((), (), ()) == (detail.attempts, detail.decisions, detail.timeline)


async def test_incident_that_was_moved_takes_no_second_change(store: Store):
    found = await open_one(store, "a")
    answers = await asyncio.gather(
        store.commit(moved(found, 1_001.0, IncidentState.RESOLVED)),
        store.commit(moved(found, 1_001.0, IncidentState.ESCALATED)),
        return_exceptions=True,
    )
    assert [type(None), StaleLeaseError] == [type(answer) for answer in answers]
    assert IncidentState.RESOLVED == (await store.incident(found.incident.id)).incident.state


async def test_same_idempotency_key_never_begins_twice(store: Store):
    found = await open_one(store, "a")
    await store.commit(begun(found, 1_001.0, attempt(found, 1_001.0, key="once"), None))
    with pytest.raises(OncallAgentError):
        await store.commit(begun(found, 1_002.0, attempt(found, 1_002.0, key="once"), None))
    assert [1, 1] == [
        len((await store.attempts()).items),
        (await store.incident(found.incident.id)).incident.attempt_count,
    ]


async def test_change_that_cannot_be_written_leaves_nothing_and_fails_alone(store: Store):
    await store.accept([placed("a", target="x"), placed("b", target="y")], 1_000.0)
    one, two = await claimed(store, 1_000.0, limit=2)
    await store.commit(begun(two, 1_001.0, attempt(two, 1_001.0, key="once"), None))
    again = attempt(one, 1_002.0, key="once")
    clash = replace(moved(one, 1_002.0, IncidentState.RESOLVED), begin=again, decision=decision(1_002.0))
    answers = await asyncio.gather(
        store.commit(clash),
        store.commit(moved(two, 1_002.0, IncidentState.RESOLVED)),
        return_exceptions=True,
    )
    assert [StoreError, type(None)] == [type(answer) for answer in answers]
    assert IncidentState.RUNNING == (await store.incident(one.incident.id)).incident.state
    assert None is await store.decision(one.incident.id)
    assert () == (await store.incident(one.incident.id)).attempts
    assert {"running": 1, "resolved": 1} == {k: v for k, v in (await store.counts()).items() if v}


async def test_outcome_of_a_foreign_attempt_is_refused(store: Store):
    found = await open_one(store, "a")
    with pytest.raises(OncallAgentError, match="not one of this incident"):
        await store.commit(fixed(found, 1_001.0, "nobody's"))
    assert IncidentState.RUNNING == (await store.incident(found.incident.id)).incident.state


def _limits(**changed):
    return replace(LIMITS, **changed)


@pytest.mark.parametrize(
    ("limits", "at", "expected"),
    [
        pytest.param(_limits(), 1_300.0, RefusalReason.COOLDOWN, id="inside the cooldown"),
        pytest.param(_limits(), 1_301.0, None, id="cooldown is over"),
        pytest.param(_limits(cooldown_seconds=0.0), 1_003.0, None, id="no cooldown"),
        pytest.param(
            _limits(cooldown_seconds=0.0, rate_per_action=1),
            1_003.0,
            RefusalReason.RATE_ACTION,
            id="action rate",
        ),
        pytest.param(
            _limits(cooldown_seconds=0.0, rate_per_service=1),
            1_003.0,
            RefusalReason.RATE_SERVICE,
            id="service rate",
        ),
        pytest.param(None, 1_003.0, None, id="unconditional"),
    ],
)
async def test_limits_are_looked_at_again_when_an_attempt_begins(store: Store, limits, at, expected):
    first = await open_one(store, "a")
    done = attempt(first, 1_001.0)
    await store.commit(begun(first, 1_001.0, done))
    await store.commit(fixed(first, 1_002.0, done.id))
    second = await open_one(store, "b", now=1_002.0)
    refusal = await store.commit(begun(second, at, attempt(second, at), limits))
    assert expected == (None if refusal is None else refusal.reason)


async def test_refused_begin_writes_the_decision_only(store: Store):
    found = await open_one(store, "a")
    refusal = await store.commit(
        begun(found, 1_001.0, attempt(found, 1_001.0), BeginLimits(0.0, 0, 0, 3_600.0))
    )
    detail = await store.incident(found.incident.id)
    assert (RefusalReason.RATE_ACTION, ACTION) == (refusal.reason, refusal.candidate.action)
    assert (1, (), (), Phase.NEW, 0) == (
        len(detail.decisions),
        detail.attempts,
        detail.timeline,
        detail.incident.phase,
        detail.incident.attempt_count,
    )


@pytest.mark.parametrize("status", [OutcomeStatus.REFUSED, OutcomeStatus.PLANNED])
async def test_attempt_that_touched_nothing_starts_no_cooldown(store: Store, status):
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    ended = Finished(first.id, Outcome(status, OutcomeReason.PRECHECK_REFUSED))
    await store.commit(change(found, 1_001.5, outcome=ended))
    assert None is await store.commit(begun(found, 1_002.0, attempt(found, 1_002.0)))


async def test_two_workers_cannot_both_pass_a_rate(store: Store):
    await store.accept([placed(f"{n}", target=f"t{n}") for n in range(6)], 1_000.0)
    found = await claimed(store, 1_000.0, limit=6)
    limits = BeginLimits(0.0, 3, 99, 3_600.0)
    answers = await asyncio.gather(
        *(store.commit(begun(one, 1_001.0, attempt(one, 1_001.0), limits)) for one in found)
    )
    assert 3 == sum(answer is None for answer in answers)


async def test_kept_lease_stays_running_and_keeps_its_reason(store: Store):
    found = await open_one(store, "a")
    move = Move(IncidentState.RUNNING, Phase.ESCALATING, end_reason=EndReason.TOO_OLD, keep_lease=True)
    await store.commit(change(found, 1_001.0, move=move, timeline=(TimelineEntry("page.begun"),)))
    incident = (await store.incident(found.incident.id)).incident
    assert (IncidentState.RUNNING, Phase.ESCALATING, EndReason.TOO_OLD, None) == (
        incident.state,
        incident.phase,
        incident.end_reason,
        incident.closed_at,
    )
    assert None is await store.commit(moved(found, 1_002.0, IncidentState.ESCALATED))


async def test_evidence_of_any_kind_is_written_down(store: Store):
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    odd = replace(RECEIPT, facts={"set": {"b", "a"}, 3: b"bytes", "huge": 2**70, "text": "\ud800 \x00"})
    await store.commit(change(found, 1_002.0, receipt=(first.id, odd)))
    facts = (await store.attempts()).items[0].receipt.facts
    assert (["a", "b"], 2**70) == (sorted(facts["set"]), int(facts["huge"]))


async def test_policy_is_its_checkpoint_and_the_updates_after_it(store: Store):
    assert (None, []) == await store.load_policy()
    found = await open_one(store, "a")
    updates = [PolicyUpdate(n, ACTION, (n / 3, -1.0), 0.25, 0.1) for n in range(1, 6)]
    for update in updates:
        await store.commit(change(found, 1_000.0 + update.version, update=update))
    assert (None, updates) == await store.load_policy()
    await store.save_checkpoint(3, b"\x00three", 1_010.0)
    assert (b"\x00three", updates[3:]) == await store.load_policy()
    assert (b"\x00three", updates[3:4]) == await store.policy_at(4)
    assert (None, updates[:2]) == await store.policy_at(2)
    await store.save_checkpoint(3, b"again", 1_011.0)
    assert (b"again", []) == await store.policy_at(3)


async def test_updates_are_numbered_by_the_store_after_what_is_kept(store: Store):
    found = await open_one(store, "a")
    await store.save_checkpoint(41, b"x", 1_000.0)
    await asyncio.gather(
        *(
            store.commit(change(found, 1_001.0, update=PolicyUpdate(0, ACTION, (), n / 4, 0.0)))
            for n in range(3)
        )
    )
    _, updates = await store.load_policy()
    assert [(42, 0.0), (43, 0.25), (44, 0.5)] == [(update.version, update.reward) for update in updates]


async def test_unknown_incident_is_not_this_workers(store: Store):
    found = await open_one(store, "a")
    with pytest.raises(StaleLeaseError):
        await store.commit(replace(moved(found, 1_001.0, IncidentState.RESOLVED), incident_id=new_id()))
