"""A TCP relay that misbehaves on demand: what a backend that goes away looks like from here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self

_CHUNK_BYTES = 65_536


class Fault(Enum):
    """How the way to the backend is broken."""

    NONE = "none"
    CUT = "cut"
    """Every connection, open or new, is reset."""
    CUT_MIDWAY = "cut midway"
    """The request reaches the backend; the first byte of its answer resets the connection."""
    BLACK_HOLE = "black hole"
    """Connections are accepted and stay open; nothing comes through."""
    REFUSED = "refused"
    """Nothing listens."""
    SLOW = "slow"
    """Every chunk of an answer comes `slow_seconds` late."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the backend listens: a host and port, or the path of a Unix socket."""

    host: str = "127.0.0.1"
    port: int = 0
    path: str = ""

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to it."""
        if self.path:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection(self.host, self.port)


class FaultyProxy:
    """Relays a loopback port to the backend until told otherwise.

    Example:
        async with FaultyProxy(Upstream(port=6379)) as proxy:
            await proxy.become(Fault.BLACK_HOLE)
    """

    def __init__(self, upstream: Upstream, *, slow_seconds: float = 0.2) -> None:
        self._upstream, self._slow_seconds = upstream, slow_seconds
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self.fault = Fault.NONE
        self.port = 0

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._deafen()
        self._reset_all()
        for relay in list(self._relays):
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def become(self, fault: Fault) -> None:
        """Break the way in this manner from now on; `Fault.NONE` mends it."""
        self.fault = fault
        if fault is Fault.REFUSED:
            await self._deafen()
        elif self._server is None:
            await self._listen()
        if fault is not Fault.SLOW and fault is not Fault.CUT_MIDWAY:
            # A mended way has no connection left that hung in the hole.
            self._reset_all()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _reset_all(self) -> None:
        for client in list(self._clients):
            _reset(client)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        if relay is not None:
            self._relays.add(relay)
            relay.add_done_callback(self._relays.discard)
        self._clients.add(writer)
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            _reset(writer)
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault is Fault.CUT:
            _reset(writer)
            return
        if self.fault is Fault.BLACK_HOLE:
            while await reader.read(_CHUNK_BYTES):
                pass
            return
        far_reader, far_writer = await self._upstream.open()
        try:
            await _first_done(
                self._pump(reader, far_writer, lambda: True), self._pump(far_reader, writer, self._may_answer)
            )
        finally:
            far_writer.close()

    def _may_answer(self) -> bool:
        return self.fault not in (Fault.CUT, Fault.CUT_MIDWAY)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, may_pass: Callable[[], bool]
    ) -> None:
        while chunk := await source.read(_CHUNK_BYTES):
            if not may_pass():
                _reset(sink)
                return
            if self.fault is Fault.BLACK_HOLE:
                continue
            if self.fault is Fault.SLOW:
                await asyncio.sleep(self._slow_seconds)
            sink.write(chunk)
            await sink.drain()


async def _first_done(*pumps: Coroutine[Any, Any, None]) -> None:
    running = [asyncio.ensure_future(pump) for pump in pumps]
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset, as from a host that died."""
    with contextlib.suppress(OSError):
        sock: socket.socket | None = writer.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
