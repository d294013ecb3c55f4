"""Nodes of a swarm: take the tasks away, give them back."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from actions.swarm_change import BLAST_RADIUS
from actions.swarm_engine import NODE, StableParams, name_of
from actions.swarm_node import NodeExecutor, find, names_of
from actions.swarm_room import meets, stranded
from actions.swarm_state import Node, Service, Task, quorum_complaint
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    PermanentError,
    Receipt,
    RiskClass,
    TransientError,
    held,
)


class Availability(NodeExecutor):
    """Sets a node's availability, and back.

    Attributes:
        wanted: what it sets.
        origin: the one state that the precheck admits.
    """

    wanted: ClassVar[str]
    origin: ClassVar[str]

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set it, unless it is set."""
        node = await self.node(ctx)
        facts: dict[str, Any] = {"availability_before": node.availability, "node": node.id}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if node.availability == self.wanted:
            # The precheck admits only one state to come from.
            return Receipt(self.spec.id, ctx.clock.now(), {"node": node.id, "already": True})
        check = await self.precheck(ctx)
        if not check.ok:
            raise PermanentError(check.reason)
        facts["services"] = check.facts.get("services", [])
        await self.set_node(ctx, node, Availability=self.wanted)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it is set, with the effect it is for, and held for `stable_seconds`."""
        names = set(receipt.facts.get("services") or ())

        async def sample() -> Check:
            try:
                node = await self.node(ctx)
                reason = f"the node is {node.availability}" if node.availability != self.wanted else ""
                reason = reason or await self.complaint(ctx, node) or await self.short(ctx, names)
            except (TransientError, PermanentError) as error:
                return Check(ok=False, reason=error.message)
            return Check(ok=not reason, reason=reason, facts=node.as_fact())

        return await held(
            ctx, sample, hold_seconds=ctx.params.stable_seconds, within_seconds=ctx.seconds_left
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set what it was before."""
        node = await self.node(ctx)
        before = receipt.facts.get("availability_before") or self.origin
        if node.availability == self.wanted:
            await self.set_node(ctx, node, Availability=before)
            node = await self.node(ctx)
        is_back = node.availability == before
        return Check(
            ok=is_back, reason="" if is_back else f"the node is {node.availability}", facts=node.as_fact()
        )

    @abstractmethod
    async def complaint(self, ctx: ActionContext, node: Node) -> str:
        """Say why the effect is not there yet; empty when it is."""


class DrainParams(StableParams):
    """What may be moved."""

    allow_local_volumes: bool = False
    """Also tasks with volumes or folders of the node: their content stays behind."""


class DrainNode(Availability):
    """Moves every task of a node to others, and lets it take no new ones."""

    spec = ActionSpec(
        id="swarm.drain_node",
        summary="Move every task away from a swarm node and give it no new ones.",
        target_kind=NODE,
        params=DrainParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=600.0,
        blast_radius=BLAST_RADIUS,
        cost=0.3,
        family="drain",
    )
    wanted, origin = "drain", "active"

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a second node at a time, a lost quorum, and what no other node could take."""
        nodes, tasks, services = await self.nodes(ctx), await self.tasks(ctx), await self.services(ctx)
        node = find(nodes, name_of(ctx, "node"))
        if node is None:
            return Check(ok=False, reason=f"there is no node {name_of(ctx, 'node')}")
        there = [task for task in tasks if task.node == node.id]
        names = names_of(services, there)
        facts = {**node.as_fact(), "availability_before": node.availability, "services": names}
        reason = self.protection(node) or quorum_complaint(nodes) or _not_drainable(node, nodes)
        if not reason and not ctx.params.allow_local_volumes:
            reason = _local(services, there)
        if not reason:
            left = stranded(node, services, nodes, tasks)
            reason = f"no other node could take the tasks of {left}" if left else ""
        return Check(ok=not reason, reason=reason, instances=max(1, len(there)), facts=facts)

    async def complaint(self, ctx: ActionContext, node: Node) -> str:
        """Say that tasks still run there."""
        found = await self.ask(ctx, lambda api: api.tasks(filters={"node": node.id}))
        left = sum((task.get("Status") or {}).get("State") in ("running", "starting") for task in found)
        return f"{left} tasks still run on the node" if left else ""


class ActivateNode(Availability):
    """Lets a drained node take tasks again."""

    spec = ActionSpec(
        id="swarm.activate_node",
        summary="Let a drained swarm node take tasks again.",
        target_kind=NODE,
        params=StableParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=300.0,
        cost=0.05,
        family="drain",
    )
    wanted, origin = "active", "drain"

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a node that is not drained or not ready."""
        nodes = await self.nodes(ctx)
        node = find(nodes, name_of(ctx, "node"))
        if node is None:
            return Check(ok=False, reason=f"there is no node {name_of(ctx, 'node')}")
        reason = self.protection(node) or quorum_complaint(nodes)
        if not reason and node.availability != self.origin:
            reason = f"the node is {node.availability}, not drained"
        if not reason and node.state != "ready":
            reason = f"the node is {node.state}"
        services, tasks = await self.services(ctx), await self.tasks(ctx)
        facts = {**node.as_fact(), "availability_before": node.availability}
        facts["services"] = _placeable(services, tasks, node)
        return Check(ok=not reason, reason=reason, facts=facts)

    async def complaint(self, ctx: ActionContext, node: Node) -> str:
        """Say that it is not ready."""
        return "" if node.state == "ready" else f"the node is {node.state}"


def _not_drainable(node: Node, nodes: list[Node]) -> str:
    if node.availability != "active" or node.state != "ready":
        return f"the node is {node.availability} and {node.state}, not active and ready"
    other = next((one for one in nodes if one.id != node.id and not one.takes_tasks), None)
    if other is not None:
        return f"one at a time: node {other.hostname} is {other.availability} and {other.state}"
    if not any(one.takes_tasks for one in nodes if one.id != node.id):
        return "it is the only node"
    return ""


def _local(services: list[Service], there: list[Task]) -> str:
    here = {task.service for task in there}
    for service in services:
        mounts = (service.template.get("ContainerSpec") or {}).get("Mounts") or []
        is_local = any(mount.get("Type", "volume") in ("volume", "bind") for mount in mounts)
        if service.id in here and is_local and service.replicas is not None:
            return f"service {service.name} keeps something on the node itself"
    return ""


def _placeable(services: list[Service], tasks: list[Task], node: Node) -> list[str]:
    """Give the services that wait for a node like this one."""
    waiting = names_of(services, [task for task in tasks if not task.node])
    return [
        service.name
        for service in services
        if service.name in waiting
        and meets(node, (service.template.get("Placement") or {}).get("Constraints") or ())
    ]
