"""What the benchmarks share: a keep-alive HTTP client on raw sockets, and the machine's own echo limit."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvloop
from running import HOST, free_port, serving, started

CONNECTIONS = 32
ALWAYS = float("inf")


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request is sent when the answer to the last one is complete."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answered: asyncio.Future[int] | None = None
        self.body = b""
        """Of the last answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self._received.lower().find(b"content-length:", 0, head) + 15
        length = int(self._received[start : self._received.find(b"\r", start)])
        if len(self._received) >= head + 4 + length and self._answered is not None:
            status = int(self._received[9:12])
            self.body = bytes(self._received[head + 4 :])
            self._received.clear()
            answered, self._answered = self._answered, None
            if not answered.done():
                answered.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError("closed"))

    async def ask(self, request: bytes) -> int:
        """Send a request and give the status of its answer."""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        self._transport.close()


async def connected(port: int) -> Connection:
    """Open a connection."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, port)
    return connection


def framed(path: str, body: bytes) -> bytes:
    """Give a POST of a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def asking(path: str) -> bytes:
    """Give a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


def share(ordered: list[float], part: float) -> float:
    """Give the value below which this part of sorted values lies."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@dataclass(frozen=True)
class Load:
    """What one run of the generator saw.

    Attributes:
        sent: epoch seconds at which each request was sent, in the order of the requests.
        waits: seconds until each answer, sorted; from when a request was due, where a rate was given: a stalled
            server must not hide its queue.
        bad: answers other than 200 and 202.
    """

    sent: list[float]
    waits: list[float]
    seconds: float
    bad: int

    @property
    def requests(self) -> int:
        return len(self.waits)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    def within_ms(self, part: float) -> float:
        """Give the milliseconds within which this part of the answers came."""
        return 1000 * share(self.waits, part)


def drive(port: int, requests: Iterator[bytes], *, seconds: float = ALWAYS, rate: float = 0.0) -> Load:
    """Send requests until they or the time end: as fast as they are answered, or at a rate."""
    return uvloop.run(driving(port, requests, seconds=seconds, rate=rate))


async def driving(
    port: int, requests: Iterator[bytes], *, seconds: float = ALWAYS, rate: float = 0.0
) -> Load:
    """Do what `drive` does, beside other things."""
    loop = asyncio.get_running_loop()
    numbered = enumerate(requests)
    sent: dict[int, float] = {}
    waits: list[float] = []
    bad = 0
    begun = loop.time()

    async def work() -> None:
        nonlocal bad
        connection = await connected(port)
        while loop.time() < begun + seconds and (following := next(numbered, None)) is not None:
            number, request = following
            due = begun + number / rate if rate else loop.time()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            sent[number] = time.time()
            bad += await connection.ask(request) not in (200, 202)
            waits.append(loop.time() - due)
        connection.close()

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return Load([sent[number] for number in sorted(sent)], sorted(waits), loop.time() - begun, bad)


async def serve_echo(port: int) -> None:
    """The least that an aiohttp server can do with a JSON body."""
    from aiohttp import web

    async def echo(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    app = web.Application()
    app.router.add_post("/echo", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    await serving()
    await runner.cleanup()


def echo_rate(seconds: float, body: bytes = b"") -> float:
    """Requests per second of a bare aiohttp + uvloop JSON echo on this machine, now."""
    body = body or json.dumps({"alerts": [{"labels": {str(n): "value" for n in range(12)}}]}).encode()
    port = free_port()
    with started(__file__, str(port), port=port):
        return drive(port, itertools.repeat(framed("/echo", body)), seconds=seconds).rate


if __name__ == "__main__":
    uvloop.run(serve_echo(int(sys.argv[1])))
