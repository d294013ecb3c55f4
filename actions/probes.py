"""Probers that need no client library: an HTTP page, Prometheus queries, a TCP port, a filesystem.

The last one is in `actions.filesystem`, beside what it watches over.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlencode

import jmespath
from pydantic import BaseModel, ConfigDict, Field

from actions.http_settings import Expression, UrlTemplate
from oncall_agent.contract import (
    ActionError,
    Clock,
    Params,
    PermanentError,
    Prober,
    Reading,
    Secret,
    SecretRef,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.address import refusal
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.contract.http import HttpAnswer, SafeHttp, UnresolvedError, host_of
from oncall_agent.contract.secret import resolve
from oncall_agent.models import JsonObject

SignalName = Literal["up", "cpu", "memory", "response_seconds", "error_rate", "error_lines"]
_FRACTIONS = ("cpu", "memory", "error_rate")
_MAX_REPLY = 4_096


class ProbeSettings(BaseModel):
    """What the probers read of the groups `backends.http` and `backends.prometheus`."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    url: str | None = None
    """Prometheus: base URL for every target."""
    token: SecretRef | None = None
    """Bearer token, by reference."""


class _OverHttp(Prober):
    """What the two HTTP probers share."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._settings = ProbeSettings.model_validate(dict(settings))
        self._http = SafeHttp()

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def _send(self, method: str, url: str, timeout_seconds: float) -> HttpAnswer:
        token = self._settings.token
        hidden = {"Authorization": Secret(f"Bearer {resolve(token).reveal()}")} if token else None
        return await self._http.send(
            method, url, allowed=(host_of(url),), timeout_seconds=timeout_seconds, secret_headers=hidden
        )


class HttpProbeParams(Params):
    """Which page, and what it must say."""

    url: UrlTemplate = "/"
    """Absolute, or a path on the target's own `url`."""
    method: Literal["GET", "HEAD"] = "GET"
    expect_status: tuple[Annotated[int, Field(ge=100, le=599)], ...] = (200,)
    assertion: Expression | None = None
    """JMESPath over the JSON answer; anything but `true` means down."""
    signals: dict[SignalName, Expression] = Field(default_factory=dict)
    """Signal -> JMESPath that gives its number from the JSON answer."""


class HttpProber(_OverHttp):
    """Up means: the expected status in time, and the assertion holds."""

    kind = "http"
    params = HttpProbeParams

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Read the page once."""
        url = (
            params.url if "://" in params.url else str(target.address.get("url", "")).rstrip("/") + params.url
        )
        began = clock.monotonic()
        try:
            answer = await self._send(params.method, url, timeout_seconds)
        except UnresolvedError:
            raise
        except TransientError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        except PermanentError as error:
            raise TransientError(f"the page can't be asked: {error.message}") from error
        return _judged(answer, params, clock.monotonic() - began)


def _judged(answer: HttpAnswer, params: HttpProbeParams, seconds: float) -> Reading:
    facts = {"status": answer.status, "seconds": round(seconds, 4)}
    if answer.status not in params.expect_status:
        return Reading(Signals(up=False, response_seconds=seconds), {**facts, "reason": "unexpected status"})
    if params.assertion is None and not params.signals:
        return Reading(Signals(up=True, response_seconds=seconds), facts)
    try:
        body = answer.json()
    except ActionError as error:
        return Reading(Signals(up=False, response_seconds=seconds), {**facts, "reason": error.message})
    if params.assertion is not None and _search(params.assertion, body) is not True:
        return Reading(
            Signals(up=False, response_seconds=seconds), {**facts, "reason": "the assertion does not hold"}
        )
    found: dict[str, Any] = {
        str(name): _search(expression, body) for name, expression in params.signals.items()
    }
    return Reading(signals_from({"up": 1.0, "response_seconds": seconds, **found}), facts)


class PrometheusParams(Params):
    """One instant query per signal; several series count as their worst."""

    url: str | None = None
    """The default is `backends.prometheus.url`."""
    queries: dict[SignalName, Annotated[str, Field(min_length=1, max_length=2_000)]] = Field(min_length=1)


class PrometheusProber(_OverHttp):
    """Reads signals by PromQL; no series is no signal, an unreachable Prometheus is blindness."""

    kind = "prometheus"
    params = PrometheusParams

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Ask every query at once."""
        base = params.url or self._settings.url
        if not base:
            raise TransientError("no url of Prometheus is configured")
        asked = [self._value(base, name, query, timeout_seconds) for name, query in params.queries.items()]
        values = dict(zip(params.queries, await asyncio.gather(*asked), strict=True))
        return Reading(
            signals_from(values), {name: value for name, value in values.items() if value is not None}
        )

    async def _value(self, base: str, name: str, query: str, timeout_seconds: float) -> float | None:
        url = f"{base.rstrip('/')}/api/v1/query?{urlencode({'query': query})}"
        try:
            answer = (await self._send("GET", url, timeout_seconds)).check((200,)).json()
            series = answer["data"]["result"]
            found = [float(sample["value"][1]) for sample in series[:1000]]
        except PermanentError as error:
            raise TransientError(f"the query for {name} failed: {error.message}") from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise TransientError(f"the query for {name} gives no vector") from error
        known = [value for value in found if not math.isnan(value)]
        if not known:
            return None
        return min(known) if name == "up" else max(known)


class TcpParams(Params):
    """Which port, what to say, what to hear."""

    host: str | None = None
    """The default is the target's own `host`."""
    port: int | None = Field(None, ge=1, le=65535)
    send: str | None = Field(None, max_length=1_000)
    """Sent as it is; write `PING\\r\\n` in double quotes in YAML."""
    expect: str | None = Field(None, max_length=1_000)
    """The reply must start so; without it, being connected is enough."""


class TcpProber(Prober):
    """Up means: connected in time and, when asked for, the right reply."""

    kind = "tcp"
    params = TcpParams

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Connect once, perhaps say something, and hang up."""
        host, port = params.host or target.address.get("host"), params.port or target.address.get("port")
        if not isinstance(host, str) or not isinstance(port, int):
            raise TransientError(f"target {target.name} has no host and port")
        began = clock.monotonic()
        try:
            async with asyncio.timeout(timeout_seconds):
                address = await _resolved(host, port)
                reply = await _exchange(address, port, params)
        except (OSError, TimeoutError) as error:
            return Reading(Signals(up=False), {"reason": type(error).__name__})
        seconds = clock.monotonic() - began
        is_right = params.expect is None or reply.startswith(params.expect.encode())
        facts = {"reply": reply[:100].decode(errors="replace"), "seconds": round(seconds, 4)}
        return Reading(Signals(up=is_right, response_seconds=seconds), facts)


async def _resolved(host: str, port: int) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
    except OSError as error:
        raise TransientError(f"the host {host} is not known") from error
    for *_, place in found:
        reason = refusal(str(place[0]))
        if reason:
            raise TransientError(f"the host {host} is {reason}: refused")
    return str(found[0][4][0])


async def _exchange(address: str, port: int, params: TcpParams) -> bytes:
    reader, writer = await asyncio.open_connection(address, port, limit=_MAX_REPLY)
    try:
        if params.send is not None:
            writer.write(params.send.encode())
            await writer.drain()
        reply = b""
        while params.expect is not None and len(reply) < len(params.expect.encode()):
            chunk = await reader.read(_MAX_REPLY)
            if not chunk:
                break
            reply += chunk
        return reply
    finally:
        writer.close()


def signals_from(values: JsonObject) -> Signals:
    """Give signals from numbers by name: fractions are kept within 0..1, what is no number is left out."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, bool) and name == "up":
            kept[name] = value
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            kept[name] = _shaped(name, float(value))
    return Signals(**kept)


def _shaped(name: str, value: float) -> float | bool | int:
    if name == "up":
        return value > 0
    if name == "error_lines":
        return max(0, int(value))
    return min(1.0, max(0.0, value)) if name in _FRACTIONS else max(0.0, value)


def _search(expression: str, body: Any) -> Any:
    try:
        return jmespath.search(expression, body)
    except jmespath.exceptions.JMESPathError:
        return None
