"""The listening side: plain webhooks are served by it, everything else by the library, and nothing between them is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from web.sites import FrontedServer, Site, firing, notification

from oncall_agent.errors import StoreError
from oncall_agent.web.front import Front, Line

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def plain(number: int, *more: str, source: str = "alertmanager", body: bytes | None = None) -> bytes:
    body = orjson.dumps(notification(firing(number))) if body is None else body
    fields = ("Host: localhost", f"Content-Length: {len(body)}", *more)
    return "\r\n".join((f"POST /webhooks/{source} HTTP/1.1", *fields, "", "")).encode() + body


@asynccontextmanager
async def connected(site: Site) -> AsyncIterator[Pair]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.client.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bool, Any]:
    """Give status, whether the front itself answered (the library names itself), and the body."""
    async with asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(fields["content-length"]))
    assert "date" in fields
    return int(head.split(" ")[1]), "server" not in fields, orjson.loads(body)


async def ask(pair: Pair, *parts: bytes) -> tuple[int, bool]:
    for part in parts:
        pair[1].write(part)
        await pair[1].drain()
        await asyncio.sleep(0.005)
    status, by_front, _ = await answer(pair[0])
    return status, by_front


async def balance(site: Site) -> int:
    return (await site.store.conservation()).accepted


def front_of(site: Site) -> Front:
    server = site.client.server
    assert isinstance(server, FrontedServer)
    return server.front


def line_of(site: Site) -> Line:
    (line,) = front_of(site).lines
    return line


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_plain_webhooks_of_one_connection_are_served_by_the_front(site: Site) -> None:
    async with connected(site) as pair:
        assert [(202, True)] * 3 == [await ask(pair, plain(number)) for number in range(3)]
    assert 3 == await balance(site)


async def test_the_answer_says_what_became_of_each_alert(site: Site) -> None:
    async with connected(site) as (reader, writer):
        writer.write(plain(1))
        _, _, body = await answer(reader)
    assert (1, "opened", f"{1:016x}") == (
        body["accepted"],
        body["alerts"][0]["disposition"],
        body["alerts"][0]["fingerprint"],
    )


async def test_a_body_may_come_in_parts(site: Site) -> None:
    whole = plain(1)
    async with connected(site) as pair:
        assert (202, True) == await ask(pair, whole[:200], whole[200:300], whole[300:])
        assert (202, True) == await ask(pair, plain(2))
    assert 2 == await balance(site)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param((plain(1)[:20], plain(1)[20:]), id="head in parts"),
        pytest.param((plain(1, "Connection: keep-alive"),), id="not plain"),
        pytest.param((plain(1, "X-Long: " + "x" * 5_000, "Y-Long: " + "x" * 5_000),), id="long head"),
        pytest.param((plain(1, body=orjson.dumps(notification(firing(1))).ljust(70_000)),), id="large body"),
    ],
)
async def test_what_is_not_plain_is_served_by_the_library_from_then_on(
    site: Site, request_: tuple[bytes, ...]
) -> None:
    async with connected(site) as pair:
        assert (202, False) == await ask(pair, *request_)
        assert (202, False) == await ask(pair, plain(2))
    assert 2 == await balance(site)


async def test_requests_sent_ahead_are_answered_in_their_order(site: Site) -> None:
    broken = plain(0, body=b"{")
    async with connected(site) as (reader, writer):
        writer.write(plain(1) + plain(2) + HEALTH + broken + plain(3) + plain(4)[:-5])
        found = [(await answer(reader))[:2] for _ in range(5)]
        writer.write(plain(4)[-5:])
        found.append((await answer(reader))[:2])
    assert [(202, True), (202, True), (200, False), (400, False), (202, False), (202, False)] == found
    assert 4 == await balance(site)


async def test_a_flood_of_requests_sent_ahead_is_answered_one_by_one(site: Site) -> None:
    async with connected(site) as (reader, writer):
        writer.writelines(plain(number) for number in range(300))
        assert {202} == {(await answer(reader))[0] for _ in range(300)}
    assert 300 == await balance(site)


async def test_a_sender_that_does_not_read_is_not_listened_to(site: Site) -> None:
    async with connected(site) as pair:
        await ask(pair, plain(1))
        line = line_of(site)
        line.pause_writing()
        pair[1].write(plain(2))
        await asyncio.sleep(0.01)
        assert 1 == await balance(site)
        line.resume_writing()
        assert (202, True) == (await answer(pair[0]))[:2]
    assert 2 == await balance(site)


async def test_the_rest_of_a_request_is_not_waited_for_without_end(site: Site) -> None:
    whole = plain(1)
    async with connected(site) as pair:
        pair[1].write(whole[:-1])
        await until(lambda: [line for line in front_of(site).lines if line._received])
        line = line_of(site)
        line.look(front_of(site).loop.time() + 9.0)
        assert {line} == front_of(site).lines
        line.look(front_of(site).loop.time() + 11.0)
        assert set() == front_of(site).lines  # and the library has a bound of its own
        assert (202, False) == await ask(pair, whole[-1:])


async def test_a_silent_connection_is_closed_at_last(site: Site) -> None:
    async with connected(site) as (reader, _):
        await until(lambda: front_of(site).lines)
        line_of(site).look(front_of(site).loop.time() + 3_000.0)
        assert 1 == len(front_of(site).lines)
        line_of(site).look(front_of(site).loop.time() + 4_000.0)
        assert b"" == await asyncio.wait_for(reader.read(), 5)


async def test_a_sender_that_left_is_counted_and_forgotten(site: Site) -> None:
    async with connected(site) as (_, writer):
        writer.write(plain(1))
        await writer.drain()
    while await balance(site) != 1:
        await asyncio.sleep(0.001)
    await until(lambda: not front_of(site).lines and front_of(site).ingest._waiting == 0)


class HeldStore:
    """A store that answers when it is let go."""

    def __init__(self, store: Any) -> None:
        self._store, self.released, self.error = store, asyncio.Event(), False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def accept(self, placed: Any, now: float) -> Any:
        await self.released.wait()
        if self.error:
            raise StoreError
        return await self._store.accept(placed, now)


async def test_a_store_that_fails_is_the_librarys_to_report(site_of: Callable[..., Any], site: Site) -> None:
    held = HeldStore(site.store)
    failing = await site_of(parts={"store": held})
    held.error = True
    held.released.set()
    async with connected(failing) as pair:
        assert (503, False) == await ask(pair, plain(1))
        held.error = False
        assert (202, False) == await ask(pair, plain(1))
    assert 1 == await balance(site)
    assert 0 == front_of(failing).ingest._waiting


async def test_what_is_under_way_is_answered_before_the_end(site_of: Callable[..., Any], site: Site) -> None:
    held = HeldStore(site.store)
    closing = await site_of(parts={"store": held})
    front = front_of(closing)
    async with connected(closing) as busy, connected(closing) as idle:
        busy[1].write(plain(1))
        await until(lambda: [line for line in front.lines if line.accepted is not None])
        end = asyncio.create_task(front.close(5.0))
        await asyncio.sleep(0.005)
        held.released.set()
        await end
        assert 202 == (await answer(busy[0]))[0]
        assert b"" == await asyncio.wait_for(idle[0].read(), 5)
        assert b"" == await asyncio.wait_for(busy[0].read(), 5)
    assert 1 == await balance(site)
