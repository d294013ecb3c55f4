"""Approvals and switches by plain forms, and who may not press them."""

import pytest
from scenes.browser import PATHS, Browser
from scenes.dashboard import scene

from oncall_agent.models import Verdict


@pytest.fixture
async def opened(tmp_path):
    async with scene(tmp_path) as found:
        browser = Browser(found.base)
        yield found, browser
        await browser.session.close()


async def test_approval_by_a_plain_form(opened):
    found, browser = opened
    await found.alert()
    approval = await found.ask()
    fields = {"csrf_token": await browser.token("/approvals"), "back": "incident"}
    response, _ = await browser.post(f"/approvals/{approval.id}/approve", fields)
    assert (303, f"/incidents/{approval.incident_id}?notice=approved") == (
        response.status,
        response.headers["Location"],
    )
    [decided] = await found.store.approvals(pending_only=False)
    assert (decided.verdict, decided.voters) == (Verdict.APPROVED, ("local",))


async def test_second_verdict_is_a_conflict_page(opened):
    found, browser = opened
    await found.alert()
    approval = await found.ask()
    fields = {"csrf_token": await browser.token("/approvals")}
    await browser.post(f"/approvals/{approval.id}/deny", fields)
    response, text = await browser.post(f"/approvals/{approval.id}/approve", fields)
    assert response.status == 409
    assert 'role="alert"' in text


async def test_expired_approval_can_not_be_approved(opened):
    found, browser = opened
    await found.alert()
    approval = await found.ask()
    found.clock.advance(901.0)
    response, _ = await browser.post(
        f"/approvals/{approval.id}/approve", {"csrf_token": await browser.token("/control")}
    )
    assert response.status == 409


async def test_two_unnamed_people_are_not_two_people(opened):
    found, browser = opened
    await found.alert()
    approval = await found.ask(needed=2)
    response, text = await browser.post(
        f"/approvals/{approval.id}/approve", {"csrf_token": await browser.token("/approvals")}
    )
    assert response.status == 403
    assert "two different people" in text


async def test_escalate_and_retry_by_plain_forms(opened):
    found, browser = opened
    incident_id = await found.alert()
    fields = {"csrf_token": await browser.token("/control")}
    seen = []
    for verb in ("retry", "escalate", "escalate", "retry"):
        response, _ = await browser.post(f"/incidents/{incident_id}/{verb}", fields)
        state = (await found.store.incident(incident_id)).incident.state
        seen.append((verb, response.status, state.value))
    assert seen == [
        ("retry", 409, "queued"),
        ("escalate", 303, "escalated"),
        ("escalate", 409, "escalated"),
        ("retry", 303, "queued"),
    ]


async def test_kill_switch_asks_once_and_needs_no_script(opened):
    found, browser = opened
    _, text = await browser.get("/control")
    assert 'action="/control/pause"' in text
    _, text = await browser.get("/control/pause")
    assert "Stop all actions?" in text
    assert not found.store.control.paused
    fields = {"csrf_token": await browser.token("/control/pause"), "reason": "bad\ndeploy"}
    response, _ = await browser.post("/control/pause", fields)
    assert (response.status, response.headers["Location"]) == (303, "/control?notice=paused")
    assert (
        found.store.control.paused,
        found.store.control.paused_by,
        found.store.control.paused_reason,
    ) == (True, "local", "bad deploy")
    for path in PATHS:
        _, text = await browser.get(path)
        assert "The kill switch was pressed by local: bad deploy" in text, path
    await browser.post("/control/resume", fields)
    assert not found.store.control.paused
    _, text = await browser.get("/control")
    assert "bad deploy" in text


async def test_drain_and_freeze_by_plain_forms(opened):
    found, browser = opened
    token = await browser.token()
    await browser.post("/control/drain", {"csrf_token": token})
    assert found.store.control.draining
    await browser.post("/control/undrain", {"csrf_token": token})
    assert not found.store.control.draining
    await browser.post("/control/freeze", {"csrf_token": token, "minutes": "30", "reason": "release"})
    assert found.now + 1_800.0 == found.store.control.frozen_until
    _, text = await browser.get("/")
    assert "Change freeze." in text
    await browser.post("/control/thaw", {"csrf_token": token})
    assert not found.store.control.frozen_until


@pytest.mark.parametrize("minutes", ["", "0", "-5", "1e3", "99999999999", "x", "٣"])
async def test_freeze_of_a_senseless_length_changes_nothing(opened, minutes):
    found, browser = opened
    response, _ = await browser.post(
        "/control/freeze", {"csrf_token": await browser.token(), "minutes": minutes}
    )
    assert response.status == 409
    assert found.store.control.frozen_until is None


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é"])
@pytest.mark.parametrize(
    "path", ["/control/pause", "/control/freeze", "/incidents/x/escalate", "/approvals/x/approve"]
)
async def test_form_without_its_token_is_refused(opened, path, token):
    found, browser = opened
    response, text = await browser.post(path, {} if token is None else {"csrf_token": token, "minutes": "5"})
    assert response.status == 403
    assert "load the page again" in text
    assert not found.store.control.paused


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}]
)
async def test_foreign_page_can_not_press_anything(opened, headers):
    found, browser = opened
    response, _ = await browser.post("/control/pause", {"csrf_token": await browser.token()}, **headers)
    assert response.status == 403
    assert not found.store.control.paused


@pytest.mark.parametrize("path", ["/control/pause", "/control/drain", "/approvals/x/approve", "/logout"])
async def test_state_is_never_changed_by_following_a_link(opened, path):
    found, browser = opened
    await browser.get(path)
    assert (found.store.control.paused, found.store.control.draining) == (False, False)
