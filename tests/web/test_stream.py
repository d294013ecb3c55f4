"""The stream: changes arrive, are bounded, and end with the server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientResponse
from web.sites import Site, firing, notification

from oncall_agent.store import FeedItem
from oncall_agent.store.feed import RELOADED
from oncall_agent.web import stream
from oncall_agent.web.stream import written


async def block(response: ClientResponse) -> str:
    lines: list[bytes] = []
    while (line := await asyncio.wait_for(response.content.readline(), 5)).strip():
        lines.append(line)
    return b"".join(lines).decode()


async def test_a_change_is_told(site: Site) -> None:
    async with site.client.get("/api/v1/stream") as response:
        assert (200, "text/event-stream") == (response.status, response.content_type)
        assert ": connected\nretry: 2000\n" == await block(response)
        _, body = await site.post("alertmanager", notification(firing(1)))
        told = await block(response)
    assert told.startswith("event: incident\ndata: {")
    assert body["alerts"][0]["incident_id"] in told


async def test_a_turned_switch_is_told(site: Site) -> None:
    async with site.client.get("/api/v1/stream") as response:
        await block(response)
        async with site.client.post("/api/v1/control", json={"paused": True}) as changed:
            assert 200 == changed.status
        assert (await block(response)).startswith("event: control\n")


async def test_a_quiet_stream_beats(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.01)
    async with site.client.get("/api/v1/stream") as response:
        await block(response)
        assert ": nothing changed\n" == await block(response)


async def test_an_old_stream_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.01)
    async with site.client.get("/api/v1/stream") as response:
        await block(response)
        site.clock.seconds += 3601
        assert (await asyncio.wait_for(response.content.read(), 5)).count(b"\n\n") <= 3
    assert not site.store.feed.is_watched


async def test_streams_are_bounded(site_of: Callable[..., Any]) -> None:
    site = await site_of(server={"max_streams": 1})
    async with site.client.get("/api/v1/stream") as first:
        await block(first)
        async with site.client.get("/api/v1/stream") as second:
            body = await second.json()
            assert (503, "too_many_streams") == (second.status, body["error"]["code"])


async def test_a_reader_that_goes_frees_its_place(
    site_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.01)
    site = await site_of(server={"max_streams": 1})
    async with site.client.get("/api/v1/stream") as response:
        await block(response)
    for _ in range(500):
        if not site.store.feed.is_watched:
            break
        await asyncio.sleep(0.01)
    assert not site.store.feed.is_watched


async def test_a_stopping_server_does_not_wait_for_its_readers(site: Site) -> None:
    async with site.client.get("/api/v1/stream") as response:
        await block(response)
        await asyncio.wait_for(site.client.server.close(), 5)
        assert b"" == await response.content.read()


def test_a_loss_is_told_as_reload() -> None:
    assert b"event: reload\ndata: {}\n\n" == written(RELOADED)


def test_alert_text_can_not_break_out_of_its_line() -> None:
    block_of = written(FeedItem("1", "queued", "x\n\nevent: evil"))
    assert 3 == block_of.count(b"\n")
