"""Who is calling: bearer tokens for programs, signed session cookies for browsers, nobody on loopback.

Without configured tokens the server listens on loopback only and everybody there is `local`. A browser on
that machine could still be led to it by a foreign page, so the Host header must name loopback (against DNS
rebinding) and a foreign Origin is refused. Unsafe requests that are carried by a cookie need a CSRF token.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlsplit

from aiohttp import web

from oncall_agent.contract.clock import Clock
from oncall_agent.contract.secret import Secret
from oncall_agent.errors import AuthError
from oncall_agent.settings.model import ServerSettings
from oncall_agent.web.secrets import SecretCache
from oncall_agent.web.sessions import Session, Sessions

Role = Literal["viewer", "operator", "admin"]
RANK = {"viewer": 0, "operator": 1, "admin": 2}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SESSION_COOKIE = "oncall_session"
SESSION_SECONDS = 12 * 3600.0
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling.

    Attributes:
        name: recorded behind a vote, a pause, a silence.
        authenticated: False for `local`: two of those can't be told apart, so they can't be two people.
    """

    name: str
    role: Role
    authenticated: bool

    def may(self, role: Role) -> bool:
        """Whether this caller has at least that role."""
        return RANK[self.role] >= RANK[role]


LOCAL = Identity("local", "admin", authenticated=False)


class Asked(Protocol):
    """What of a request says where it comes from; headers are found in any case."""

    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102


class Gate:
    """Decides who a request comes from; one per application."""

    def __init__(self, server: ServerSettings, secrets: Callable[[str], Secret], clock: Clock) -> None:
        self._tokens = server.tokens
        self._secrets = SecretCache(secrets, clock)
        self._hosts = frozenset({"localhost", server.host.lower()})
        self.sessions = Sessions(clock)

    @property
    def is_open(self) -> bool:
        """Whether there are no tokens, so that everybody on this machine is `local`."""
        return not self._tokens

    def check_origin(self, request: Asked) -> None:
        """Refuse what a foreign page makes a browser send.

        Raises:
            AuthError: 403 `foreign_host` or `foreign_origin`.
        """
        if self.is_open and not self._is_local(request.host):
            raise AuthError("the Host header must name loopback", status=403, code="foreign_host")
        origin = request.headers.get("Origin")
        if origin is None or request.method in SAFE_METHODS:
            return
        if origin == "null" or urlsplit(origin).netloc.lower() != request.host.lower():
            raise AuthError("requests from other origins are refused", status=403, code="foreign_origin")

    def identify(self, request: web.Request) -> Identity:
        """Give the caller's identity; `AuthError` 401 when there is none."""
        if self.is_open:
            return LOCAL
        header = request.headers.get("Authorization")
        if header is not None:
            return self._by_header(header)
        session = self._session(request)
        if session is None:
            raise AuthError("a bearer token is needed", code="unauthenticated")
        return self._named(session.name)

    def by_token(self, presented: str) -> Identity:
        """Give the identity behind a token; every token is compared, each in constant time."""
        found: Identity | None = None
        given = presented.encode("utf-8", "surrogateescape")
        for token in self._tokens:
            if hmac.compare_digest(given, self._secrets(token.secret).reveal().encode()):
                found = Identity(token.name, token.role, authenticated=True)
        if found is None:
            raise AuthError("the token is not known", code="bad_credentials")
        return found

    def issue(self, identity: Identity) -> str:
        """Give the value of a new session cookie; dies with the token that it was made from."""
        key = self._key(identity.name)
        if key is None:
            raise AuthError("only the holder of a token has a session", status=403, code="forbidden")
        return self.sessions.issue(identity.name, key, SESSION_SECONDS)

    def csrf_token(self, request: web.Request) -> str:
        """Give the token that this browser's forms must carry."""
        cookie = request.cookies.get(SESSION_COOKIE)
        session = self._session(request)
        key = self._key(session.name) if session else None
        if cookie is None or key is None:
            return self.sessions.anonymous_csrf()
        return self.sessions.csrf(cookie, key)

    def check_csrf(self, request: web.Request, presented: str | None) -> None:
        """Raise `AuthError` 403 `csrf` unless the token is this browser's."""
        expected = self.csrf_token(request)
        given = (presented or "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, expected.encode()):
            raise AuthError("the form is out of date: load the page again", status=403, code="csrf")

    def _by_header(self, header: str) -> Identity:
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() != "bearer":
            raise AuthError("only bearer tokens are understood", code="unauthenticated")
        return self.by_token(credentials.strip())

    def _session(self, request: web.Request) -> Session | None:
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie is None or self.is_open:
            return None
        return self.sessions.read(cookie, self._key)

    def _key(self, name: str) -> bytes | None:
        for token in self._tokens:
            if token.name == name:
                return self._secrets(token.secret).reveal().encode()
        return None

    def _named(self, name: str) -> Identity:
        token = next(token for token in self._tokens if token.name == name)
        return Identity(token.name, token.role, authenticated=True)

    def _is_local(self, host: str) -> bool:
        name = (
            host.lower().rpartition("]")[0].lstrip("[")
            if host.startswith("[")
            else host.lower().partition(":")[0]
        )
        if name in self._hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


GATE: web.AppKey[Gate] = web.AppKey("gate", Gate)


def identity(request: web.Request) -> Identity:
    """Give who is calling.

    Raises:
        AuthError: 401 when tokens are configured and the request carries neither a known one nor a session.
    """
    return request.app[GATE].identify(request)


def require(request: web.Request, role: Role) -> Identity:
    """Give who is calling if they have that role.

    Raises:
        AuthError: 401 unknown, 403 `forbidden` with too small a role, 403 `csrf` for an unsafe request that is
            carried by a cookie alone and has no `X-CSRF-Token`. Form posts use `require_form`.
    """
    caller = _with_role(request, role)
    if request.method not in SAFE_METHODS and _by_cookie(request):
        request.app[GATE].check_csrf(request, request.headers.get(CSRF_HEADER))
    return caller


async def require_form(request: web.Request, role: Role) -> Identity:
    """Give who posted a form, after the check of its `csrf_token` field (or `X-CSRF-Token` header)."""
    caller = _with_role(request, role)
    presented = request.headers.get(CSRF_HEADER)
    if presented is None:
        field = (await request.post()).get(CSRF_FIELD)
        presented = field if isinstance(field, str) else None
    request.app[GATE].check_csrf(request, presented)
    return caller


def csrf_token(request: web.Request) -> str:
    """Give the text for the hidden field `csrf_token` of every form (or the `X-CSRF-Token` header of htmx)."""
    return request.app[GATE].csrf_token(request)


def _with_role(request: web.Request, role: Role) -> Identity:
    caller = identity(request)
    if not caller.may(role):
        raise AuthError(f"this needs the role {role}", status=403, code="forbidden")
    return caller


def _by_cookie(request: web.Request) -> bool:
    return "Authorization" not in request.headers and SESSION_COOKIE in request.cookies
