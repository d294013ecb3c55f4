"""The way to MongoDB and what speaks its protocol: settings, connections, and what their errors mean.

The only file that imports the client library: without it the mongodb system is off and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pymongo import AsyncMongoClient, ReadPreference, errors

from oncall_agent.contract import PermanentError, SecretRef, Target, TransientError
from oncall_agent.contract.secret import redact, resolve
from oncall_agent.errors import ConfigError
from oncall_agent.models import JsonObject

KIND = "mongodb_deployment"
CLIENT_NAME = "oncall-agent"
_MAX_TEXT = 200
_MAX_CONNECTIONS = 8
_MAX_CLIENTS = 64
_REFUSED = frozenset({11, 13, 18, 33})
_UNKNOWN_COMMAND = 59
# A primary that steps down or a member that shuts down: the next one answers.
_PASSING = frozenset({6, 7, 50, 89, 91, 189, 10107, 11600, 11602, 13435, 13436})


class Deployment(BaseModel):
    """One replica set, one server, or the routers of one sharded cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hosts: tuple[str, ...] = Field(("127.0.0.1:27017",), min_length=1, max_length=50)
    """`host:port` of every member, or of the routers. Only these are ever asked: no others are discovered."""
    username: str = ""
    """Empty connects without a user."""
    password: SecretRef | None = None
    """By reference."""
    auth_source: str = "admin"
    """The database that knows the user."""
    auth_mechanism: Literal["", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"] = ""
    """Empty negotiates; `PLAIN` is for LDAP and needs `tls`."""
    tls: bool = False
    """Speak TLS; the certificate and the host name are checked."""
    ca_file: str = ""
    """Certificate authority for TLS; empty takes the machine's own."""
    databases: tuple[str, ...] = ()
    """Databases that `profiling` and `compact_on_secondary` may be used on."""
    protected: bool = False
    """Nothing is ever changed there."""


class MongoSettings(BaseModel):
    """The group `backends.mongodb`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    deployments: Mapping[str, Deployment] = Field(default_factory=dict)
    """By name; a target's address says `deployment: <name>` and, for one member of it, `member: <host:port>`."""
    timeout_seconds: float = Field(5.0, ge=0.1, le=60)
    """For one command."""


class UnknownCommandError(PermanentError):
    """What answers does not know the command."""


class Place(BaseModel):
    """Which member of which deployment."""

    model_config = ConfigDict(frozen=True)

    name: str
    deployment: Deployment
    host: str


class Mongo:
    """Direct connections to all configured members, opened at the first command and kept."""

    def __init__(self, settings: JsonObject) -> None:
        self.settings = MongoSettings.model_validate(dict(settings))
        self._clients: dict[tuple[str, str], AsyncMongoClient[dict[str, Any]]] = {}
        self._running: set[asyncio.Future[dict[str, Any]]] = set()

    def places_of(self, target: Target) -> tuple[Place, ...]:
        """Give the members that a target's address leads to: one if it names one, else all.

        Raises:
            PermanentError: the address names no configured deployment, or no member of it.
        """
        name, member = target.address.get("deployment"), target.address.get("member")
        if not isinstance(name, str) or name not in self.settings.deployments:
            raise PermanentError(
                f"target {target.name}: the address must name a deployment of backends.mongodb"
            )
        places = self.places(name)
        if member is None:
            return places
        found = tuple(one for one in places if one.host == member)
        if not found:
            raise PermanentError(f"target {target.name}: the member is not among the hosts of {name}")
        return found

    def places(self, name: str) -> tuple[Place, ...]:
        """Give every member of a configured deployment."""
        deployment = self.settings.deployments[name]
        return tuple(Place(name=name, deployment=deployment, host=host) for host in deployment.hosts)

    async def command(
        self,
        place: Place,
        document: Mapping[str, Any],
        *,
        seconds: float,
        database: str = "admin",
        is_long: bool = False,
    ) -> dict[str, Any]:
        """Run one command within the time; `is_long` lets it take all of it.

        Raises:
            TransientError: no answer (in time), or the member is changing its role.
            PermanentError: refused; `UnknownCommandError` when it is not known there.
        """
        limit = max(0.02, seconds if is_long else min(seconds, self.settings.timeout_seconds))
        try:
            call = self.client(place)[database].command(
                dict(document), read_preference=ReadPreference.PRIMARY_PREFERRED
            )
            return await self._within(limit, call)
        except (TimeoutError, errors.PyMongoError, OSError, ConfigError) as error:
            raise named(error, place, next(iter(document))) from error

    async def _within(self, seconds: float, call: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Give its answer, or leave it behind: cancelled while it chooses a server, it may not end at once."""
        running = asyncio.ensure_future(call)
        self._running.add(running)
        running.add_done_callback(self._forget)
        try:
            await asyncio.wait({running}, timeout=seconds)
        finally:
            if not running.done():
                running.cancel()
        if not running.done() or running.cancelled():
            raise TimeoutError
        return running.result()

    def _forget(self, ended: asyncio.Future[dict[str, Any]]) -> None:
        self._running.discard(ended)
        if not ended.cancelled():
            # What is raised by a call that was left behind is nobody's any more.
            ended.exception()

    def client(self, place: Place) -> AsyncMongoClient[dict[str, Any]]:
        """Give the kept connections to a member."""
        key = (place.name, place.host)
        found = self._clients.get(key)
        if found is None:
            if len(self._clients) >= _MAX_CLIENTS:
                raise PermanentError(f"more than {_MAX_CLIENTS} members in use")
            found = self._clients[key] = _opened(place, self.settings.timeout_seconds)
        return found

    async def close(self) -> None:
        """Give the connections back."""
        clients, self._clients = list(self._clients.values()), {}
        for call in list(self._running):
            call.cancel()
        for client in clients:
            await client.close()


def _opened(place: Place, timeout_seconds: float) -> AsyncMongoClient[dict[str, Any]]:
    """Give a client that repeats nothing by itself: a change must not be sent twice."""
    given, options = place.deployment, dict[str, Any]()
    if given.username:
        options |= {"username": given.username, "authSource": given.auth_source}
        options["password"] = resolve(given.password).reveal() if given.password else ""
    if given.auth_mechanism:
        options["authMechanism"] = given.auth_mechanism
    if given.tls:
        options |= {"tls": True, **({"tlsCAFile": given.ca_file} if given.ca_file else {})}
    return AsyncMongoClient(
        [place.host],
        directConnection=True,
        appname=CLIENT_NAME,
        retryReads=False,
        retryWrites=False,
        connectTimeoutMS=int(timeout_seconds * 1000),
        serverSelectionTimeoutMS=int(timeout_seconds * 1000),
        maxPoolSize=_MAX_CONNECTIONS,
        tz_aware=True,
        **options,
    )


def named(error: Exception, place: Place, command: str) -> TransientError | PermanentError:
    """Give the error that says what happens next; credentials and documents are not in it."""
    text, who = redact(str(error)).split(", full error")[0][:_MAX_TEXT], f"MongoDB {place.name}"
    if isinstance(error, ConfigError):
        return PermanentError(text)
    if isinstance(error, errors.ServerSelectionTimeoutError):
        return TransientError(f"{who} can't be reached at {place.host}")
    if isinstance(error, TimeoutError | errors.NetworkTimeout | errors.WaitQueueTimeoutError):
        return TransientError(f"{who} does not answer in time")
    if isinstance(error, errors.OperationFailure):
        return _refused(error.code or 0, text, who, command)
    if isinstance(error, errors.ConnectionFailure | OSError):
        return TransientError(f"{who} can't be reached at {place.host}: {type(error).__name__}")
    return PermanentError(f"{who}: {text or type(error).__name__}")


def _refused(code: int, text: str, who: str, command: str) -> TransientError | PermanentError:
    if code in _REFUSED:
        return PermanentError(f"{who} refuses our user: {text}")
    if code == _UNKNOWN_COMMAND:
        return UnknownCommandError(f"{who} does not know the command {command}")
    if code in _PASSING:
        return TransientError(f"{who}: {text}")
    return PermanentError(f"{who}: {text} (code {code})")
