"""Approvals: who may say yes, how often, and what an irreversible action needs."""

from typing import Any

import pytest
from web.sites import Site, bearer, firing, notification

from oncall_agent.models import Approval, Incident, IncidentState, RiskClass
from oncall_agent.store import Change, Move, new_id


async def asked(site: Site, risk: RiskClass, needed: int, headers: dict[str, str] | None = None) -> Incident:
    """Park a fresh incident with a question to people, as the pipeline does."""
    status, _ = await site.post("alertmanager", notification(firing(1)), headers=headers or {})
    assert 202 == status
    claimed = (await site.store.claim("w", limit=1, lease_seconds=30, now=site.clock.seconds))[0]
    now = site.clock.seconds
    approval = Approval(
        id=new_id(),
        incident_id=claimed.incident.id,
        decision_id=new_id(),
        action="app.restart",
        target="checkout",
        risk=risk,
        asked_at=now,
        expires_at=now + 900,
        needed=needed,
    )
    move = Move(IncidentState.AWAITING_APPROVAL)
    await site.store.commit(
        Change(claimed.incident.id, claimed.incident.fence, now, approval=approval, move=move)
    )
    return claimed.incident


async def say(site: Site, incident: Incident, verb: str, token: str | None = None) -> tuple[int, Any]:
    headers = bearer(token) if token else {}
    async with site.client.post(f"/api/v1/incidents/{incident.id}/{verb}", headers=headers) as response:
        return response.status, await response.json()


async def test_a_pending_question_is_listed_and_answered(guarded: Site) -> None:
    incident = await asked(guarded, RiskClass.R2, 1)
    _, listed = await guarded.get("/api/v1/approvals", headers=bearer("viewer-token"))
    assert [incident.id] == [item["incident_id"] for item in listed["items"]]
    status, approval = await say(guarded, incident, "approve", "operator-token")
    assert (200, "approved", ["otto"]) == (status, approval["verdict"], approval["voters"])
    _, listed = await guarded.get("/api/v1/approvals", headers=bearer("viewer-token"))
    assert [] == listed["items"]


async def test_a_viewer_may_not_answer(guarded: Site) -> None:
    incident = await asked(guarded, RiskClass.R1, 1)
    assert [403, 403] == [
        (await say(guarded, incident, verb, "viewer-token"))[0] for verb in ("approve", "deny")
    ]


async def test_an_irreversible_action_needs_two_different_people(guarded: Site) -> None:
    incident = await asked(guarded, RiskClass.R3, 2)
    status, approval = await say(guarded, incident, "approve", "operator-token")
    assert (200, "pending") == (status, approval["verdict"])
    assert 409 == (await say(guarded, incident, "approve", "operator-token"))[0]
    status, approval = await say(guarded, incident, "approve", "second-token")
    assert (200, "approved", {"otto", "olga"}) == (status, approval["verdict"], set(approval["voters"]))


@pytest.mark.parametrize(("risk", "needed"), [(RiskClass.R3, 2), (RiskClass.R3, 1), (RiskClass.R2, 2)])
async def test_an_irreversible_action_needs_people_with_names(
    site: Site, risk: RiskClass, needed: int
) -> None:
    incident = await asked(site, risk, needed)
    status, body = await say(site, incident, "approve")
    assert (403, "identity_required") == (status, body["error"]["code"])
    pending = await site.store.approvals()
    assert [()] == [approval.voters for approval in pending]


async def test_anybody_here_may_deny_and_approve_what_can_be_undone(site: Site) -> None:
    incident = await asked(site, RiskClass.R3, 2)
    assert (200, "denied") == ((denied := await say(site, incident, "deny"))[0], denied[1]["verdict"])
    assert 409 == (await say(site, incident, "deny"))[0]


async def test_an_expired_question_takes_no_answer(site: Site) -> None:
    incident = await asked(site, RiskClass.R1, 1)
    site.clock.seconds += 901
    assert 409 == (await say(site, incident, "approve"))[0]


async def test_local_approves_what_can_be_undone(site: Site) -> None:
    incident = await asked(site, RiskClass.R1, 1)
    status, approval = await say(site, incident, "approve")
    assert (200, "approved", ["local"]) == (status, approval["verdict"], approval["voters"])
