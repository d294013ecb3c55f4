"""Browsers: a cookie carries reads, and changes only together with a CSRF token."""

import pytest
from web.sites import Site, bearer

from oncall_agent.web.auth import GATE, SESSION_COOKIE, Identity


def carried(site: Site) -> dict[str, str]:
    app = site.client.app
    assert app is not None
    value = app[GATE].issue(Identity("otto", "operator", authenticated=True))
    return {"Cookie": f"{SESSION_COOKIE}={value}"}


def csrf(site: Site, headers: dict[str, str]) -> str:
    app = site.client.app
    assert app is not None
    gate = app[GATE]
    value = headers["Cookie"].partition("=")[2]
    return gate.sessions.csrf(value, b"operator-token")


async def test_a_session_reads(guarded: Site) -> None:
    async with guarded.client.get("/api/v1/incidents", headers=carried(guarded)) as response:
        assert 200 == response.status


async def test_a_session_alone_changes_nothing(guarded: Site) -> None:
    headers = carried(guarded)
    async with guarded.client.post("/api/v1/control", json={"paused": True}, headers=headers) as response:
        assert (403, "csrf") == (response.status, (await response.json())["error"]["code"])
    assert not guarded.store.control.paused


async def test_a_session_with_its_csrf_token_changes(guarded: Site) -> None:
    headers = carried(guarded)
    headers["X-CSRF-Token"] = csrf(guarded, headers)
    async with guarded.client.post("/api/v1/control", json={"paused": True}, headers=headers) as response:
        assert 200 == response.status
    assert "otto" == guarded.store.control.paused_by


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_wrong_token_is_not_saved_by_a_good_session(guarded: Site, method: str) -> None:
    headers = {**carried(guarded), **bearer("wrong")}
    async with guarded.client.request(method, "/api/v1/control", json={}, headers=headers) as response:
        assert 401 == response.status
