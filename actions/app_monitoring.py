"""What monitoring knows of an app whose domain does not answer: one instant query of Prometheus per signal."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, field_validator

from oncall_agent.contract import ActionError, Secret, SecretRef, Signals, TransientError
from oncall_agent.contract.http import SafeHttp, host_of
from oncall_agent.contract.secret import resolve

SignalName = Literal["up", "cpu", "memory", "response_seconds", "error_rate", "error_lines"]
_PLACEHOLDER = "$target"
_MAX_SERIES = 1_000


class Monitoring(BaseModel):
    """Where to ask when an app does not answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    url: str = Field(max_length=2_000)
    """Base URL of Prometheus, or of what answers `/api/v1/query` like it."""
    token: SecretRef | None = None
    """Bearer token, by reference."""
    queries: dict[SignalName, Annotated[str, Field(min_length=1, max_length=2_000)]]
    """PromQL for each signal; `$target` stands for the target's name. `up` must be among them."""
    timeout_seconds: float = Field(2.0, gt=0, le=60)
    """For all queries together."""

    @field_validator("queries")
    @classmethod
    def _knows_up(cls, queries: dict[SignalName, str]) -> dict[SignalName, str]:
        if "up" not in queries:
            raise ValueError("a query for up is needed: without it nothing follows from the others")
        return queries


async def ask(http: SafeHttp, monitoring: Monitoring, name: str, seconds: float) -> dict[str, float]:
    """Give signal -> value, without signals that have no series; empty when `up` is not known.

    Raises:
        TransientError: monitoring does not answer, or not as expected.
    """
    limit = max(0.05, min(seconds, monitoring.timeout_seconds))
    asked = [_value(http, monitoring, query, name, limit) for query in monitoring.queries.values()]
    values = dict(zip(monitoring.queries, await asyncio.gather(*asked), strict=True))
    worst = {signal: _worst(signal, found) for signal, found in values.items()}
    known = {str(signal): value for signal, value in worst.items() if value is not None}
    return known if "up" in known else {}


def signals_seen(seen: Mapping[str, float]) -> Signals:
    """Give the signals; fractions are kept within 0..1."""
    lines = seen.get("error_lines")
    return Signals(
        up=seen["up"] > 0,
        cpu=_fraction(seen.get("cpu")),
        memory=_fraction(seen.get("memory")),
        response_seconds=seen.get("response_seconds"),
        error_rate=_fraction(seen.get("error_rate")),
        error_lines=None if lines is None else max(0, int(lines)),
    )


async def _value(
    http: SafeHttp, monitoring: Monitoring, query: str, name: str, seconds: float
) -> list[float]:
    text = query.replace(_PLACEHOLDER, _escaped(name))
    url = f"{monitoring.url.rstrip('/')}/api/v1/query?{urlencode({'query': text})}"
    token = monitoring.token
    hidden = {"Authorization": Secret(f"Bearer {resolve(token).reveal()}")} if token else None
    try:
        answer = await http.send(
            "GET", url, allowed=(host_of(url),), timeout_seconds=seconds, secret_headers=hidden
        )
        return _series(answer.check((200,)).json())
    except ActionError as error:
        raise TransientError(f"monitoring: {error.message}") from error


def _series(answer: Any) -> list[float]:
    try:
        found = [float(one["value"][1]) for one in answer["data"]["result"][:_MAX_SERIES]]
    except (KeyError, TypeError, ValueError, IndexError):
        raise TransientError("the query gives no vector") from None
    return [value for value in found if math.isfinite(value)]


def _worst(signal: str, found: list[float]) -> float | None:
    if not found:
        return None
    return min(found) if signal == "up" else max(found)


def _escaped(name: str) -> str:
    """Give a name as it stands inside a string of PromQL."""
    return name.replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")


def _fraction(value: float | None) -> float | None:
    return None if value is None else min(1.0, max(0.0, value))
