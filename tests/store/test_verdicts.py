"""What people say, what the clock says, and what an operator may do to one incident."""

import asyncio

import pytest
from store.building import (
    approval,
    attempt,
    begun,
    change,
    claimed,
    fixed,
    moved,
    open_one,
    placed,
    resolved,
)

from oncall_agent.errors import ConflictError, NotFoundError, StaleLeaseError
from oncall_agent.models import EndReason, IncidentState, OutcomeStatus, Phase, Verdict
from oncall_agent.store import Move, Store


async def _asked(store: Store, *, needed: int = 1):
    found = await open_one(store, "a")
    asked = approval(found, 1_000.0, needed=needed)
    await store.commit(change(found, 1_000.0, approval=asked, move=Move(IncidentState.AWAITING_APPROVAL)))
    return asked


async def test_approval_lets_the_incident_go_on_as_approved(store: Store):
    asked = await _asked(store)
    assert [] == await claimed(store, 1_001.0)
    assert (asked,) == await store.approvals()
    answered = await store.vote(asked.id, identity="ann", approve=True, now=1_001.0)
    assert (Verdict.APPROVED, ("ann",), 1_001.0) == (answered.verdict, answered.voters, answered.decided_at)
    (found,) = await claimed(store, 1_002.0)
    assert (Phase.APPROVED, answered) == (found.incident.phase, found.approval)
    assert () == await store.approvals()
    assert (answered,) == await store.approvals(pending_only=False)


async def test_denial_lets_the_incident_go_on_as_it_was(store: Store):
    asked = await _asked(store)
    await store.vote(asked.incident_id, identity="ann", approve=False, now=1_001.0)
    (found,) = await claimed(store, 1_002.0)
    assert (Phase.NEW, Verdict.DENIED) == (found.incident.phase, found.approval.verdict)


async def test_expiry_is_a_no(store: Store):
    asked = await _asked(store)
    assert 0 == await store.expire_approvals(1_999.0)
    assert 1 == await store.expire_approvals(2_000.0)
    assert 0 == await store.expire_approvals(2_001.0)
    (found,) = await claimed(store, 2_001.0)
    assert (Phase.NEW, Verdict.EXPIRED, asked.id) == (
        found.incident.phase,
        found.approval.verdict,
        found.approval.id,
    )


async def test_two_people_are_needed_when_two_are_asked(store: Store):
    asked = await _asked(store, needed=2)
    first = await store.vote(asked.id, identity="ann", approve=True, now=1_001.0)
    with pytest.raises(ConflictError) as same:
        await store.vote(asked.id, identity="ann", approve=True, now=1_002.0)
    assert (Verdict.PENDING, "same_person") == (first.verdict, same.value.code)
    assert [] == await claimed(store, 1_002.0)
    second = await store.vote(asked.id, identity="bob", approve=True, now=1_003.0)
    assert (Verdict.APPROVED, ("ann", "bob")) == (second.verdict, second.voters)


async def test_one_no_is_enough(store: Store):
    asked = await _asked(store, needed=2)
    await store.vote(asked.id, identity="ann", approve=True, now=1_001.0)
    denied = await store.vote(asked.id, identity="bob", approve=False, now=1_002.0)
    assert Verdict.DENIED == denied.verdict


async def test_late_and_second_votes_are_conflicts(store: Store):
    asked = await _asked(store)
    with pytest.raises(ConflictError) as late:
        await store.vote(asked.id, identity="ann", approve=True, now=2_000.0)
    await store.vote(asked.id, identity="ann", approve=False, now=1_500.0)
    with pytest.raises(ConflictError) as second:
        await store.vote(asked.id, identity="bob", approve=True, now=1_501.0)
    assert ("expired", "not_pending") == (late.value.code, second.value.code)


async def test_opposite_votes_at_once_count_once(store: Store):
    asked = await _asked(store)
    answers = await asyncio.gather(
        store.vote(asked.id, identity="ann", approve=True, now=1_001.0),
        store.vote(asked.id, identity="bob", approve=False, now=1_001.0),
        return_exceptions=True,
    )
    assert 1 == sum(isinstance(answer, ConflictError) for answer in answers)


async def test_vote_on_nothing_is_not_found(store: Store):
    with pytest.raises(NotFoundError):
        await store.vote("nothing", identity="ann", approve=True, now=1_001.0)


async def test_votes_are_in_the_audit_log_with_their_identity(store: Store):
    asked = await _asked(store)
    await store.vote(asked.id, identity="ann", approve=True, now=1_001.0)
    (row,) = await store.audit()
    assert ("ann", "approval.granted", asked.incident_id) == (row.identity, row.verb, row.subject)


async def test_operator_escalates_an_open_incident_and_frees_its_target(store: Store):
    found = await open_one(store, "a")
    await store.commit(moved(found, 1_000.0, IncidentState.PARKED, phase=Phase.SETTLING, run_after=9_000.0))
    await store.accept([placed("b")], 1_000.0)
    assert [] == await claimed(store, 1_000.0)
    incident = await store.operator(found.incident.id, "escalate", "ann", 1_001.0)
    assert (IncidentState.ESCALATED, EndReason.HUMAN_ASKED) == (incident.state, incident.end_reason)
    assert ["b"] == [one.incident.labels["instance"] for one in await claimed(store, 1_002.0)]


async def test_escalating_a_blocked_or_queued_incident_leaves_the_next_one_claimable(store: Store):
    first = await open_one(store, "a")
    await store.accept([placed("b"), placed("c")], 1_000.0)
    await claimed(store, 1_000.0)
    await store.commit(moved(first, 1_001.0, IncidentState.RESOLVED))
    (queued,) = (await store.incidents("queued")).items
    await store.operator(queued.id, "escalate", "ann", 1_002.0)
    assert 1 == len(await claimed(store, 1_003.0))


async def test_escalating_what_a_worker_has_fences_the_worker(store: Store):
    found = await open_one(store, "a")
    await store.operator(found.incident.id, "escalate", "ann", 1_001.0)
    with pytest.raises(StaleLeaseError):
        await store.commit(begun(found, 1_002.0, attempt(found, 1_002.0)))
    assert () == (await store.attempts()).items


async def test_running_attempt_is_not_taken_away_from_its_worker(store: Store):
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    with pytest.raises(ConflictError) as conflict:
        await store.operator(found.incident.id, "escalate", "ann", 1_002.0)
    assert "attempt_running" == conflict.value.code
    assert None is await store.commit(fixed(found, 1_003.0, first.id))


async def test_escalating_closes_an_attempt_that_nobody_verifies_any_more(store: Store):
    found = await open_one(store, "a")
    first = attempt(found, 1_001.0)
    await store.commit(begun(found, 1_001.0, first))
    await store.commit(moved(found, 1_002.0, IncidentState.PARKED, phase=Phase.SETTLING, run_after=9_000.0))
    await store.operator(found.incident.id, "escalate", "ann", 1_003.0)
    assert OutcomeStatus.INTERRUPTED == (await store.attempts()).items[0].outcome.status


async def test_escalating_withdraws_the_question(store: Store):
    asked = await _asked(store)
    await store.operator(asked.incident_id, "escalate", "ann", 1_001.0)
    with pytest.raises(ConflictError):
        await store.vote(asked.id, identity="bob", approve=True, now=1_002.0)
    assert 0 == await store.expire_approvals(9_999.0)


async def test_retry_queues_a_final_incident_again(store: Store):
    found = await open_one(store, "a")
    await store.commit(moved(found, 1_000.0, IncidentState.ESCALATED, end_reason=EndReason.POLICY_CHOSE))
    incident = await store.operator(found.incident.id, "retry", "ann", 1_001.0)
    assert (IncidentState.QUEUED, Phase.NEW, None, None) == (
        incident.state,
        incident.phase,
        incident.end_reason,
        incident.closed_at,
    )
    (again,) = await claimed(store, 1_002.0)
    assert again.incident.fence > found.incident.fence
    assert (await store.conservation()).balanced


@pytest.mark.parametrize(
    ("state", "verb", "code"),
    [
        pytest.param(IncidentState.PARKED, "retry", "not_final", id="retry of an open one"),
        pytest.param(IncidentState.RESOLVED, "escalate", "not_open", id="escalation of a final one"),
    ],
)
async def test_operator_conflicts_with_the_state(store: Store, state, verb, code):
    found = await open_one(store, "a")
    await store.commit(moved(found, 1_000.0, state, run_after=9_000.0))
    with pytest.raises(ConflictError) as conflict:
        await store.operator(found.incident.id, verb, "ann", 1_001.0)
    assert code == conflict.value.code


async def test_retry_conflicts_with_a_newer_incident_of_the_same_kind(store: Store):
    found = await open_one(store, "a")
    await store.accept([resolved("a")], 1_000.0)
    await store.commit(moved(found, 1_000.0, IncidentState.RESOLVED))
    await store.accept([placed("a", starts_at=950.0)], 1_001.0)
    with pytest.raises(ConflictError) as conflict:
        await store.operator(found.incident.id, "retry", "ann", 1_002.0)
    assert "already_open" == conflict.value.code


async def test_operator_on_nothing_is_not_found(store: Store):
    with pytest.raises(NotFoundError):
        await store.operator("nothing", "escalate", "ann", 1_000.0)
