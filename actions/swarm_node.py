"""What the actions on one node of a swarm share."""

from __future__ import annotations

from collections import Counter
from typing import Any

from actions.docker_engine import Api
from actions.swarm_engine import SwarmExecutor, name_of
from actions.swarm_state import Node, Service, Task
from oncall_agent.contract import ActionContext, PermanentError, TransientError
from oncall_agent.models import JsonObject

_LISTED = 100


class NodeExecutor(SwarmExecutor):
    """What the actions on one node share."""

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect every node's state and what runs on the target."""
        try:
            nodes, tasks = await self.nodes(ctx), await self.tasks(ctx)
            node = find(nodes, name_of(ctx, "node"))
        except (TransientError, PermanentError) as error:
            return {"reason": error.message}
        there = [task.as_fact() for task in tasks if node is not None and task.node == node.id]
        return {"nodes": [one.as_fact() for one in nodes[:_LISTED]], "tasks": there[:_LISTED]}

    async def node(self, ctx: ActionContext) -> Node:
        """Give the target's node."""
        found = find(await self.nodes(ctx), name_of(ctx, "node"))
        if found is None:
            raise PermanentError(f"there is no node {name_of(ctx, 'node')}")
        return found

    def protection(self, node: Node) -> str:
        """Say that the node is protected; empty when it is not."""
        is_protected = node.labels.get(self.limits.protected_label, "").lower() == "true"
        return "the node is protected by its label" if is_protected else ""

    async def set_node(self, ctx: ActionContext, node: Node, **changes: str) -> None:
        """Set availability or role."""
        spec = {**node.spec, **changes}
        await self.ask(ctx, lambda api: _send(api, node, spec))

    async def short(self, ctx: ActionContext, names: Any) -> str:
        """Give the first of these services that runs fewer tasks than it ought to; empty when none does."""
        services, tasks = await self.services(ctx), await self.tasks(ctx)
        running = Counter(task.service for task in tasks if task.state == "running")
        for service in services:
            if service.name in names and running[service.id] < (service.replicas or 0):
                return f"service {service.name}: {running[service.id]} of {service.replicas} tasks run"
        return ""


def find(nodes: list[Node], name: str) -> Node | None:
    """Give the node of this id or host name.

    Raises:
        PermanentError: several nodes have that host name.
    """
    found = [node for node in nodes if name in (node.id, node.hostname)]
    if len(found) > 1:
        raise PermanentError(f"{len(found)} nodes are called {name}: name it by its id")
    return found[0] if found else None


def names_of(services: list[Service], tasks: list[Task]) -> list[str]:
    """Give the names of the services that these tasks belong to."""
    here = {task.service for task in tasks}
    return sorted(service.name for service in services if service.id in here)[:_LISTED]


def _send(api: Api, node: Node, spec: JsonObject) -> None:
    api.update_node(node.id, node.version, node_spec=dict(spec))
