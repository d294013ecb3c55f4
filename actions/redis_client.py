"""The way to Redis and Valkey: settings, connections, and what their errors mean.

The only file that imports the client library: without it the redis system is off and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import redis.asyncio as redis
from pydantic import BaseModel, ConfigDict, Field
from redis import exceptions as errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from oncall_agent.contract import PermanentError, SecretRef, Target, TransientError
from oncall_agent.contract.secret import redact, resolve
from oncall_agent.errors import ConfigError
from oncall_agent.models import JsonObject

T = TypeVar("T")
Client = Any
KIND = "redis_server"
CLIENT_NAME = "oncall-agent"
_MAX_TEXT = 300
_MAX_CONNECTIONS = 8
_MAX_CLIENTS = 64


class RedisServer(BaseModel):
    """One server of `backends.redis.servers`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Name or address."""
    port: int = Field(6379, ge=1, le=65_535)
    """Its TCP port."""
    username: str = ""
    """The ACL user; empty is the user `default`."""
    password: SecretRef | None = None
    """By reference."""
    tls: bool = False
    """Speak TLS; the certificate and the host name are checked."""
    ca_file: str = ""
    """Certificate authority for TLS; empty takes the machine's own."""
    cache_databases: tuple[int, ...] = ()
    """Databases that hold nothing but what can be made again: only there are keys removed."""
    key_patterns: tuple[str, ...] = ()
    """The only patterns that `redis.unlink_keys` may be given, such as `cache:page:*`."""
    sentinels: tuple[str, ...] = ()
    """`host:port` of the sentinels that watch it; a failover then goes through them."""
    sentinel_primary: str = "mymaster"
    """The name under which the sentinels know it."""
    sentinel_username: str = ""
    """The ACL user at the sentinels; empty is the user `default`."""
    sentinel_password: SecretRef | None = None
    """By reference."""
    protected: bool = False
    """Nothing is ever changed there."""


class RedisSettings(BaseModel):
    """The group `backends.redis`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    servers: Mapping[str, RedisServer] = Field(default_factory=dict)
    """By name; a target's address says `server: <name>` and, if it is not 0, `database: <number>`."""
    timeout_seconds: float = Field(5.0, ge=0.1, le=60)
    """For one question."""
    max_memory_bytes: int = Field(8_589_934_592, ge=1_048_576)
    """`maxmemory` is never raised beyond this."""
    host_memory_share: float = Field(0.8, gt=0, le=0.95)
    """`maxmemory` is never raised beyond this share of the host's memory."""
    flush_gap_seconds: float = Field(60.0, ge=1, le=86_400)
    """Least time between two flushes of any two databases: their origin has to refill them."""


class BusyError(TransientError):
    """The server runs a script and answers nothing else."""


class FullError(PermanentError):
    """The server has no memory left and evicts nothing."""


class Place(BaseModel):
    """Which server, which of its databases, and at which address if not the configured one."""

    model_config = ConfigDict(frozen=True)

    name: str
    server: RedisServer
    database: int = 0
    host: str = ""
    port: int = 0

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What tells two connections apart."""
        return (self.name, self.database, self.host or self.server.host, self.port or self.server.port)

    def at(self, host: str, port: int) -> Place:
        """Give the same credentials at another address: a replica, or the primary of today."""
        return self.model_copy(update={"host": host, "port": port, "database": 0})


def sentinel_place(place: Place, address: str) -> Place:
    """Give where one sentinel of a server is, with the sentinels' own credentials."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise PermanentError(f"Redis {place.name}: a sentinel stands as host:port")
    server = RedisServer(
        host=host,
        port=int(port),
        username=place.server.sentinel_username,
        password=place.server.sentinel_password,
        tls=place.server.tls,
        ca_file=place.server.ca_file,
    )
    return Place(name=f"{place.name} (sentinel)", server=server)


class Redis:
    """Connections to all configured servers, opened at the first question and kept."""

    def __init__(self, settings: JsonObject, name: str = CLIENT_NAME) -> None:
        self._name = name
        self.settings = RedisSettings.model_validate(dict(settings))
        self._clients: dict[tuple[str, int, str, int], Client] = {}

    def place_of(self, target: Target) -> Place:
        """Give where a target's address leads.

        Raises:
            PermanentError: the address names no configured server.
        """
        name, database = target.address.get("server"), target.address.get("database", 0)
        if not isinstance(name, str) or name not in self.settings.servers:
            raise PermanentError(f"target {target.name}: the address must name a server of backends.redis")
        if not isinstance(database, int) or database < 0:
            raise PermanentError(f"target {target.name}: the database must be a number")
        return Place(name=name, server=self.settings.servers[name], database=database)

    def place(self, name: str, database: int = 0) -> Place:
        """Give a configured server by its name."""
        return Place(name=name, server=self.settings.servers[name], database=database)

    async def ask(self, place: Place, seconds: float, question: Callable[[Client], Awaitable[T]]) -> T:
        """Put one question within the time.

        Raises:
            TransientError: no answer (in time); `BusyError` while a script runs.
            PermanentError: refused; `FullError` when there is no memory.
        """
        limit = max(0.02, min(seconds, self.settings.timeout_seconds))
        try:
            async with asyncio.timeout(limit):
                return await question(self._client(place))
        except (TimeoutError, errors.RedisError, OSError, ConfigError) as error:
            raise _named(error, place.name) from error

    async def close(self) -> None:
        """Give the connections back."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()

    def _client(self, place: Place) -> Client:
        found = self._clients.get(place.key)
        if found is None:
            if len(self._clients) >= _MAX_CLIENTS:
                raise PermanentError(f"more than {_MAX_CLIENTS} databases in use")
            found = self._clients[place.key] = self._opened(place)
        return found

    def _opened(self, place: Place) -> Client:
        server, (_, database, host, port) = place.server, place.key
        return connect(
            host,
            port,
            database=database,
            username=server.username,
            password=resolve(server.password).reveal() if server.password else "",
            tls=server.tls,
            ca_file=server.ca_file,
            timeout_seconds=self.settings.timeout_seconds,
            name=self._name,
        )


def connect(
    host: str,
    port: int,
    *,
    database: int = 0,
    username: str = "",
    password: str = "",
    tls: bool = False,
    ca_file: str = "",
    timeout_seconds: float = 5.0,
    name: str = CLIENT_NAME,
) -> Client:
    """Give a client that repeats nothing by itself: a change must not be sent twice."""
    return redis.Redis(
        host=host,
        port=port,
        db=database,
        username=username or None,
        password=password or None,
        ssl=tls,
        ssl_ca_certs=ca_file or None,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        max_connections=_MAX_CONNECTIONS,
        client_name=name or None,
        protocol=2,
        decode_responses=True,
        # Keys are bytes: what is no UTF-8 has to survive the way there and back.
        encoding_errors="surrogateescape",
    )


def _named(error: Exception, server: str) -> TransientError | PermanentError:
    """Give the error that says what happens next; credentials and keys are not in it."""
    text = redact(str(error))[:_MAX_TEXT]
    if isinstance(error, ConfigError):
        return PermanentError(text)
    if isinstance(error, errors.AuthenticationError | errors.AuthorizationError | errors.NoPermissionError):
        return PermanentError(f"Redis {server} refuses our user: {text}")
    if isinstance(error, TimeoutError | errors.TimeoutError):
        return TransientError(f"Redis {server} does not answer in time")
    if isinstance(error, errors.InvalidResponse):
        return PermanentError(f"what answers as Redis {server} does not speak its protocol")
    if isinstance(error, errors.ConnectionError | OSError):
        return TransientError(f"Redis {server} can't be reached: {text or type(error).__name__}")
    return _refused(error, text, server)


def _refused(error: Exception, text: str, server: str) -> TransientError | PermanentError:
    if text.startswith("BUSY"):
        return BusyError(f"Redis {server} is busy: {text}")
    if text.startswith(("MASTERDOWN", "TRYAGAIN", "LOADING")):
        return TransientError(f"Redis {server}: {text}")
    if isinstance(error, errors.OutOfMemoryError) or text.startswith("OOM"):
        return FullError(f"Redis {server} has no memory left")
    if "NOREPLICAS" in text or isinstance(error, errors.ReadOnlyError):
        return PermanentError(f"Redis {server} takes no writes: {text}")
    return PermanentError(f"Redis {server}: {text}")
