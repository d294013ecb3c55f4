"""A MongoDB that answers on real sockets: a replica set, or the router of a sharded cluster.

For what no server at hand can do: elections, the balancer, sessions of others. It speaks the wire protocol, so
that the real client library is in between. What it does not know it refuses, as a server does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from oncall_agent.contract import Clock
from oncall_agent.testing.clock import FakeClock
from oncall_agent.testing.mongodb_state import Document, MongoState, RefusedError
from oncall_agent.testing.mongodb_wire import Request, read_request

_OPEN_TO_ALL = ("hello", "isMaster", "ismaster", "ping", "buildInfo", "endSessions")


class FakeMongo(MongoState):
    """Members on loopback ports of their own; with a password they know one user, by the mechanism PLAIN."""

    def __init__(
        self, clock: Clock | None = None, *, members: int = 1, is_router: bool = False, password: str = ""
    ) -> None:
        super().__init__(clock or FakeClock(), members, is_router=is_router)
        self._password = password
        self._servers: list[asyncio.Server] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._may_answer = asyncio.Event()
        self._may_answer.set()

    async def __aenter__(self) -> Self:
        for member, _ in enumerate(self.hosts):
            server = await asyncio.start_server(self._accepting(member), "127.0.0.1", 0)
            self.hosts[member] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._servers.append(server)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        self.release()

    def hang(self) -> None:
        """Accept commands from now on and answer none."""
        self._may_answer.clear()

    def release(self) -> None:
        """Answer again, on new connections."""
        for writer in list(self._open):
            writer.transport.abort()
        self._may_answer.set()

    def _accepting(self, member: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open.add(writer)
            try:
                await self._serve(member, reader, writer)
            except OSError:
                return
            finally:
                self._open.discard(writer)
                writer.close()

        return accept

    async def _serve(self, member: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_known = not self._password
        while (request := await read_request(reader)) is not None:
            await self._may_answer.wait()
            if member in self.away:
                return
            answer = self._answered(member, request, is_known=is_known)
            is_known = is_known or (request.command == "saslStart" and answer["ok"] == 1.0)
            writer.write(request.answer(answer))
            await writer.drain()

    def _answered(self, member: int, request: Request, *, is_known: bool) -> Document:
        self.connected = len(self._open)
        try:
            if request.command == "saslStart":
                found = self._signed_in(request.document)
            else:
                _need_user(request.command, is_known=is_known)
                found = self.carry_out(member, request.command, request.document)
        except RefusedError as error:
            return {"ok": 0.0, "errmsg": str(error), "code": error.code}
        return {**found, "ok": 1.0}

    def _signed_in(self, document: Mapping[str, Any]) -> Document:
        given = bytes(document.get("payload") or b"").split(b"\0")[-1].decode()
        if document.get("mechanism") != "PLAIN" or given != self._password:
            raise RefusedError(18, "Authentication failed.")
        return {"conversationId": 1, "done": True, "payload": b""}


def _need_user(command: str, *, is_known: bool) -> None:
    if not is_known and command not in _OPEN_TO_ALL:
        raise RefusedError(13, f"Command {command} requires authentication")
