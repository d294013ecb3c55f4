"""The Docker engine behind every docker action: its settings, its client, and what a container's state means.

The only file that imports the client library: without it the docker system is off and nothing else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeVar

import docker
import docker.errors
import requests.exceptions
from pydantic import Field

from actions.docker_settings import DockerSettings
from actions.docker_time import seconds_of
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    Check,
    Executor,
    Params,
    PermanentError,
    Target,
    TransientError,
    held,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject

T = TypeVar("T")
Api = Any
KIND = "docker_container"
_MAX_LOG_BYTES = 8_192
_MAX_TEXT = 300
_SERVER_ERROR = 500


class MissingError(PermanentError):
    """The engine knows no such container or image."""


class Engine:
    """The client, opened at the first call and shared by the threads of the pool."""

    def __init__(self, settings: JsonObject) -> None:
        self.settings = DockerSettings.model_validate(dict(settings))
        self._lock = threading.Lock()
        self._api: Api = None

    async def ask(self, run_blocking: RunBlocking, seconds: float, question: Callable[[Api], T]) -> T:
        """Run one function of the client in the thread pool.

        Raises:
            TransientError: the engine does not answer (in time), or fails itself.
            PermanentError: it refuses; `MissingError` when it knows no such thing.
        """
        try:
            async with asyncio.timeout(max(seconds, 0.05)):
                return await run_blocking(self._do, question)
        except TimeoutError:
            raise TransientError("the Docker engine does not answer in time") from None

    def close(self) -> None:
        """Give the connections back."""
        with self._lock:
            api, self._api = self._api, None
        if api is not None:
            api.close()

    def _do(self, question: Callable[[Api], T]) -> T:
        try:
            return question(self._client())
        except docker.errors.NotFound as error:
            raise MissingError(_text(error)) from error
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            raise _named(error) from error

    def _client(self) -> Api:
        with self._lock:
            if self._api is None:
                self._api = docker.APIClient(
                    base_url=self.settings.host, version="auto", timeout=int(self.settings.timeout_seconds)
                )
            return self._api


@dataclass(frozen=True, slots=True)
class State:
    """What the engine says of a container, as far as it tells sick from well."""

    id: str
    status: str
    health: str | None
    oom_killed: bool
    exit_code: int
    restart_count: int
    started_at: str

    def as_facts(self) -> dict[str, Any]:
        """Give it as JSON-safe evidence."""
        return {**asdict(self), "id": self.id[:12]}


def state_of(inspected: JsonObject) -> State:
    """Give the state from the engine's answer to inspect."""
    state = inspected["State"]
    return State(
        id=inspected["Id"],
        status=str(state.get("Status", "")),
        health=(state.get("Health") or {}).get("Status"),
        oom_killed=bool(state.get("OOMKilled")),
        exit_code=int(state.get("ExitCode") or 0),
        restart_count=int(inspected.get("RestartCount") or 0),
        started_at=str(state.get("StartedAt", "")),
    )


def judge(state: State, *, started_before: str | None = None, restarts_before: int | None = None) -> Check:
    """Say whether a container is well.

    Args:
        state: as the engine says now.
        started_before: it must have been started anew since then; the engine's own clock on both sides.
        restarts_before: the engine must not have had to restart it since then.
    """
    reason = _complaint(state, started_before, restarts_before)
    return Check(ok=not reason, reason=reason, facts=state.as_facts())


def _complaint(state: State, started_before: str | None, restarts_before: int | None) -> str:
    if state.status != "running":
        return f"the container is {state.status} (exit code {state.exit_code})"
    if state.oom_killed:
        return "the container ran out of memory"
    if state.health not in (None, "none", "healthy"):
        return f"its health check says {state.health}"
    if started_before is not None and state.started_at == started_before:
        return "the container was not started anew"
    if restarts_before is not None and state.restart_count > restarts_before:
        return "the container keeps crashing"
    return ""


def objection(inspected: JsonObject, settings: DockerSettings) -> str:
    """Give the reason why a container may not be touched at all, or an empty text."""
    labels = inspected["Config"].get("Labels") or {}
    if str(labels.get(settings.protected_label, "")).lower() == "true":
        return "the container is protected by its label"
    if "com.docker.swarm.task.id" in labels:
        return "the container belongs to a swarm service"
    if inspected["State"].get("Status") in ("removing", "dead"):
        return f"the container is {inspected['State']['Status']}"
    return ""


def container_of(target: Target) -> str:
    """Give the container's name from the target's address."""
    name = target.address.get("container")
    if not isinstance(name, str) or not name:
        raise PermanentError(f"target {target.name}: the address must have a container")
    return name


class SettledParams(Params):
    """How long a container without a health check must run before it counts as well."""

    stable_seconds: float = Field(30.0, ge=0, le=600)


class DockerExecutor(Executor):
    """What the docker actions share: the engine, inspect, diagnostics, and waiting until well."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.engine = Engine(settings)

    async def __aexit__(self, *_: object) -> None:
        self.engine.close()

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the engine answers."""
        try:
            version = await self.ask(ctx, lambda api: api.version())
        except (TransientError, PermanentError) as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True, reason=f"Docker {version.get('Version')}")

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect state, processes and the last lines of the log."""
        name = container_of(ctx.target)
        try:
            return await self.ask(ctx, lambda api: _evidence(api, name))
        except (TransientError, PermanentError) as error:
            return {"reason": error.message}

    async def ask(self, ctx: ActionContext, question: Callable[[Api], T]) -> T:
        """Ask the engine inside the attempt's deadline."""
        return await self.engine.ask(ctx.run_blocking, ctx.seconds_left, question)

    async def inspect(self, ctx: ActionContext) -> dict[str, Any]:
        """Give the engine's whole answer for the target's container."""
        name, now = container_of(ctx.target), ctx.clock.now()
        return await self.ask(ctx, lambda api: inspect(api, name, now))

    async def inspect_or_objection(self, ctx: ActionContext) -> tuple[dict[str, Any], str]:
        """Give the container and why it may not be touched: absent, protected, somebody else's."""
        try:
            inspected = await self.inspect(ctx)
        except MissingError:
            return {}, f"there is no container {container_of(ctx.target)}"
        return inspected, objection(inspected, self.engine.settings)

    async def until_well(self, ctx: ActionContext, judged: Callable[[dict[str, Any]], Check]) -> Check:
        """Poll until the container was well for a while: its health check's word, or a quiet run without one."""

        async def sample() -> Check:
            try:
                inspected = await self.inspect(ctx)
            except (TransientError, PermanentError) as error:
                return Check(ok=False, reason=error.message)
            return judged(inspected)

        has_check = state_of(await self.inspect(ctx)).health not in (None, "none")
        hold_seconds = 0.0 if has_check else ctx.params.stable_seconds
        return await held(ctx, sample, hold_seconds=hold_seconds, within_seconds=ctx.seconds_left)


def inspect(api: Api, name: str, now: float) -> dict[str, Any]:
    """Give all that the engine knows of a container, with a memory flag that speaks of its present run.

    Engines before 23 keep `OOMKilled` from the former run until the next exit.
    """
    found: dict[str, Any] = api.inspect_container(name)
    state = found["State"]
    if state.get("OOMKilled") and state.get("Status") == "running":
        state["OOMKilled"] = any(past(api, name, "oom", seconds_of(state.get("StartedAt", "")), now))
    return found


def past(api: Api, name: str, kind: str, since: float, now: float) -> Iterator[float]:
    """Give when something happened to a container, as far as the engine remembers (256 of everything)."""
    events = api.events(
        since=f"{since:.6f}",
        until=f"{now:.6f}",
        filters={"type": "container", "container": name, "event": kind},
        decode=True,
    )
    return (float(event.get("timeNano", 0)) / 1e9 for event in islice(events, 1_000))


def _evidence(api: Api, name: str) -> dict[str, Any]:
    state = state_of(api.inspect_container(name))
    found: dict[str, Any] = {"state": state.as_facts()}
    log = api.logs(name, stdout=True, stderr=True, tail=50)
    found["log"] = log[-_MAX_LOG_BYTES:].decode(errors="replace")
    if state.status == "running":
        processes = api.top(name).get("Processes") or []
        found["processes"] = [" ".join(line)[:_MAX_TEXT] for line in processes[:20]]
    return found


def _named(error: Exception) -> ActionError:
    # Opening the client asks for the version, and wraps the engine's answer.
    answer = error if isinstance(error, docker.errors.APIError) else error.__cause__
    if not isinstance(answer, docker.errors.APIError):
        return TransientError(f"the Docker engine can't be reached ({type(error).__name__})")
    kind = TransientError if (answer.status_code or 0) >= _SERVER_ERROR else PermanentError
    return kind(_text(answer))


def _text(error: docker.errors.APIError) -> str:
    return f"Docker: {str(error.explanation or error)[:_MAX_TEXT]}"
