"""An HTTP client that can't be talked into calling something else: for executors and probers.

Listed hosts only; a name is resolved once and the checked address is the one connected to; no redirects, no
proxies, no cookies; bounded bodies; every call has a deadline; no secret in any message.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from errno import ECONNREFUSED
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from cachetools import TTLCache
from yarl import URL

from oncall_agent.contract.address import is_literal, refusal
from oncall_agent.contract.secret import Secret
from oncall_agent.errors import PermanentError, TransientError

_PIN_SECONDS = 300.0
_HEADERS = {"User-Agent": "oncall-agent", "Accept-Encoding": "identity"}
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_RETRY_AFTER = 3600.0


class SentError(TransientError):
    """The request left, the answer did not come: whether the server acted is unknown."""


class RefusedError(TransientError):
    """The host answers that nothing listens there: whoever should is down, for certain."""


class UnresolvedError(TransientError):
    """The name server does not know the host, or does not answer: nothing is known of the host itself."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a server answered; the body is whole and bounded."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """Give the body as JSON.

        Raises:
            PermanentError: it is none.
        """
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise PermanentError(f"the answer (status {self.status}) is not JSON") from error

    def check(self, expected: Collection[int] = (200, 201, 202, 204)) -> Self:
        """Give itself when the status is expected.

        Raises:
            TransientError: 408, 425, 429 and 5xx, with the server's Retry-After in seconds.
            PermanentError: any other.
        """
        if self.status in expected:
            return self
        if self.status in _TRANSIENT_STATUS:
            raise TransientError(
                f"the server answered {self.status}", retry_after_seconds=self._retry_after()
            )
        raise PermanentError(f"the server answered {self.status}")

    def _retry_after(self) -> float | None:
        text = self.headers.get("Retry-After", "")
        return min(float(text), _MAX_RETRY_AFTER) if text.isdecimal() else None


def host_of(url: str) -> str:
    """Give `host:port` of an absolute http(s) URL, for an allow-list.

    Raises:
        PermanentError: it is no such URL, or carries credentials.
    """
    parsed = _parsed(url)
    return f"{parsed.host}:{parsed.port}"


def redact(text: str, secrets: Iterable[Secret]) -> str:
    """Give the text with every secret replaced by `***`."""
    for secret in secrets:
        text = text.replace(secret.reveal(), "***")
    return text


class SafeHttp:
    """One session with keep-alive; open it with `async with` and share it between attempts.

    Args:
        max_body_bytes: a longer answer is an error, it is never read whole.
        connections: open at once, over all hosts.

    Example:
        answer = await http.send("GET", url, allowed=("127.0.0.1:8080",), timeout_seconds=2.0)
    """

    def __init__(self, *, max_body_bytes: int = 262_144, connections: int = 128) -> None:
        self._max_body_bytes, self._connections = max_body_bytes, connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=self._connections, resolver=_PinnedResolver(), use_dns_cache=False, keepalive_timeout=30.0
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=_HEADERS,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(
        self,
        method: str,
        url: str,
        *,
        allowed: Collection[str],
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
        secret_headers: Mapping[str, Secret] | None = None,
        json: Any = None,
    ) -> HttpAnswer:
        """Give the answer, whatever its status.

        Args:
            method: as in HTTP.
            url: absolute, http or https, without credentials.
            timeout_seconds: for the whole exchange.
            headers: nothing secret.
            json: body; none when None.
            allowed: hosts that may be called, `host` or `host:port`; only from the operator's configuration.
            secret_headers: sent as they are, redacted from every message.

        Raises:
            SentError: no answer in time, or the connection broke after the request had left.
            TransientError: the host can't be reached; nothing was sent.
            PermanentError: the host or its address is not permitted, or the answer is too long.
        """
        target = _parsed(url)
        _check_host(target, allowed)
        hidden = secret_headers or {}
        sent = {**(headers or {}), **{name: value.reveal() for name, value in hidden.items()}}
        body = orjson.dumps(json) if json is not None else None
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            return await self._exchange(method, target, sent, body, timeout_seconds)
        except (TransientError, PermanentError):
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _mapped(error, redact(_place(method, target), hidden.values()), timeout_seconds) from None

    async def _exchange(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None, timeout_seconds: float
    ) -> HttpAnswer:
        if self._session is None:
            raise TransientError("the HTTP client is not open")
        timeout = aiohttp.ClientTimeout(total=max(timeout_seconds, 0.001))
        async with self._session.request(
            method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            return HttpAnswer(response.status, await self._body(response), response.headers)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > self._max_body_bytes:
                raise PermanentError(f"the answer is longer than {self._max_body_bytes} bytes")
            chunks.append(chunk)
        return b"".join(chunks)


class _PinnedResolver(AbstractResolver):
    """Resolves a name, refuses it whole if any of its addresses is refused, and keeps to the answer."""

    def __init__(self) -> None:
        self._system = aiohttp.ThreadedResolver()
        self._pins: TTLCache[tuple[str, int, int], list[ResolveResult]] = TTLCache(256, _PIN_SECONDS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        key = (host, port, int(family))
        pinned: list[ResolveResult] | None = self._pins.get(key)
        if pinned is None:
            pinned = await self._system.resolve(host, port, family)
            for found in pinned:
                _check_address(host, found["host"])
            self._pins[key] = pinned
        return pinned

    async def close(self) -> None:
        await self._system.close()


def _parsed(url: str) -> URL:
    try:
        parsed = URL(url)
    except ValueError:
        raise PermanentError("not a URL") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise PermanentError("not an absolute http or https URL")
    if parsed.user is not None or parsed.password is not None:
        raise PermanentError("a URL may not carry credentials: use a secret header")
    return parsed


def _check_host(url: URL, allowed: Collection[str]) -> None:
    host = url.host or ""
    if host not in allowed and f"{host}:{url.port}" not in allowed:
        raise PermanentError(f"the host {host}:{url.port} is not on the list")
    if is_literal(host):
        _check_address(host, host)


def _check_address(host: str, address: str) -> None:
    reason = refusal(address)
    if reason:
        raise PermanentError(f"the host {host} is {reason}: refused")


def _place(method: str, url: URL) -> str:
    # Without the query: it may carry tokens.
    return f"{method} {url.scheme}://{url.host}:{url.port}{url.path}"


def _mapped(error: Exception, place: str, timeout_seconds: float) -> TransientError | PermanentError:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return UnresolvedError(f"{place}: the host name is not known")
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == ECONNREFUSED:
        return RefusedError(f"{place}: can't connect")
    if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError):
        return TransientError(f"{place}: can't connect")
    if isinstance(error, TimeoutError):
        return SentError(f"{place}: no answer within {timeout_seconds:.1f} s")
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return PermanentError(f"{place}: the request is not valid")
    return SentError(f"{place}: the connection broke ({type(error).__name__})")
