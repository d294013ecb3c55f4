"""`/api/v1/stream`: what changes, as server-sent events; bounded in number, queue, silence and age."""

from __future__ import annotations

import asyncio
import contextlib

import orjson
from aiohttp import web

from oncall_agent.store import FeedItem, Subscription
from oncall_agent.store.feed import RELOADED
from oncall_agent.web.errors import BusyError
from oncall_agent.web.routes import Call

HEARTBEAT_SECONDS = 15.0
"""A comment this often keeps proxies from closing, and finds readers that are gone."""
MAX_AGE_SECONDS = 3600.0
"""Then the browser connects again, and its session is looked at again."""
WRITE_SECONDS = 20.0
"""A reader that takes nothing for so long is let go."""
_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


class Streams:
    """The open streams of one application."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[Subscription] = set()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    async def answer(self, call: Call) -> web.StreamResponse:
        """Write changes until the reader goes, the stream is too old, or the server stops."""
        if len(self._open) >= self._most:
            raise BusyError("too many streams are open", code="too_many_streams")
        with call.parts.store.feed.subscribe() as subscription:
            self._open.add(subscription)
            try:
                return await self._write(call, subscription)
            finally:
                self._open.discard(subscription)

    def close(self) -> None:
        """End every stream, so that a stopping server does not wait for its readers."""
        for subscription in tuple(self._open):
            subscription.close()

    async def _write(self, call: Call, subscription: Subscription) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(call.request)
        clock = call.parts.clock
        end = clock.monotonic() + MAX_AGE_SECONDS
        with contextlib.suppress(ConnectionError, TimeoutError):
            await _send(response, b": connected\nretry: 2000\n\n")
            while clock.monotonic() < end and (block := await _following(subscription)) is not None:
                await _send(response, block)
        return response


async def _following(subscription: Subscription) -> bytes | None:
    """Give the next block, a heartbeat when nothing changes, None at the end."""
    try:
        async with asyncio.timeout(HEARTBEAT_SECONDS):
            return written(await anext(subscription))
    except TimeoutError:
        return b": nothing changed\n\n"
    except StopAsyncIteration:
        return None


async def _send(response: web.StreamResponse, block: bytes) -> None:
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(block)


def written(item: FeedItem) -> bytes:
    """Give an item as one server-sent event: `incident`, `control`, or `reload` after a loss."""
    if item == RELOADED:
        return b"event: reload\ndata: {}\n\n"
    kind = b"incident" if item.incident_id else b"control"
    return b"event: " + kind + b"\ndata: " + orjson.dumps(item) + b"\n\n"
