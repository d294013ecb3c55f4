"""The API: reads, operators' verdicts, switches, and one shape for every error."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from web.sites import Site, bearer, firing, notification

from oncall_agent.store import new_id

ABSENT = str(uuid4())


async def opened(site: Site, *numbers: int) -> list[str]:
    _, body = await site.post("alertmanager", notification(*(firing(number) for number in numbers)))
    return [alert["incident_id"] for alert in body["alerts"]]


def unplaced(number: int) -> dict[str, Any]:
    return firing(number, labels={"alertname": f"Other{number}", "service": f"svc-{number}"})


async def test_incidents_are_listed_newest_first_page_by_page(site: Site) -> None:
    for number in range(5):
        await site.post("alertmanager", notification(unplaced(number)))
        site.clock.seconds += 1
    seen: list[float] = []
    cursor: str | None = ""
    while cursor is not None:
        _, page = await site.get(
            "/api/v1/incidents", params={"limit": 2, **({"cursor": cursor} if cursor else {})}
        )
        seen += [incident["opened_at"] for incident in page["items"]]
        cursor = page["next_cursor"]
    assert 5 == len(seen)
    assert sorted(set(seen), reverse=True) == seen


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 2),
        ({"state": "open"}, 2),
        ({"state": "queued"}, 2),
        ({"state": "final"}, 0),
        ({"state": "resolved"}, 0),
        ({"target": "checkout"}, 1),
        ({"target": "elsewhere"}, 0),
        ({"class": "unclassified"}, 2),
        ({"class": "disk_full"}, 0),
    ],
    ids=str,
)
async def test_incidents_are_filtered(site: Site, query: dict[str, str], count: int) -> None:
    await opened(site, 1)
    await site.post("alertmanager", notification(unplaced(2)))
    status, page = await site.get("/api/v1/incidents", params=query)
    assert (200, count) == (status, len(page["items"]))


BAD_QUERIES = {
    "limit-zero": ("/api/v1/incidents?limit=0", "limit"),
    "limit-large": ("/api/v1/incidents?limit=201", "limit"),
    "limit-word": ("/api/v1/incidents?limit=ten", "limit"),
    "state-unknown": ("/api/v1/incidents?state=burning", "state"),
    "class-empty": ("/api/v1/incidents?class=", "class"),
    "class-nul": ("/api/v1/incidents?class=%00", "class"),
    "target-odd": ("/api/v1/incidents?target=%27%20OR%201", "target"),
    "cursor-odd": ("/api/v1/incidents?cursor=%22", "cursor"),
    "cursor-made-up": ("/api/v1/incidents?cursor=abc", "cursor"),
    "unknown-parameter": ("/api/v1/incidents?stat=open", "stat"),
    "twice": ("/api/v1/incidents?limit=1&limit=2", "limit"),
    "attempts-cursor": ("/api/v1/attempts?cursor=abc", "cursor"),
    "attempts-action": ("/api/v1/attempts?action=rm%20-rf", "action"),
    "attempts-incident": ("/api/v1/attempts?incident_id=1", "incident_id"),
    "approvals-pending": ("/api/v1/approvals?pending=maybe", "pending"),
    "audit-limit": ("/api/v1/audit?limit=1e9", "limit"),
}


@pytest.mark.parametrize(("path", "field"), BAD_QUERIES.values(), ids=BAD_QUERIES.keys())
async def test_a_bad_parameter_is_named(site: Site, path: str, field: str) -> None:
    status, body = await site.get(path)
    assert (400, field) == (status, body["error"]["detail"]["field"])


@pytest.mark.parametrize("path", ["attempts", "approvals", "actions", "backends", "audit"])
async def test_lists_have_items(site: Site, path: str) -> None:
    status, body = await site.get(f"/api/v1/{path}")
    assert 200 == status
    assert isinstance(body["items"], list)


async def test_an_incident_is_shown_with_its_alerts_and_story(site: Site) -> None:
    incident_id = (await opened(site, 1))[0]
    status, body = await site.get(f"/api/v1/incidents/{incident_id}")
    assert (200, incident_id) == (status, body["incident"]["id"])
    assert ["Down1"] == [alert["alert"]["name"] for alert in body["alerts"]]
    assert {"incident", "alerts", "decisions", "attempts", "approvals", "timeline"} == set(body)


@pytest.mark.parametrize(
    "incident_id", [ABSENT, "1", "%00", "..%2f..", "x" * 3000], ids=["absent", "1", "nul", "path", "long"]
)
@pytest.mark.parametrize("rest", ["", "/explain"])
async def test_an_unknown_incident_is_not_found(site: Site, incident_id: str, rest: str) -> None:
    status, body = await site.get(f"/api/v1/incidents/{incident_id}{rest}")
    assert (404, "not_found") == (status, body["error"]["code"])


@pytest.mark.parametrize("verb", ["approve", "deny", "escalate", "retry"])
async def test_a_verdict_on_an_unknown_incident_is_not_found(site: Site, verb: str) -> None:
    async with site.client.post(f"/api/v1/incidents/{ABSENT}/{verb}") as response:
        assert 404 == response.status
        assert "not_found" == (await response.json())["error"]["code"]


@pytest.mark.parametrize(("verb", "status"), [("approve", 404), ("deny", 404), ("retry", 409)])
async def test_a_verdict_that_nobody_asked_for_is_refused(site: Site, verb: str, status: int) -> None:
    incident_id = (await opened(site, 1))[0]
    async with site.client.post(f"/api/v1/incidents/{incident_id}/{verb}") as response:
        assert status == response.status


async def test_an_operator_escalates_and_queues_again(site: Site) -> None:
    incident_id = (await opened(site, 1))[0]
    async with site.client.post(f"/api/v1/incidents/{incident_id}/escalate") as response:
        body = await response.json()
    assert ("escalated", "human_asked") == (body["state"], body["end_reason"])
    async with site.client.post(f"/api/v1/incidents/{incident_id}/retry") as response:
        assert (200, "queued") == (response.status, (await response.json())["state"])
    _, audit = await site.get("/api/v1/audit")
    assert {"local"} == {row["identity"] for row in audit["items"]}
    assert (200, True) == ((checked := await site.get("/api/v1/audit/verify"))[0], checked[1]["ok"])


# --- switches ------------------------------------------------------------------------------------------------


async def change(site: Site, body: Any, **options: Any) -> tuple[int, Any]:
    async with site.client.post("/api/v1/control", json=body, **options) as response:
        return response.status, await response.json()


async def test_the_kill_switch_is_turned_and_seen(site: Site) -> None:
    status, control = await change(site, {"paused": True, "reason": "maintenance"})
    assert (200, True, "local", "maintenance") == (
        status,
        control["paused"],
        control["paused_by"],
        control["paused_reason"],
    )
    assert control == (await site.get("/api/v1/control"))[1]
    assert (200, False) == ((freed := await change(site, {"paused": False}))[0], freed[1]["paused"])


async def test_a_freeze_begins_now_and_is_lifted_by_zero(site: Site) -> None:
    _, control = await change(site, {"freeze_seconds": 60})
    assert site.clock.seconds + 60 == control["frozen_until"]
    _, control = await change(site, {"freeze_seconds": 0})
    assert not control["frozen_until"]


async def test_a_silence_mutes_what_matches_until_it_is_removed(site: Site) -> None:
    body = {"add_silences": [{"matchers": {"service": "~check.*"}, "seconds": 60, "comment": "deploy"}]}
    _, control = await change(site, body)
    silence = control["silences"][0]
    assert (site.clock.seconds, "local") == (silence["starts_at"], silence["created_by"])
    _, muted = await site.post("alertmanager", notification(firing(1)))
    assert ("suppressed", "silenced") == (muted["alerts"][0]["disposition"], muted["alerts"][0]["reason"])
    await change(site, {"remove_silences": [silence["id"]]})
    _, heard = await site.post("alertmanager", notification(firing(2)))
    assert "opened" == heard["alerts"][0]["disposition"]


async def test_an_override_stands_until_it_is_taken_away(site: Site) -> None:
    key = "disk_full/filesystem.purge/*"
    _, control = await change(site, {"overrides": {key: "auto"}})
    assert {key: "auto"} == control["overrides"]
    _, control = await change(site, {"overrides": {key: None}})
    assert {} == control["overrides"]


BAD_CHANGES: dict[str, tuple[Any, str]] = {
    "list": ([], ""),
    "unknown-key": ({"pause": True}, "pause"),
    "boolean-as-text": ({"paused": "true"}, "paused"),
    "boolean-as-number": ({"draining": 1}, "draining"),
    "freeze-negative": ({"freeze_seconds": -1}, "freeze_seconds"),
    "freeze-for-ever": ({"freeze_seconds": 1e12}, "freeze_seconds"),
    "reason-long": ({"reason": "x" * 501}, "reason"),
    "reason-nul": ({"reason": "a\0"}, "reason"),
    "override-key": ({"overrides": {"everything": "auto"}}, "overrides"),
    "override-level": ({"overrides": {"*/*/*": "always"}}, "overrides"),
    "silence-empty": ({"add_silences": [{"matchers": {}, "seconds": 1}]}, "add_silences[0].matchers"),
    "silence-for-ever": (
        {"add_silences": [{"matchers": {"a": "b"}, "seconds": 0}]},
        "add_silences[0].seconds",
    ),
    "silence-pattern": (
        {"add_silences": [{"matchers": {"a": "~("}, "seconds": 1}]},
        "add_silences[0].matchers",
    ),
    "silence-number": (
        {"add_silences": [{"matchers": {"a": 1}, "seconds": 1}]},
        "add_silences[0].matchers.a",
    ),
    "silence-id": ({"remove_silences": ["1"]}, "remove_silences[0]"),
    "deep": ({"overrides": [[[[[[[[[]]]]]]]]]}, ""),
}


@pytest.mark.parametrize(("body", "field"), BAD_CHANGES.values(), ids=BAD_CHANGES.keys())
async def test_a_bad_change_changes_nothing_and_is_named(site: Site, body: Any, field: str) -> None:
    before = (await site.get("/api/v1/control"))[1]
    status, answer = await change(site, body)
    assert 400 == status
    assert answer["error"]["detail"]["field"].startswith(field)
    assert before == (await site.get("/api/v1/control"))[1]


@pytest.mark.parametrize(
    ("raw", "media", "status"),
    [
        (b'{"paused": true}', "text/plain", 415),
        (b'{"paused": true}', "application/x-www-form-urlencoded", 415),
        (b"{", "application/json", 400),
        (b'{"paused": NaN}', "application/json", 400),
        (b'{"reason": "' + b"x" * 70_000 + b'"}', "application/json", 413),
    ],
    ids=["as-text", "as-form", "not-json", "nan", "oversized"],
)
async def test_a_body_that_is_not_small_json_is_refused(
    site: Site, raw: bytes, media: str, status: int
) -> None:
    async with site.client.post("/api/v1/control", data=raw, headers={"Content-Type": media}) as response:
        assert status == response.status
        assert {"code", "message", "detail"} == set((await response.json())["error"])
    assert (await site.get("/api/v1/control"))[1]["paused"] is False


async def test_silences_are_bounded(site: Site) -> None:
    one = {"matchers": {"a": "b"}, "seconds": 60}
    for _ in range(10):
        status, _ = await change(site, {"add_silences": [one] * 50})
        assert 200 == status
    status, body = await change(site, {"add_silences": [one]})
    assert (409, "too_many_silences") == (status, body["error"]["code"])


# --- errors of the border ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/v1/nowhere", 404, "not_found"),
        ("GET", "/webhooks/alertmanager", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/incidents", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_the_servers_own_errors_have_the_same_shape(
    site: Site, method: str, path: str, status: int, code: str
) -> None:
    async with site.client.request(method, path) as response:
        body = await response.json()
        assert (status, code) == (response.status, body["error"]["code"])
        assert (status == 405) is ("Allow" in response.headers)


async def test_what_nobody_foresaw_is_a_500_without_its_text(site_of: Callable[..., Any]) -> None:
    def broken() -> dict[str, Any]:
        raise ZeroDivisionError("secret text")

    site = await site_of(parts={"policy": broken})
    status, body = await site.get("/api/v1/policy")
    assert (500, "internal") == (status, body["error"]["code"])
    assert "secret text" not in str(body)


# --- tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "body", "status"),
    [
        (None, {"paused": True}, 401),
        ("wrong", {"paused": True}, 401),
        ("viewer-token", {"paused": True}, 403),
        ("operator-token", {"paused": True}, 200),
        ("operator-token", {"freeze_seconds": 60}, 200),
        ("operator-token", {"freeze_seconds": 0}, 403),
        ("operator-token", {"overrides": {"*/*/*": "auto"}}, 403),
        ("admin-token", {"overrides": {"*/*/*": "auto"}}, 200),
        ("admin-token", {"freeze_seconds": 0}, 200),
    ],
)
async def test_a_change_needs_its_role(guarded: Site, token: str | None, body: Any, status: int) -> None:
    headers = bearer(token) if token else {}
    assert status == (await change(guarded, body, headers=headers))[0]


@pytest.mark.parametrize(
    "path", ["/api/v1/incidents", "/api/v1/conservation", "/api/v1/control", "/metrics", "/api/v1/stream"]
)
async def test_reading_needs_a_token_when_there_are_tokens(guarded: Site, path: str) -> None:
    async with guarded.client.get(path) as response:
        assert (401, "Bearer") == (response.status, response.headers["WWW-Authenticate"])
    async with guarded.client.get(path, headers=bearer("viewer-token")) as response:
        assert 200 == response.status


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
async def test_health_is_open_to_orchestrators(guarded: Site, path: str) -> None:
    async with guarded.client.get(path) as response:
        assert 200 == response.status


async def test_the_identity_of_the_token_is_recorded(guarded: Site) -> None:
    _, control = await change(guarded, {"paused": True}, headers=bearer("operator-token"))
    assert "otto" == control["paused_by"]


async def test_unknown_silence_to_remove_is_no_failure_of_the_server(site: Site) -> None:
    status, _ = await change(site, {"remove_silences": [new_id()]})
    assert status in (200, 404)


async def test_a_freeze_is_shortened_by_an_admin_only(guarded: Site) -> None:
    """A freeze of one second would lift a standing one as well."""
    await change(guarded, {"freeze_seconds": 600}, headers=bearer("operator-token"))
    assert 403 == (await change(guarded, {"freeze_seconds": 1}, headers=bearer("operator-token")))[0]
    assert 200 == (await change(guarded, {"freeze_seconds": 900}, headers=bearer("operator-token")))[0]
    assert 200 == (await change(guarded, {"freeze_seconds": 1}, headers=bearer("admin-token")))[0]
