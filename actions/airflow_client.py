"""The way to Airflow's REST API: sign-in, which of its two APIs is spoken, and what its errors mean.

Airflow 3 is asked over `/api/v2` with a token, Airflow 2 over `/api/v1` with a password in every request.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlencode

from cachetools import TTLCache

from actions.airflow_settings import AirflowSettings
from oncall_agent.contract import PermanentError, Secret, TransientError
from oncall_agent.contract.http import HttpAnswer, SafeHttp, host_of
from oncall_agent.contract.secret import remember, resolve
from oncall_agent.errors import ConfigError
from oncall_agent.models import JsonObject

Query = Mapping[str, str | int | list[str]]
_MAX_BODY_BYTES = 4_194_304
_MAX_TEXT = 200
_KNOWN_SECONDS = 300.0
_UNAUTHENTICATED, _FORBIDDEN, _SERVER_ERROR = 401, 403, 500
_LEAST_V1_MINOR = 5


class MissingError(PermanentError):
    """Airflow knows no such DAG, run, task or pool."""


class ForbiddenError(PermanentError):
    """The role of our user does not permit it."""


class InvalidError(PermanentError):
    """The request does not fit: Airflow looked at it and refused."""


class TakenError(PermanentError):
    """It conflicts with what is there already."""


_KINDS: dict[int, type[PermanentError]] = {
    400: InvalidError,
    404: MissingError,
    409: TakenError,
    422: InvalidError,
}


class Timed(Protocol):
    """What is left of a deadline: the context of an attempt, of an inspection or of a probe."""

    @property
    def seconds_left(self) -> float:
        """Time until the deadline."""
        ...


@dataclass(frozen=True, slots=True)
class Within:
    """A deadline of its own, for a probe."""

    seconds_left: float


@dataclass(frozen=True, slots=True)
class Server:
    """Which Airflow answers: its version and the API that it is asked over."""

    version: str
    is_v1: bool

    @property
    def base(self) -> str:
        """Path of the API."""
        return "/api/v1" if self.is_v1 else "/api/v2"

    @property
    def unsupported(self) -> str:
        """Why this version is not supported; empty when it is."""
        major, minor = _numbers(self.version)
        if major == 2 and minor < _LEAST_V1_MINOR:  # noqa: PLR2004 - the version's own number
            return "Airflow before 2.5 keeps no notes on runs"
        return "" if major in (2, 3) else "only Airflow 2.5 and later and Airflow 3 are known"


class AirflowClient:
    """One session; open it with `async with` and share it between attempts."""

    def __init__(self, settings: JsonObject) -> None:
        self.settings = AirflowSettings.model_validate(dict(settings))
        self._http = SafeHttp(max_body_bytes=_MAX_BODY_BYTES, connections=16)
        self._servers: TTLCache[str, Server] = TTLCache(1, _KNOWN_SECONDS)
        self._token: Secret | None = None
        self._signing_in = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def server(self, timed: Timed) -> Server:
        """Give which Airflow answers; asked anew every few minutes, since it may have been upgraded.

        Raises:
            PermanentError: what answers is no Airflow that is supported.
        """
        found = await self.any_server(timed)
        if found.unsupported:
            raise PermanentError(f"Airflow {found.version} is not supported: {found.unsupported}")
        return found

    async def any_server(self, timed: Timed) -> Server:
        """Give which Airflow answers, supported or not."""
        known: Server | None = self._servers.get("")
        if known is None:
            known = self._servers[""] = await self._detected(timed)
        return known

    async def call(
        self, timed: Timed, method: str, path: str, *, query: Query | None = None, body: Any = None
    ) -> dict[str, Any]:
        """Give the JSON object that a path of the API answers with.

        Raises:
            TransientError: no answer, or the server fails itself.
            PermanentError: it refuses; `MissingError`, `ForbiddenError` and `TakenError` say how.
        """
        server = await self.server(timed)
        full = f"{server.base}{path}{f'?{urlencode(query, doseq=True)}' if query else ''}"
        answer = await self._signed(timed, server, method, full, body)
        return _object(_checked(answer, self.settings.username))

    async def open(self, timed: Timed, path: str) -> HttpAnswer:
        """GET what needs no sign-in, whatever the status."""
        return await self._send(timed, "GET", path, None, None)

    async def _detected(self, timed: Timed) -> Server:
        for path, is_v1 in (("/api/v2/version", False), ("/api/v1/version", True)):
            answer = await self.open(timed, path)
            if answer.status >= _SERVER_ERROR:
                answer.check((200,))
            if is_v1 and answer.status in (_UNAUTHENTICATED, _FORBIDDEN):
                answer = await self._send(timed, "GET", path, None, self._basic())
            version = _version(answer)
            if version:
                return Server(version, is_v1)
        raise PermanentError("what answers is no Airflow: it tells no version")

    async def _signed(self, timed: Timed, server: Server, method: str, path: str, body: Any) -> HttpAnswer:
        if self.settings.token is not None:
            fixed = Secret(f"Bearer {_secret(self.settings.token).reveal()}")
            return await self._send(timed, method, path, body, fixed)
        if server.is_v1:
            return await self._send(timed, method, path, body, self._basic())
        used = await self._bearer(timed, None)
        answer = await self._send(timed, method, path, body, used)
        if _token_is_refused(answer):
            answer = await self._send(timed, method, path, body, await self._bearer(timed, used))
        return answer

    async def _bearer(self, timed: Timed, refused: Secret | None) -> Secret:
        """Give the token, signing in when there is none or this one was refused: one of many waits does it."""
        try:
            async with asyncio.timeout(max(timed.seconds_left, 0.001)), self._signing_in:
                if self._token is None or (refused is not None and self._token.reveal() == refused.reveal()):
                    self._token = None
                    self._token = await self._sign_in(timed)
                return self._token
        except TimeoutError:
            raise TransientError("Airflow: no token in time") from None

    async def _sign_in(self, timed: Timed) -> Secret:
        body = {"username": self.settings.username, "password": self._password().reveal()}
        answer = await self._send(timed, "POST", "/auth/token", body, None)
        if answer.status in (_UNAUTHENTICATED, _FORBIDDEN):
            raise PermanentError(f"Airflow refuses the password of {self.settings.username}")
        token = _object(answer.check((200, 201))).get("access_token")
        if not isinstance(token, str) or not token:
            raise PermanentError("Airflow gives no token")
        remember(Secret(token))
        return Secret(f"Bearer {token}")

    def _basic(self) -> Secret:
        pair = f"{self.settings.username}:{self._password().reveal()}"
        return remember(Secret(f"Basic {b64encode(pair.encode()).decode()}"))

    def _password(self) -> Secret:
        if self.settings.password is None:
            raise PermanentError("backends.airflow has neither a password nor a token")
        return _secret(self.settings.password)

    async def _send(
        self, timed: Timed, method: str, path: str, body: Any, authorization: Secret | None
    ) -> HttpAnswer:
        url = f"{self.settings.url}{path}"
        return await self._http.send(
            method,
            url,
            allowed=(host_of(url),),
            timeout_seconds=min(self.settings.timeout_seconds, timed.seconds_left),
            headers={"Accept": "application/json"},
            secret_headers={"Authorization": authorization} if authorization else None,
            json=body,
        )


def _secret(reference: str) -> Secret:
    try:
        return resolve(reference)
    except ConfigError as error:
        raise PermanentError(error.message) from error


def _numbers(version: str) -> tuple[int, int]:
    parts = [int(part) if part.isdecimal() else 0 for part in version.split(".")[:2]]
    return (parts[0], parts[1]) if len(parts) > 1 else (0, 0)


def _version(answer: HttpAnswer) -> str:
    if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
        return ""
    try:
        found = answer.json()
    except PermanentError:
        return ""
    version = found.get("version") if isinstance(found, dict) else None
    return version if isinstance(version, str) and _numbers(version) != (0, 0) else ""


def _token_is_refused(answer: HttpAnswer) -> bool:
    # Airflow 3 answers 403 to a token that it does not know or that has expired, and says so; 401 to none.
    if answer.status == _UNAUTHENTICATED:
        return True
    return answer.status == _FORBIDDEN and b"token" in answer.body[:1_000].lower()


def _checked(answer: HttpAnswer, username: str) -> HttpAnswer:
    if answer.status == _UNAUTHENTICATED or (answer.status == _FORBIDDEN and _token_is_refused(answer)):
        raise PermanentError(f"Airflow refuses the credentials of {username}")
    if answer.status == _FORBIDDEN:
        raise ForbiddenError(f"Airflow forbids it: the role of {username} is too small")
    if answer.status in _KINDS:
        raise _KINDS[answer.status](f"Airflow: {_said(answer)}")
    try:
        return answer.check((200, 201, 204))
    except TransientError as error:
        raise TransientError(
            f"Airflow: {error.message}", retry_after_seconds=error.retry_after_seconds
        ) from None
    except PermanentError as error:
        raise PermanentError(f"Airflow: {error.message}: {_said(answer)}") from None


def _said(answer: HttpAnswer) -> str:
    try:
        found = answer.json()
    except PermanentError:
        return f"status {answer.status}"
    said = (found.get("detail") or found.get("title")) if isinstance(found, dict) else None
    return str(said or f"status {answer.status}")[:_MAX_TEXT]


def _object(answer: HttpAnswer) -> dict[str, Any]:
    if not answer.body:
        return {}
    found = answer.json()
    if not isinstance(found, dict):
        raise PermanentError("Airflow answered something that is no object")
    return found
