"""The listening side: plain webhooks are read off the wire here, everything else by the HTTP library.

A storm arrives as many small requests of one form, and for those most of a general HTTP server's time goes into what
they never use. A connection is served here as long as it carries nothing but plain webhooks (`web.head`) that are
accepted. At the first request that is not plain, or that ends in any error, the library gets the connection for good
and that request from its first byte, so that there is one place that refuses, and one way to say why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Final, cast

from aiohttp import web

from oncall_agent.models import AcceptedAlert
from oncall_agent.web.head import MOST_HEAD_BYTES, plain_head
from oncall_agent.web.ingest import INGEST, READ_SECONDS, Ingest

_MOST_BODY_BYTES: Final = 65_536
"""What waits here for its rest is not counted against `max_waiting_requests`; larger bodies are the library's."""
_IDLE_SECONDS: Final = 3_600.0
_LOOK_SECONDS: Final = 5.0
_BACKLOG: Final = 1_024
_END_OF_HEAD: Final = b"\r\n\r\n"
_ANSWER: Final = (
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: %b\r\n\r\n%b"
)


class Front:
    """Listens for one application."""

    def __init__(self, ingest: Ingest, library: Callable[[], asyncio.Protocol]) -> None:
        self.ingest, self.library = ingest, library
        self.loop = asyncio.get_running_loop()
        self.lines: set[Line] = set()
        self.port = 0
        self._server: asyncio.Server
        self._looking: asyncio.TimerHandle

    @classmethod
    async def open(cls, runner: web.AppRunner, host: str, port: int) -> Front:
        """Listen; `runner` is set up, and has no site of its own.

        Raises:
            OSError: the address can't be had.
        """
        front = cls(runner.app[INGEST], cast("Callable[[], asyncio.Protocol]", runner.server))
        listening = front.loop.create_server(
            lambda: Line(front), host, port, backlog=_BACKLOG, reuse_address=True
        )
        front._server = await listening
        front.port = int(front._server.sockets[0].getsockname()[1])
        front._looking = front.loop.call_later(_LOOK_SECONDS, front._look)
        return front

    async def close(self, seconds: float) -> None:
        """Listen no more, and give the requests under way that long to be answered."""
        self._server.close()
        self._looking.cancel()
        under_way = [line.accepted for line in self.lines if line.accepted is not None]
        if under_way:
            await asyncio.wait(under_way, timeout=seconds)
        for line in tuple(self.lines):
            line.close()

    def _look(self) -> None:
        self._looking = self.loop.call_later(_LOOK_SECONDS, self._look)
        now = self.loop.time()
        for line in tuple(self.lines):
            line.look(now)


class Line(asyncio.Protocol):
    """One connection, as long as it is served here; one request after the other."""

    def __init__(self, front: Front) -> None:
        self._front, self._ingest = front, front.ingest
        self._transport: asyncio.Transport
        self._received = b""
        self._end = 0
        self._since = 0.0
        self._is_full = False
        self.accepted: asyncio.Future[list[AcceptedAlert]] | None = None

    # --- what the transport says ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to listen."""
        self._transport = cast("asyncio.Transport", transport)
        self._since = self._front.loop.time()
        self._front.lines.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it; what is under way is stored all the same."""
        self._front.lines.discard(self)

    def data_received(self, data: bytes) -> None:
        """Take the next request when the last one is answered."""
        if self.accepted is not None:
            # The next request waits in the kernel; what came of it already is at most one read.
            self._transport.pause_reading()
        elif not self._received:
            self._since = self._front.loop.time()
        self._received += data
        if self.accepted is None:
            self._take()

    def pause_writing(self) -> None:
        """Take nothing more from a sender that does not read its answers."""
        self._is_full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_full = False
        self._read_on()

    # --- one request ----------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Wait no longer for the rest of a request, nor for a sender that has gone silent."""
        if self.accepted is not None or self._transport.is_closing():
            return
        if self._received:
            if now - self._since >= READ_SECONDS:
                self._hand_over()
        elif now - self._since >= _IDLE_SECONDS:
            self.close()

    def close(self) -> None:
        """Close the connection once what was answered is sent."""
        self._transport.close()

    def _take(self) -> None:
        """Take the first request of what was received, if it is whole."""
        received, begun = self._received, self._ingest.clock.monotonic()
        start = received.find(_END_OF_HEAD, 0, MOST_HEAD_BYTES)
        head = plain_head(received[:start]) if start > 0 else None
        if head is None or head.length > _MOST_BODY_BYTES:
            self._hand_over()
            return
        start += len(_END_OF_HEAD)
        self._end = start + head.length
        try:
            door = self._ingest.admit(head.source, head, head.length)
            if len(received) < self._end:
                return
            self.accepted = self._ingest.begin(door, head, received[start : self._end])
        except Exception:  # noqa: BLE001 - whatever it is: it happens again where it is answered
            self._hand_over()
        else:
            self.accepted.add_done_callback(partial(self._answer, door.name, begun))

    def _answer(self, source: str, begun: float, accepted: asyncio.Future[list[AcceptedAlert]]) -> None:
        self.accepted = None
        failed = accepted.cancelled() or accepted.exception() is not None
        if not failed:
            body = self._ingest.acknowledge(source, accepted.result(), begun)
            self._received = self._received[self._end :]
            if not self._transport.is_closing():
                date = _date(int(self._ingest.clock.now()))
                self._transport.write(_ANSWER % (len(body), date, body))
        if self._transport.is_closing():
            return
        if failed:
            # Sent again it finds the same trouble or none, and is no second alert either way.
            self._hand_over()
            return
        self._read_on()
        if self._received:
            self._since = self._front.loop.time()
            self._take()

    def _read_on(self) -> None:
        if self.accepted is None and not self._is_full and not self._transport.is_closing():
            self._transport.resume_reading()

    def _hand_over(self) -> None:
        """Let the library have the connection, with everything from the request that is not for here."""
        self._front.lines.discard(self)
        library = self._front.library()
        self._transport.set_protocol(library)
        library.connection_made(self._transport)
        if self._is_full:
            library.pause_writing()
        library.data_received(self._received)
        self._transport.resume_reading()


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
