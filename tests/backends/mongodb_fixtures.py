"""FerretDB for tests: where it is, and a relay in front of it that knows killOp."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator

import asyncpg  # type: ignore[import-untyped]
import pytest
from bson import json_util

from backends.ferretdb_server import PASSWORD
from oncall_agent.testing.mongodb_wire import Request, read_raw, read_request

PASSWORD_VARIABLE = "TEST_MONGODB_PASSWORD"
_KILL = "select documentdb_api.kill_op($1::text::documentdb_core.bson)"


class Relay:
    """Passes every message on to FerretDB, except killOp, which it has not: that goes to its engine by SQL."""

    def __init__(self, upstream: str, engine_port: int) -> None:
        self._upstream, self._engine_port = upstream, engine_port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.kills = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server else 0

    async def start(self) -> "Relay":
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def stop(self) -> None:
        """Close every connection."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._upstream.partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        self._open |= {writer, far_writer}
        # A client that goes away takes its connection to the server along, also while that still works.
        ends = asyncio.create_task(self._watch(far_reader, writer))
        try:
            while (request := await read_request(reader)) is not None:
                if request.command == "killOp":
                    writer.write(request.answer(await self._kill(request)))
                else:
                    far_writer.write(request.raw)
        except OSError:
            return
        finally:
            ends.cancel()
            self._open -= {writer, far_writer}
            writer.close()
            far_writer.close()

    async def _watch(self, far_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answer := await read_raw(far_reader):
            with contextlib.suppress(OSError):
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def _kill(self, request: Request) -> dict[str, object]:
        self.kills += 1
        connection = await asyncpg.connect(host="127.0.0.1", port=self._engine_port, user="postgres")
        try:
            document = {"killOp": 1, "op": request.document["op"], "$db": "admin"}
            await connection.fetchval(_KILL, json_util.dumps(document))
        except asyncpg.PostgresError as error:
            return {"ok": 0.0, "errmsg": str(error), "code": 96}
        finally:
            await connection.close()
        return {"info": "attempting to kill op", "ok": 1.0}


@pytest.fixture(scope="session")
def mongodb_host() -> str:
    """`host:port` of this run's FerretDB, shared by all workers: use a database of your own."""
    return os.environ["ONCALL_TEST_MONGODB_HOST"]


@pytest.fixture
def mongodb_password(mongodb_host: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The reference to the password of its user `responder`."""
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    return f"env:{PASSWORD_VARIABLE}"


@pytest.fixture
def mongodb_database() -> str:
    """The name of a database of this very test."""
    return f"test_{secrets.token_hex(6)}"


@pytest.fixture
async def mongodb_relay(mongodb_host: str) -> AsyncIterator[Relay]:
    """A relay in front of it that knows killOp."""
    relay = await Relay(mongodb_host, int(os.environ["ONCALL_TEST_MONGODB_ENGINE_PORT"])).start()
    yield relay
    await relay.stop()
