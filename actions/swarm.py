"""Services of a swarm: start their tasks anew, change the number of replicas."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from actions.swarm_change import BLAST_RADIUS, ServiceChange
from actions.swarm_engine import SERVICE, StableParams
from actions.swarm_fields import value
from actions.swarm_room import could_add
from actions.swarm_state import Service
from oncall_agent.contract import ActionContext, ActionSpec, RiskClass
from oncall_agent.models import JsonObject


class ForceUpdateService(ServiceChange):
    """Replaces every task of a service, in the service's own rhythm."""

    spec = ActionSpec(
        id="swarm.force_update_service",
        summary="Replace every task of a swarm service, a few at a time.",
        target_kind=SERVICE,
        params=StableParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=600.0,
        blast_radius=BLAST_RADIUS,
        cost=0.1,
        family="restart",
    )

    async def objection(self, ctx: ActionContext, service: Service) -> str:
        """Refuse a service that would be away meanwhile."""
        if service.replicas is not None and service.replicas < 2:  # noqa: PLR2004 - one goes, another serves
            return f"the service has {service.replicas} replicas: nobody would serve meanwhile"
        if service.replicas is None:
            tasks = await self.service_tasks(ctx, service)
            return "" if len(tasks) > 1 else "the service has one task: nobody would serve meanwhile"
        return ""

    def wanted(self, params: Any, service: Service) -> dict[str, Any]:
        """Count the forced updates up, as the client's `--force` does."""
        return {"force": value(service.spec, "force") + 1}


class ScaleParams(StableParams):
    """How many."""

    replicas: int = Field(ge=1, le=10_000)
    """Tasks that ought to run; the setting `max_replicas` bounds it."""


class ScaleService(ServiceChange):
    """Changes the number of replicas."""

    spec = ActionSpec(
        id="swarm.scale_service",
        summary="Set the number of replicas of a swarm service.",
        target_kind=SERVICE,
        params=ScaleParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=300.0,
        blast_radius=BLAST_RADIUS,
        cost=0.1,
        family="scale",
    )

    async def objection(self, ctx: ActionContext, service: Service) -> str:
        """Refuse what is out of bounds, or has no room on the nodes."""
        replicas: int = ctx.params.replicas
        if service.replicas is None:
            return "the service has one task on every node: it can't be scaled"
        if replicas == service.replicas:
            return f"the service has {replicas} replicas already"
        if replicas > self.limits.max_replicas:
            return f"{replicas} replicas are beyond the cap of {self.limits.max_replicas}"
        if replicas < service.replicas:
            return ""
        tasks = await self.tasks(ctx)
        placed = sum(task.service == service.id and bool(task.node) for task in tasks)
        room = could_add(service, await self.nodes(ctx), tasks)
        needed = replicas - placed
        return "" if room >= needed else f"the nodes have room for {room} more tasks, {needed} are needed"

    def wanted(self, params: Any, service: Service) -> dict[str, Any]:
        """Give the number."""
        return {"replicas": params.replicas}

    def instances(self, service: Service, wanted: JsonObject) -> int:
        """Say how many tasks come or go."""
        return max(1, abs(int(wanted["replicas"]) - (service.replicas or 0)))
