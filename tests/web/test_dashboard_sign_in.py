"""Signing in, roles, and what each may do on the pages."""

import re

import pytest
from scenes.browser import Browser
from scenes.dashboard import TOKENS, scene

from oncall_agent.models import IncidentState


@pytest.fixture
async def guarded(tmp_path):
    async with scene(tmp_path, tokens=True) as found:
        browser = Browser(found.base)
        yield found, browser
        await browser.session.close()


async def test_pages_lead_to_the_sign_in_and_back(guarded):
    _, browser = guarded
    response, _ = await browser.get("/control?x=1")
    assert (response.status, response.headers["Location"]) == (303, "/login?next=/control%3Fx%3D1")
    response, _ = await browser.sign_in("ana", "/control?x=1")
    assert (response.status, response.headers["Location"]) == (303, "/control?x=1")
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKENS["ana"][1] not in cookie
    response, text = await browser.get("/control")
    assert response.status == 200
    assert "ana (operator)" in text


async def test_wrong_token_stays_outside(guarded):
    _, browser = guarded
    fields = {"csrf_token": await browser.token("/login"), "token": "wrong", "next": "/"}
    response, text = await browser.post("/login", fields)
    assert response.status == 401
    assert 'role="alert"' in text
    assert "Set-Cookie" not in response.headers
    assert "wrong" not in text


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nX: y"],
)
async def test_sign_in_leads_nowhere_else(guarded, target):
    _, browser = guarded
    response, _ = await browser.sign_in("ana", target)
    assert response.headers["Location"] == "/"


async def test_sign_out_ends_the_session(guarded):
    _, browser = guarded
    await browser.sign_in("ana")
    await browser.post("/logout", {"csrf_token": await browser.token("/control")})
    response, _ = await browser.get("/control")
    assert response.status == 303


async def test_refresh_of_an_ended_session_leads_to_the_sign_in(guarded):
    _, browser = guarded
    response, _ = await browser.get("/", **{"HX-Request": "true"})
    assert (response.status, response.headers["HX-Redirect"]) == (401, "/login?next=/")


async def test_viewer_looks_and_does_not_touch(guarded):
    found, browser = guarded
    await found.alert()
    approval = await found.ask()
    await browser.sign_in("ben")
    for path in ("/control", "/approvals", f"/incidents/{approval.incident_id}"):
        _, text = await browser.get(path)
        assert len(re.findall(r"<form method=\"post\"", text)) == 1, path
    token = await browser.token("/")
    for path in (
        "/control/pause",
        f"/approvals/{approval.id}/approve",
        f"/incidents/{approval.incident_id}/escalate",
    ):
        response, _ = await browser.post(path, {"csrf_token": token})
        assert response.status == 403, path
    assert not found.store.control.paused


async def test_only_an_admin_lifts_a_freeze(guarded):
    found, browser = guarded
    await browser.sign_in("ana")
    token = await browser.token("/control")
    await browser.post("/control/freeze", {"csrf_token": token, "minutes": "5"})
    for path, fields in (("/control/thaw", {}), ("/control/freeze", {"minutes": "1"})):
        response, _ = await browser.post(path, {"csrf_token": token, **fields})
        assert response.status == 403, path
    assert found.store.control.frozen_until == found.now + 300.0
    other = Browser(found.base)
    await other.sign_in("eva")
    await other.post("/control/thaw", {"csrf_token": await other.token("/control")})
    await other.session.close()
    assert not found.store.control.frozen_until


async def test_two_different_people_approve_what_is_irreversible(guarded):
    found, browser = guarded
    await found.alert()
    approval = await found.ask(needed=2)
    await browser.sign_in("ana")
    await browser.post(f"/approvals/{approval.id}/approve", {"csrf_token": await browser.token("/approvals")})
    [pending] = await found.store.approvals(pending_only=True)
    assert pending.voters == ("ana",)
    response, _ = await browser.post(
        f"/approvals/{approval.id}/approve", {"csrf_token": await browser.token("/approvals")}
    )
    assert response.status == 409
    other = Browser(found.base)
    await other.sign_in("eva")
    await other.post(f"/approvals/{approval.id}/approve", {"csrf_token": await other.token("/approvals")})
    await other.session.close()
    assert await found.store.approvals(pending_only=True) == ()
    assert IncidentState.QUEUED is (await found.store.incident(approval.incident_id)).incident.state
