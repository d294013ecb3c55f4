"""The protocol of the apps: where it is spoken, how a status is read, what counts as healthy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from actions.app_monitoring import Monitoring, ask
from oncall_agent.contract import (
    ActionContext,
    Check,
    Params,
    PermanentError,
    Secret,
    SecretRef,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.http import HttpAnswer, RefusedError, SafeHttp, host_of
from oncall_agent.contract.secret import resolve
from oncall_agent.models import JsonObject

_PAUSE_SECONDS = 0.1
_OWN_SHARE = 0.6


class AppSettings(BaseModel):
    """The group `backends.app`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    timeout_seconds: float = Field(5.0, gt=0, le=60)
    """For one read; a change may take until the action's deadline."""
    token: SecretRef | None = None
    """Bearer token for every app, by reference."""
    read_retries: int = Field(2, ge=0, le=5)
    """So often a read is repeated when the connection fails, inside the same time; changes are repeated by the runner."""
    monitoring: Monitoring | None = None
    """Asked when an app's domain does not answer; without it such an app is down."""


class AppAddress(BaseModel):
    """`Target.address` of kind `http_app`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    url: str
    """Where `/api/v1/status` is."""
    control_url: str | None = None
    """Where `/deploy`, `/restart` and `/logs` are, if elsewhere: a supervisor outlives the app."""

    @property
    def control(self) -> str:
        """Base URL of the verbs that change the app."""
        return (self.control_url or self.url).rstrip("/")

    @property
    def status(self) -> str:
        """URL of the app's own word on its health."""
        return self.url.rstrip("/") + "/api/v1/status"


class HealthyParams(Params):
    """What counts as healthy after the change."""

    hold_seconds: float = Field(1.0, ge=0, le=600)
    """The app must be healthy for so long without a break."""
    max_error_rate: float = Field(0.05, ge=0, le=1)
    max_memory: float = Field(0.9, gt=0, le=1)
    """Fraction of its limit."""


class AppClient:
    """The app's protocol over the safe client."""

    def __init__(self, settings: JsonObject) -> None:
        self.settings = AppSettings.model_validate(dict(settings))
        self.http = SafeHttp()

    async def read(self, url: str, timeout_seconds: float) -> HttpAnswer:
        """GET it, whatever the status; a connection that fails is tried again while there is time.

        Raises:
            TransientError: as `SafeHttp.send`, of the last try.
        """
        end = time.monotonic() + timeout_seconds
        for number in range(self.settings.read_retries):
            try:
                return await self._send("GET", url, end - time.monotonic())
            except TransientError as error:
                pause = _PAUSE_SECONDS * 2**number
                # Nothing listens there: asking again at once tells nothing new.
                if isinstance(error, RefusedError) or end - time.monotonic() <= pause:
                    raise
                await asyncio.sleep(pause)
        return await self._send("GET", url, max(0.001, end - time.monotonic()))

    def share(self, timeout_seconds: float) -> float:
        """Give the part of the time that the app itself may take, so that monitoring can be asked as well."""
        return timeout_seconds * _OWN_SHARE if self.settings.monitoring else timeout_seconds

    async def seen(self, target: Target, timeout_seconds: float) -> dict[str, float]:
        """Give what monitoring knows, empty when there is none or it does not answer."""
        if self.settings.monitoring is None:
            return {}
        try:
            return await ask(self.http, self.settings.monitoring, target.name, timeout_seconds)
        except TransientError:
            return {}

    async def status(self, target: Target, timeout_seconds: float) -> dict[str, Any]:
        """Give the app's own status; when its domain does not answer, what its supervisor and monitoring say.

        Raises:
            TransientError: nobody answers.
            PermanentError: the app answers something that is no status.
        """
        end = time.monotonic() + timeout_seconds
        try:
            answer = await self.read(address_of(target).status, self.share(timeout_seconds))
        except RefusedError:
            raise
        except TransientError:
            seen = await self.seen(target, end - time.monotonic())
            if not seen or seen["up"] <= 0:
                raise
            deployed = await self.state(target, "/deploy", max(0.05, end - time.monotonic()))
            return as_status(deployed, seen)
        return object_of(answer.check((200,)))

    async def state(self, target: Target, path: str, timeout_seconds: float) -> dict[str, Any]:
        """GET a JSON object from the control side."""
        answer = await self.read(address_of(target).control + path, timeout_seconds)
        return object_of(answer.check((200,)))

    async def change(self, ctx: ActionContext, path: str, body: JsonObject, key: str) -> dict[str, Any]:
        """POST under an idempotency key and give the app's answer."""
        url = address_of(ctx.target).control + path
        headers = {"Idempotency-Key": key}
        return object_of(
            (await self._send("POST", url, ctx.seconds_left, headers=headers, json=dict(body))).check()
        )

    async def _send(self, method: str, url: str, timeout_seconds: float, **more: Any) -> HttpAnswer:
        token = self.settings.token
        hidden = {"Authorization": _bearer(token)} if token else None
        return await self.http.send(
            method,
            url,
            allowed=(host_of(url),),
            timeout_seconds=timeout_seconds,
            secret_headers=hidden,
            **more,
        )


def address_of(target: Target) -> AppAddress:
    """Give the typed address.

    Raises:
        PermanentError: the target has none of this kind.
    """
    try:
        return AppAddress.model_validate(dict(target.address))
    except ValueError as error:
        raise PermanentError(f"target {target.name}: the address must have a url") from error


def judge(
    status: JsonObject, params: HealthyParams, wanted: JsonObject, started_after: float | None
) -> Check:
    """Say whether a status is what the change should have led to."""
    facts = bounded(status)
    if not status:
        return Check(ok=False, reason="the app does not answer")
    for name, value in wanted.items():
        if status.get(name) != value:
            return Check(ok=False, reason=f"{name} is {status.get(name)!r}, not {value!r}", facts=facts)
    if started_after is not None and float(status.get("started_at") or 0.0) < started_after:
        return Check(ok=False, reason="the app was not started anew", facts=facts)
    signals = signals_of(status, 0.0)
    if signals.error_rate is not None and signals.error_rate > params.max_error_rate:
        return Check(ok=False, reason=f"error rate {signals.error_rate:.2f}", facts=facts)
    if signals.memory is not None and signals.memory > params.max_memory:
        return Check(ok=False, reason=f"memory {signals.memory:.2f} of the limit", facts=facts)
    return Check(ok=True, facts=facts)


def as_status(deployed: JsonObject, seen: Mapping[str, float]) -> dict[str, Any]:
    """Give what the supervisor and monitoring know in the form of an app's own status."""
    known = {name: deployed[name] for name in ("version", "replicas", "started_at") if name in deployed}
    memory = {"memory_bytes": seen["memory"], "memory_limit_bytes": 1.0} if "memory" in seen else {}
    rest = {name: value for name, value in seen.items() if name not in ("up", "memory")}
    return {**known, **rest, **memory, "source": "monitoring"}


def signals_of(status: JsonObject, elapsed_seconds: float) -> Signals:
    """Give the signals that a status carries."""
    limit, used = _number(status, "memory_limit_bytes"), _number(status, "memory_bytes")
    lines = _number(status, "error_lines")
    return Signals(
        up=True,
        cpu=_fraction(_number(status, "cpu")),
        memory=_fraction(used / limit if used is not None and limit else None),
        response_seconds=max(elapsed_seconds, _number(status, "response_seconds") or 0.0),
        error_rate=_fraction(_number(status, "error_rate")),
        error_lines=None if lines is None else int(lines),
    )


def _number(status: JsonObject, name: str) -> float | None:
    value = status.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _fraction(value: float | None) -> float | None:
    return None if value is None else min(1.0, max(0.0, value))


def bounded(status: JsonObject) -> dict[str, Any]:
    """Give the first 32 entries with short values: evidence to keep."""
    return {
        str(key)[:64]: value if isinstance(value, int | float) else str(value)[:200]
        for key, value in list(status.items())[:32]
    }


def object_of(answer: HttpAnswer) -> dict[str, Any]:
    """Give the JSON object in an answer.

    Raises:
        PermanentError: it is something else.
    """
    value = answer.json()
    if not isinstance(value, dict):
        raise PermanentError("the app answered something that is no object")
    return value


def _bearer(reference: str) -> Secret:
    return Secret(f"Bearer {resolve(reference).reveal()}")
