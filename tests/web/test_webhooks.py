"""Webhooks: what is acknowledged is stored, what is refused is refused whole and loses nothing."""

import asyncio
import gzip
import hashlib
import hmac
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from web.sites import PAYLOADS, Site, firing, notification

from oncall_agent.errors import QueueFullError, StoreError

BODIES = sorted(path for path in PAYLOADS.glob("*.json") if not path.name.endswith("http-headers.json"))
CAPTURED = orjson.loads((PAYLOADS / "alertmanager-http-headers.json").read_bytes())


async def accepts_a_good_alert(site: Site, number: int = 99) -> None:
    status, body = await site.post("alertmanager", notification(firing(number)))
    assert (202, 1) == (status, body["accepted"])


async def is_balanced(site: Site, accepted: int) -> None:
    status, body = await site.get("/api/v1/conservation")
    assert (200, True, accepted) == (status, body["balanced"], body["accepted"])


async def test_an_accepted_alert_is_answered_with_what_became_of_it(site: Site) -> None:
    status, body = await site.post("alertmanager", notification(firing(1), firing(2)))
    assert (202, 2) == (status, body["accepted"])
    assert [f"{1:016x}", f"{2:016x}"] == [alert["fingerprint"] for alert in body["alerts"]]
    assert {"id", "fingerprint", "disposition", "incident_id", "reason"} == set(body["alerts"][0])
    status, detail = await site.get(f"/api/v1/incidents/{body['alerts'][0]['incident_id']}")
    assert (200, "checkout") == (status, detail["incident"]["target"])
    await is_balanced(site, 2)


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
async def test_every_captured_body_is_accepted(site: Site, path: Path) -> None:
    status, body = await site.post("alertmanager", path.read_bytes())
    assert (202, len(orjson.loads(path.read_bytes())["alerts"])) == (status, body["accepted"])
    await is_balanced(site, body["accepted"])


@pytest.mark.parametrize("name", CAPTURED)
async def test_the_captured_requests_are_authentic(site: Site, name: str) -> None:
    door = {"/basic": "basic", "/bearer": "bearer"}.get(CAPTURED[name]["path"], "alertmanager")
    headers = {k: v for k, v in CAPTURED[name]["headers"].items() if k not in {"Host", "Content-Length"}}
    status, _ = await site.post(door, (PAYLOADS / name).read_bytes(), headers=headers)
    assert 202 == status


async def test_an_empty_notification_is_accepted(site: Site) -> None:
    assert (202, {"accepted": 0, "alerts": []}) == await site.post("alertmanager", notification())


async def test_a_generic_body_is_mapped(site: Site) -> None:
    status, body = await site.post("generic", {"name": "DiskFull", "labels": {"service": "checkout"}})
    assert (202, "opened") == (status, body["alerts"][0]["disposition"])


async def test_a_repeat_is_a_duplicate_even_across_a_restart(
    site_of: Callable[..., Any], tmp_path: Path
) -> None:
    first = await site_of(at=tmp_path)
    await first.post("alertmanager", notification(firing(1)))
    await first.client.close()
    await first.store.close()
    second = await site_of(at=tmp_path)
    _, body = await second.post("alertmanager", notification(firing(1)))
    assert ("suppressed", "duplicate") == (body["alerts"][0]["disposition"], body["alerts"][0]["reason"])
    await is_balanced(second, 2)


async def test_resolved_before_firing_opens_nothing(site: Site) -> None:
    over = firing(1, status="resolved", endsAt="2026-11-21T07:16:00Z")
    _, early = await site.post("alertmanager", notification(over))
    _, late = await site.post("alertmanager", notification(firing(1)))
    assert "resolved_without_firing" == early["alerts"][0]["reason"]
    assert "stale_firing" == late["alerts"][0]["reason"]
    assert (200, []) == ((listed := await site.get("/api/v1/incidents"))[0], listed[1]["items"])
    await is_balanced(site, 2)


async def test_firing_and_resolved_in_one_body_work_in_order(site: Site) -> None:
    over = firing(1, status="resolved", endsAt="2026-11-21T07:16:00Z")
    _, body = await site.post("alertmanager", notification(firing(1), over))
    assert ["opened", "cleared"] == [alert["disposition"] for alert in body["alerts"]]
    await is_balanced(site, 2)


async def test_many_senders_at_once_lose_nothing(site: Site) -> None:
    answers = await asyncio.gather(*(site.post("alertmanager", notification(firing(n))) for n in range(60)))
    assert {202} == {status for status, _ in answers}
    await is_balanced(site, 60)


# --- refused ---------------------------------------------------------------------------------------------


DEEP = b'{"alerts": [' + b"[" * 100 + b"]" * 100 + b"]}"
REFUSED: dict[str, tuple[str, Any, dict[str, str], int, str]] = {
    "not-json": ("alertmanager", b"{", {}, 400, "malformed_json"),
    "empty": ("alertmanager", b"", {}, 400, "malformed_json"),
    "deep": ("alertmanager", DEEP, {}, 400, "too_deep"),
    "wrong-type": ("alertmanager", {"alerts": 1}, {}, 400, "wrong_type"),
    "missing": ("alertmanager", {}, {}, 400, "missing_field"),
    "half-good": ("alertmanager", notification(firing(1), {"status": "firing"}), {}, 400, "missing_field"),
    "nul": ("alertmanager", notification(firing(1, labels={"alertname": "a\0b"})), {}, 400, "bad_value"),
    "too-many": ("alertmanager", notification(*[firing(n) for n in range(2001)]), {}, 400, "too_many_alerts"),
    "oversized": ("alertmanager", b" " * 1_048_577, {}, 413, "too_large"),
    "broken-gzip": ("alertmanager", b"no gzip", {"Content-Encoding": "gzip"}, 400, "malformed_json"),
    "generic-wrong": ("generic", [], {}, 400, "missing_field"),
    "unknown-source": ("nagios", {}, {}, 404, "not_found"),
    "no-token": ("bearer", notification(), {}, 401, "unauthenticated"),
    "wrong-token": ("bearer", notification(), {"Authorization": "Bearer x"}, 401, "bad_credentials"),
    "no-password": ("basic", notification(), {}, 401, "unauthenticated"),
    "wrong-password": ("basic", notification(), {"Authorization": "Basic YTpi"}, 401, "bad_credentials"),
    "no-signature": ("signed", notification(), {}, 401, "unauthenticated"),
    "wrong-signature": ("signed", notification(), {"X-Signature-256": "00"}, 401, "bad_signature"),
    "absent-secret": ("locked", notification(), {"Authorization": "Bearer x"}, 503, "misconfigured"),
    "foreign-page": (
        "alertmanager",
        notification(),
        {"Origin": "https://evil.example"},
        403,
        "foreign_origin",
    ),
    "foreign-name": ("alertmanager", notification(), {"Host": "evil.example"}, 403, "foreign_host"),
}


@pytest.mark.parametrize(
    ("source", "body", "headers", "status", "code"), REFUSED.values(), ids=REFUSED.keys()
)
async def test_a_bad_request_is_refused_whole_and_loses_nothing(
    site: Site, source: str, body: Any, headers: dict[str, str], status: int, code: str
) -> None:
    await accepts_a_good_alert(site, 1)
    raw = io.BytesIO(body) if isinstance(body, bytes) else orjson.dumps(body)
    found, answer = await site.post(source, raw, headers=headers)
    assert (status, code) == (found, answer["error"]["code"])
    assert {"code", "message", "detail"} == set(answer["error"])
    await accepts_a_good_alert(site, 2)
    await is_balanced(site, 2)


async def test_a_refusal_names_the_field(site: Site) -> None:
    _, body = await site.post("alertmanager", notification(firing(1), firing(2, startsAt=7)))
    assert {"field": "alerts[1].startsAt"} == body["error"]["detail"]
    assert "alerts[1].startsAt: must be text, not a number" == body["error"]["message"]


async def test_a_refusal_never_shows_a_secret(site: Site) -> None:
    _, body = await site.post("locked", notification(), headers={"Authorization": "Bearer tok-123"})
    assert "ABSENT" not in orjson.dumps(body).decode()
    assert "tok-123" not in orjson.dumps(body).decode()


async def test_a_signed_body_is_accepted(site: Site) -> None:
    raw = orjson.dumps(notification(firing(1)))
    signature = "sha256=" + hmac.new(b"k3y", raw, hashlib.sha256).hexdigest()
    status, _ = await site.post("signed", raw, headers={"X-Signature-256": signature})
    assert 202 == status


async def test_an_authentic_sender_may_come_through_a_proxy_with_another_name(site: Site) -> None:
    headers = {"Host": "oncall.example", "Authorization": "Bearer tok-123"}
    status, _ = await site.post("bearer", notification(firing(1)), headers=headers)
    assert 202 == status


async def test_a_body_without_a_length_is_bounded_too(site: Site) -> None:
    async def endless() -> Any:
        for _ in range(40):
            yield b" " * 65_536

    status, body = await site.post_stream("alertmanager", endless())
    assert (413, "too_large") == (status, body["error"]["code"])
    await accepts_a_good_alert(site)


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(site: Site) -> None:
    bomb = gzip.compress(b" " * 30_000_000)
    status, body = await site.post("alertmanager", bomb, headers={"Content-Encoding": "gzip"})
    assert (413, "too_large") == (status, body["error"]["code"])
    await accepts_a_good_alert(site)


async def test_a_packed_body_is_read(site: Site) -> None:
    packed = gzip.compress(orjson.dumps(notification(firing(1))))
    status, _ = await site.post("alertmanager", packed, headers={"Content-Encoding": "gzip"})
    assert 202 == status


async def test_a_stranger_is_refused_before_the_body_is_read(site: Site) -> None:
    head = b"POST /webhooks/bearer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", site.client.port)
    writer.write(head)
    assert b"401" in await asyncio.wait_for(reader.readline(), 2)
    writer.close()
    await writer.wait_closed()


# --- back-pressure -----------------------------------------------------------------------------------------


async def test_a_full_queue_tells_the_sender_to_repeat(site_of: Callable[..., Any]) -> None:
    site = await site_of(store={"max_open_incidents": 2})
    for number in (1, 2):
        await accepts_a_good_alert(site, number)
    async with site.client.post("/webhooks/alertmanager", json=notification(firing(3))) as response:
        body = await response.json()
        assert (503, "queue_full") == (response.status, body["error"]["code"])
        assert 1 <= int(response.headers["Retry-After"]) == body["error"]["detail"]["retry_after_seconds"]
    await is_balanced(site, 2)


class SlowStore:
    """A store whose disk is held up until it is let go, or that fails."""

    def __init__(self, store: Any, error: Exception | None = None) -> None:
        self._store, self.error = store, error
        self.released = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def accept(self, placed: Any, now: float) -> Any:
        if self.error is not None:
            raise self.error
        await self.released.wait()
        return await self._store.accept(placed, now)


async def test_more_waiting_requests_than_the_bound_are_sent_away(
    site_of: Callable[..., Any], site: Site
) -> None:
    slow = SlowStore(site.store)
    bounded = await site_of(parts={"store": slow}, server={"max_waiting_requests": 2})
    waiting = [asyncio.create_task(bounded.post("alertmanager", notification(firing(n)))) for n in range(2)]
    while (answer := await bounded.post("alertmanager", notification()))[0] == 202:
        await asyncio.sleep(0.005)
    assert (503, "busy") == (answer[0], answer[1]["error"]["code"])
    slow.released.set()
    assert [202, 202] == [status for status, _ in await asyncio.gather(*waiting)]
    await accepts_a_good_alert(bounded)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreError(), 503, "store_unavailable"),
        (QueueFullError(retry_after_seconds=7.5), 503, "queue_full"),
        (RuntimeError("secret text"), 500, "internal"),
    ],
    ids=["database-away", "queue-full", "unforeseen"],
)
async def test_a_failing_store_is_never_acknowledged(
    site_of: Callable[..., Any], site: Site, error: Exception, status: int, code: str
) -> None:
    failing = SlowStore(site.store, error)
    broken = await site_of(parts={"store": failing})
    found, body = await broken.post("alertmanager", notification(firing(1)))
    assert (status, code) == (found, body["error"]["code"])
    assert "secret text" not in body["error"]["message"]
    failing.error = None
    failing.released.set()
    await accepts_a_good_alert(broken, 1)


async def test_what_came_in_is_counted(site: Site) -> None:
    await site.post("alertmanager", notification(firing(1), firing(1)))
    await site.post("nagios", {})
    async with site.client.get("/metrics") as response:
        text = await response.text()
    assert 'oncall_agent_alerts_total{disposition="opened",reason="",source="alertmanager"} 1.0' in text
    assert 'disposition="suppressed",reason="duplicate",source="alertmanager"} 1.0' in text
    assert 'oncall_agent_webhook_refusals_total{code="not_found",source="unknown"} 1.0' in text
