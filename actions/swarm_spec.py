"""Services of a swarm: more memory or CPU within narrow bounds, or another image."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from actions.docker_engine import Api, MissingError
from actions.swarm_change import BLAST_RADIUS, ServiceChange
from actions.swarm_engine import SERVICE, StableParams
from actions.swarm_fields import value
from actions.swarm_state import Node, Service, Task
from oncall_agent.contract import ActionContext, ActionSpec, PermanentError, RiskClass

_PAGE = 4_096
_MAX_FACTOR = 1.5
_NANO = 1_000_000_000
_HEX = "[0-9a-f]{64}"


class SpecParams(StableParams):
    """What to set; at least one."""

    memory_factor: float | None = Field(None, gt=1.0, le=_MAX_FACTOR)
    """Times the memory limit of now."""
    memory_bytes: int | None = Field(None, ge=4_194_304)
    """Or this many bytes, at most half as much again as now."""
    cpus: float | None = Field(None, gt=0, le=1024)
    """At most half as much again as now."""
    image: str | None = Field(
        None, pattern=rf"^(sha256:{_HEX}|[a-z0-9][A-Za-z0-9._/:-]{{0,200}}@sha256:{_HEX})$", max_length=280
    )
    """By digest, so that every node runs the same: `name@sha256:...`, or the id of an image on every node."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.memory_factor is not None and self.memory_bytes is not None:
            raise ValueError("memory_factor and memory_bytes exclude each other")
        if (self.memory_factor, self.memory_bytes, self.cpus, self.image) == (None, None, None, None):
            raise ValueError("one of memory_factor, memory_bytes, cpus, image is needed")
        return self


class SetLimitsOrImage(ServiceChange):
    """Gives a service's tasks more room, or another image."""

    spec = ActionSpec(
        id="swarm.set_limits_or_image",
        summary="Raise the memory or CPU limit of a swarm service's tasks, or set their image by digest.",
        target_kind=SERVICE,
        params=SpecParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=600.0,
        blast_radius=BLAST_RADIUS,
        cost=0.15,
        family="scale",
    )

    async def objection(self, ctx: ActionContext, service: Service) -> str:
        """Refuse what is beyond the bounds, has no room, or is an image that nobody can find."""
        wanted = self.wanted(ctx.params, service)
        reason = self._beyond(service, wanted)
        if not reason and "memory" in wanted:
            added = wanted["memory"] - value(service.spec, "memory")
            nodes, tasks = await self.nodes(ctx), await self.tasks(ctx)
            reason = crowded(service, added, nodes, tasks, self.limits.memory_reserve)
        if not reason and "image" in wanted:
            reason = await self._image_objection(ctx, wanted["image"], service)
        return reason

    def wanted(self, params: Any, service: Service) -> dict[str, Any]:
        """Give the fields to set, memory in whole pages."""
        found: dict[str, Any] = {}
        memory = params.memory_bytes
        if params.memory_factor is not None:
            memory = int(value(service.spec, "memory") * params.memory_factor)
        if memory is not None:
            found["memory"] = memory // _PAGE * _PAGE
        if params.cpus is not None:
            found["cpus"] = int(params.cpus * _NANO)
        if params.image is not None:
            found["image"] = params.image
        return found

    def _beyond(self, service: Service, wanted: dict[str, Any]) -> str:
        memory, cpus = value(service.spec, "memory"), value(service.spec, "cpus")
        if "memory" in wanted and not memory:
            return "the service has no memory limit to raise"
        if wanted.get("memory", 0) > min(memory * _MAX_FACTOR, self.limits.max_memory_bytes):
            return f"{wanted['memory']} bytes are beyond half as much again or the cap"
        if "cpus" in wanted and not cpus:
            return "the service has no CPU limit to raise"
        if wanted.get("cpus", 0) > cpus * _MAX_FACTOR:
            return "that many CPUs are beyond half as much again"
        return ""

    async def _image_objection(self, ctx: ActionContext, image: str, service: Service) -> str:
        if image == value(service.spec, "image"):
            return "the service runs this image already"
        try:
            await self.ask(ctx, lambda api: _find(api, image, may_ask_registry=self.limits.allow_registry))
        except PermanentError as error:
            return f"the image can't be found: {error.message}"
        return ""


def crowded(service: Service, added: int, nodes: list[Node], tasks: list[Task], reserve: float) -> str:
    """Say on which node the tasks' memory limits would not leave the reserve free; empty when none is."""
    limits = {node.id: 0 for node in nodes}
    for task in tasks:
        limit = int(((task.spec.get("Resources") or {}).get("Limits") or {}).get("MemoryBytes") or 0)
        more = max(0, added) if task.service == service.id else 0
        limits[task.node] = limits.get(task.node, 0) + limit + more
    for node in nodes:
        if node.memory and limits[node.id] > node.memory * (1 - reserve):
            return f"node {node.hostname} has not enough memory for that"
    return ""


def _find(api: Api, image: str, *, may_ask_registry: bool) -> None:
    try:
        api.inspect_image(image)
    except Exception as error:
        if getattr(error, "status_code", 0) != 404:  # noqa: PLR2004 - not found
            raise
        if image.startswith("sha256:") or not may_ask_registry:
            raise MissingError("the manager has no such image") from error
        api.inspect_distribution(image)
