"""`POST /webhooks/{source}`: authenticate, bound, parse, place, store; 202 only once it is on disk.

The hot path of the daemon. Whatever is refused here is refused whole, so that a sender never believes that
half of its alerts were taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

import orjson
from aiohttp import web

from oncall_agent.errors import AuthError, ConfigError, NotFoundError, OncallAgentError
from oncall_agent.models import AcceptedAlert
from oncall_agent.settings.model import Source
from oncall_agent.sources import auth, check, parse
from oncall_agent.web.auth import Asked, Gate
from oncall_agent.web.errors import JSON, BrokenBodyError, BusyError, TooLargeError, code_of, response_of
from oncall_agent.web.parts import Parts
from oncall_agent.web.secrets import SecretCache
from oncall_agent.web.tally import Tally

READ_SECONDS = 10.0
"""For the body to arrive. Then 503 and not 408: senders take 4xx as final, and a slow line is no verdict."""
_ACCEPTED = 202
_CHALLENGES = {"bearer": "Bearer", "basic": 'Basic realm="webhooks", charset="UTF-8"'}
_UNKNOWN = "unknown"
"""Metric label of every source that is not configured: a caller must not choose labels."""


@dataclass(frozen=True, slots=True)
class Door:
    """One configured source."""

    name: str
    settings: Source
    needs_body: bool


class Ingest:
    """Takes webhooks in; one per application."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        for source in parts.settings.sources.values():
            check(source)
        self._parts, self._gate, self.clock = parts, gate, parts.clock
        self._limits = parts.settings.server
        self._secrets = SecretCache(parts.secrets, parts.clock)
        self._tally = Tally(parts.metrics, parts.clock)
        self._doors = {
            name: Door(name, source, auth.needs_body(source.auth))
            for name, source in parts.settings.sources.items()
        }
        self._waiting = 0

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one webhook."""
        name = request.match_info["source"]
        begun = self.clock.monotonic()
        try:
            accepted = await self._take(request, name)
        except OncallAgentError as error:
            return self._refuse(name, error)
        body = self.acknowledge(name, accepted, begun)
        return web.Response(body=body, status=_ACCEPTED, content_type=JSON)

    def admit(self, name: str, asked: Asked, length: int) -> Door:
        """Give the source that a request is for, before its body is read: a stranger costs us no place and no memory.

        Raises:
            OncallAgentError: it is refused.
        """
        door = self._doors.get(name)
        if door is None:
            raise NotFoundError("no source of this name is configured")
        if length > self._limits.max_body_bytes:
            raise TooLargeError(f"the body is larger than {self._limits.max_body_bytes} bytes")
        if not door.needs_body:
            self._authenticate(door, asked, b"")
        if self._waiting >= self._limits.max_waiting_requests:
            raise BusyError("too many requests wait for the disk")
        return door

    def begin(self, door: Door, asked: Asked, body: bytes) -> asyncio.Future[list[AcceptedAlert]]:
        """Store an admitted request; its future is answered when it is on disk.

        Raises:
            OncallAgentError: it is refused.
        """
        accepted = asyncio.ensure_future(self._store(door, asked, body))
        self._waiting += 1
        accepted.add_done_callback(self._leave)
        return accepted

    def acknowledge(self, name: str, accepted: Sequence[AcceptedAlert], begun: float) -> bytes:
        """Count what is on disk and give the body of the answer."""
        self._tally.count(name, accepted, self.clock.monotonic() - begun)
        return orjson.dumps({"accepted": len(accepted), "alerts": accepted})

    def close(self) -> None:
        """Say what is counted and not yet said."""
        self._tally.flush()

    async def _take(self, request: web.Request, name: str) -> list[AcceptedAlert]:
        door = self.admit(name, request, request.content_length or 0)
        self._waiting += 1
        try:
            body = await read_body(request, self._limits.max_body_bytes)
            return await self._store(door, request, body)
        finally:
            self._waiting -= 1

    def _store(self, door: Door, asked: Asked, body: bytes) -> Awaitable[list[AcceptedAlert]]:
        if door.needs_body:
            self._authenticate(door, asked, body)
        now = self.clock.now()
        alerts = parse(door.settings, body, limits=self._limits, now=now, source=door.name)
        if not alerts:
            nothing: asyncio.Future[list[AcceptedAlert]] = asyncio.get_running_loop().create_future()
            nothing.set_result([])
            return nothing
        place, silences = self._parts.placement.place, self._parts.store.control.silences
        return self._parts.store.accept([place(alert, silences, now) for alert in alerts], now)

    def _leave(self, _: object) -> None:
        self._waiting -= 1

    def _authenticate(self, door: Door, asked: Asked, body: bytes) -> None:
        if door.settings.auth.kind == "none":
            # Nobody is asked here, so a foreign page could post through a browser on this machine.
            self._gate.check_origin(asked)
            return
        auth.verify(door.settings.auth, asked.headers, body, self.clock.now(), self._secrets)

    def _refuse(self, name: str, error: OncallAgentError) -> web.Response:
        door = self._doors.get(name)
        code = code_of(error)
        response = response_of(error)
        if isinstance(error, AuthError) and door is not None:
            response.headers["WWW-Authenticate"] = _CHALLENGES.get(door.settings.auth.kind, "Signature")
        reason = (
            error.message
            if not isinstance(error, ConfigError)
            else f"{error.message} ({type(error).__name__})"
        )
        self._tally.refuse(door.name if door else _UNKNOWN, response.status, code, reason)
        return response


INGEST: web.AppKey[Ingest] = web.AppKey("ingest", Ingest)


async def read_body(request: web.Request, most: int) -> bytes:
    """Read a body, bounded in size and time, however it is framed.

    Raises:
        TooLargeError: more than `most` bytes, known from the header or found while reading.
        BrokenBodyError: its framing or compression is broken.
        BusyError: it did not arrive within `READ_SECONDS`.
    """
    if (request.content_length or 0) > most:
        raise TooLargeError(f"the body is larger than {most} bytes")
    try:
        if request.content.is_eof():
            body = await request.read()
        else:
            async with asyncio.timeout(READ_SECONDS):
                body = await request.read()
    except TimeoutError:
        raise BusyError("the body did not arrive in time", code="slow_body") from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLargeError(f"the body is larger than {most} bytes") from None
    except web.RequestPayloadError:
        raise BrokenBodyError("the body's framing or compression is broken", code="malformed_json") from None
    if len(body) > most:
        raise TooLargeError(f"the body is larger than {most} bytes")
    return body
