"""What the benchmarks share: a keep-alive HTTP client on raw sockets, and the machine's own echo limit."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from typing import Any

HOST = "127.0.0.1"
CONNECTIONS = 32


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request is sent when the answer to the last one is complete."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answered: asyncio.Future[int] | None = None

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
            self._received.clear()
            answered, self._answered = self._answered, None
            if not answered.done():
                answered.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError("closed"))

    async def ask(self, request: bytes) -> int:
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        self._transport.close()


def framed(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def listening(port: int, seconds: float = 20.0) -> None:
    """Wait until somebody listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((HOST, port), timeout=0.5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit("a server did not start") from None
            time.sleep(0.02)


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
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await runner.cleanup()


async def busy(port: int, path: str, body: bytes, seconds: float) -> float:
    """Keep every connection busy for so long; gives requests per second."""
    loop = asyncio.get_running_loop()
    request, begun, done = framed(path, body), loop.time(), 0

    async def work() -> None:
        nonlocal done
        _, connection = await loop.create_connection(Connection, HOST, port)
        while loop.time() < begun + seconds:
            await connection.ask(request)
            done += 1
        connection.close()

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return done / (loop.time() - begun)


def echo_rate(seconds: float) -> float:
    """Requests per second of a bare aiohttp + uvloop JSON echo on this machine, now."""
    port = free_port()
    server = subprocess.Popen([sys.executable, __file__, str(port)])
    try:
        listening(port)
        body = json.dumps({"alerts": [{"labels": {str(n): "value" for n in range(12)}}]}).encode()
        return asyncio.run(busy(port, "/echo", body, seconds))
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve_echo(int(sys.argv[1])))
