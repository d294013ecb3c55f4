"""The swarm behind every swarm action: its settings, its manager, and waiting until a service is well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from actions.docker_engine import Api, Engine, MissingError
from actions.swarm_state import Node, Service, Task, node_of, quorum_complaint, service_of, task_of
from oncall_agent.contract import (
    ActionContext,
    Check,
    Executor,
    Params,
    PermanentError,
    TransientError,
    held,
)
from oncall_agent.models import JsonObject

T = TypeVar("T")
SERVICE, NODE = "swarm_service", "swarm_node"
_MAX_TASKS = 20
_MAX_LOG_BYTES = 8_192
_LOG_SECONDS = 3.0


class SwarmSettings(BaseModel):
    """The group `backends.swarm`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "unix:///var/run/docker.sock"
    """URL of the engine of a manager."""
    timeout_seconds: float = Field(10.0, ge=1, le=300)
    """For one call."""
    protected_label: str = "oncall-agent.protected"
    """A service or node that carries it with the value `true` is never touched."""
    max_replicas: int = Field(50, ge=1, le=10_000)
    """No service is scaled beyond this."""
    max_memory_bytes: int = Field(8_589_934_592, ge=4_194_304)
    """No limit is raised beyond this."""
    memory_reserve: float = Field(0.1, ge=0, lt=1)
    """Fraction of a node's memory that the limits of its tasks must leave free."""
    allow_registry: bool = True
    """A new image's digest may be looked up in its registry; else it must be on the manager already."""
    change_window_seconds: float = Field(7_200.0, ge=60, le=604_800)
    """Only a service that was changed this recently is rolled back."""
    dead_after_seconds: float = Field(900.0, ge=0, le=604_800)
    """Only a node that has been down for so long is removed."""


class StableParams(Params):
    """How long it must stay well."""

    stable_seconds: float = Field(10.0, ge=0, le=600)
    """How long everything must stay as it should be before it counts as healed."""


class SwarmExecutor(Executor):
    """What the swarm actions share."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.limits = SwarmSettings.model_validate(dict(settings))
        self.engine = engine_for(self.limits)

    async def __aexit__(self, *_: object) -> None:
        self.engine.close()

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether a manager of a swarm answers."""
        try:
            info = await self.ask(ctx, lambda api: api.info())
        except (TransientError, PermanentError) as error:
            return Check(ok=False, reason=error.message)
        if not (info.get("Swarm") or {}).get("ControlAvailable"):
            return Check(ok=False, reason="the engine is no manager of a swarm")
        return Check(ok=True, reason=f"Docker {info.get('ServerVersion')}, manager of a swarm")

    async def ask(self, ctx: ActionContext, question: Callable[[Api], T]) -> T:
        """Ask the manager inside the attempt's deadline."""
        return await self.engine.ask(ctx.run_blocking, ctx.seconds_left, question)

    async def nodes(self, ctx: ActionContext) -> list[Node]:
        """Give every node."""
        return [node_of(found) for found in await self.ask(ctx, lambda api: api.nodes())]

    async def tasks(self, ctx: ActionContext) -> list[Task]:
        """Give every task that ought to run, of all services."""
        filters = {"desired-state": "running"}
        return [task_of(found) for found in await self.ask(ctx, lambda api: api.tasks(filters=filters))]

    async def services(self, ctx: ActionContext) -> list[Service]:
        """Give every service."""
        return [service_of(found) for found in await self.ask(ctx, lambda api: api.services())]


class ServiceExecutor(SwarmExecutor):
    """What the actions on one service share."""

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the service's state, its last tasks with their errors, and the last lines of its log."""
        name = name_of(ctx)
        try:
            found = await self.ask(ctx, lambda api: _evidence(api, name))
        except (TransientError, PermanentError) as error:
            return {"reason": error.message}
        seconds = min(_LOG_SECONDS, ctx.seconds_left)
        try:
            found["log"] = await self.engine.ask(ctx.run_blocking, seconds, lambda api: _log(api, name))
        except (TransientError, PermanentError) as error:
            found["log"] = f"not collected: {error.message}"
        return found

    async def service(self, ctx: ActionContext) -> Service:
        """Give the target's service."""
        name = name_of(ctx)
        return service_of(await self.ask(ctx, lambda api: api.inspect_service(name)))

    async def service_tasks(self, ctx: ActionContext, service: Service) -> list[Task]:
        """Give the tasks of a service that ought to run."""
        filters = {"service": service.id, "desired-state": "running"}
        return [task_of(found) for found in await self.ask(ctx, lambda api: api.tasks(filters=filters))]

    async def service_or_objection(self, ctx: ActionContext) -> tuple[Service | None, str]:
        """Give the service and why it may not be touched: absent, protected, no quorum."""
        try:
            service = await self.service(ctx)
        except MissingError:
            return None, f"there is no service {name_of(ctx)}"
        if service.labels.get(self.limits.protected_label, "").lower() == "true":
            return service, "the service is protected by its label"
        return service, quorum_complaint(await self.nodes(ctx))

    async def update(self, ctx: ActionContext, service: Service, spec: JsonObject) -> None:
        """Send a new specification; the swarm refuses it when the service was changed since it was read."""
        await self.ask(ctx, lambda api: send(api, service, spec))

    async def until_well(
        self, ctx: ActionContext, judged: Callable[[Service, Sequence[Task]], Check]
    ) -> Check:
        """Poll until the service was well for `stable_seconds` with the same tasks."""
        last: frozenset[str] | None = None

        async def sample() -> Check:
            nonlocal last
            try:
                service = await self.service(ctx)
                tasks = await self.service_tasks(ctx, service)
            except (TransientError, PermanentError) as error:
                return Check(ok=False, reason=error.message)
            check = judged(service, tasks)
            known, last = last, frozenset(task.id for task in tasks)
            if check.ok and known is not None and known != last:
                return Check(ok=False, reason="tasks were replaced a moment ago", facts=check.facts)
            return check

        return await held(
            ctx, sample, hold_seconds=ctx.params.stable_seconds, within_seconds=ctx.seconds_left
        )


def engine_for(settings: SwarmSettings) -> Engine:
    """Give the client for these settings."""
    return Engine({"host": settings.host, "timeout_seconds": settings.timeout_seconds})


def name_of(ctx: ActionContext, key: str = "service") -> str:
    """Give the name of the target's service or node from its address."""
    name = ctx.target.address.get(key)
    if not isinstance(name, str) or not name:
        raise PermanentError(f"target {ctx.target.name}: the address must have a {key}")
    return name


def send(api: Api, service: Service, spec: JsonObject, *, rollback: bool = False) -> None:
    """Send a specification, or ask for the one before. Blocking.

    The client's own method rebuilds the specification from its parts and forgets those that it does not know.
    """
    params: dict[str, Any] = {"version": service.version}
    if rollback:
        params["rollback"] = "previous"
    answer = api.post(
        f"{api.base_url}/v{api.api_version}/services/{service.id}/update",
        params=params,
        json=dict(spec),
        timeout=api.timeout,
    )
    api._raise_for_status(answer)  # noqa: SLF001 - the library's mapping to its errors has no public name


def _evidence(api: Api, name: str) -> dict[str, Any]:
    service = service_of(api.inspect_service(name))
    tasks = [task_of(found) for found in api.tasks(filters={"service": service.id})]
    tasks.sort(key=lambda task: task.since, reverse=True)
    return {"state": service.as_facts(), "tasks": [task.as_fact() for task in tasks[:_MAX_TASKS]]}


def _log(api: Api, name: str) -> str:
    taken = bytearray()
    for chunk in api.service_logs(name, stdout=True, stderr=True, tail=50, is_tty=True):
        taken += chunk if isinstance(chunk, bytes) else bytes([chunk])
        if len(taken) > 4 * _MAX_LOG_BYTES:
            break
    return taken[-_MAX_LOG_BYTES:].decode(errors="replace")
