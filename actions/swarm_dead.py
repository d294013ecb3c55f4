"""Nodes of a swarm: forget one that is dead."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.docker_engine import Api
from actions.docker_time import seconds_of
from actions.swarm_engine import NODE, StableParams, name_of
from actions.swarm_node import NodeExecutor, find, names_of
from actions.swarm_state import Node, Task, quorum_complaint, task_of
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    PermanentError,
    Receipt,
    RiskClass,
    TransientError,
    held,
)
from oncall_agent.models import JsonObject

_DEMOTION_SECONDS = 30.0


class DeadParams(StableParams):
    """When it counts as dead."""

    down_seconds: float = Field(0.0, ge=0, le=604_800)
    """Down for so long; the setting `dead_after_seconds` may ask for more."""


class RemoveDeadNode(NodeExecutor):
    """Takes a node that will not come back out of the swarm's list."""

    spec = ActionSpec(
        id="swarm.remove_dead_node",
        summary="Remove a node that has been down for long from the swarm.",
        target_kind=NODE,
        params=DeadParams,
        risk=RiskClass.R3,
        reversible=False,
        irreversible_reason="the node has to join the swarm again",
        deadline_seconds=300.0,
        cost=0.4,
        family="drain",
        exemptions={"rollback_restores": "the node has to join the swarm again"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        # Attempt -> its facts: making a manager a worker counts as a change of the node, as if it were down anew.
        self._begun: LRUCache[str, dict[str, Any]] = LRUCache(1024)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a node that is not down for long, the leader, and one without which there is no quorum."""
        nodes = await self.nodes(ctx)
        node = find(nodes, name_of(ctx, "node"))
        if node is None:
            return Check(ok=False, reason=f"there is no node {name_of(ctx, 'node')}")
        now = await self.ask(ctx, _clock_of) or ctx.clock.now()
        # Every change of the node's entry counts anew: the swarm does not tell since when it is down.
        down, needed = now - node.changed_at, max(ctx.params.down_seconds, self.limits.dead_after_seconds)
        names = names_of(await self.services(ctx), await self._tasks_on(ctx, node))
        facts = {**node.as_fact(), "node": node.id, "down_seconds": round(down, 1), "services": names}
        reason = self.protection(node) or _not_dead(node, down, needed)
        reason = reason or quorum_complaint(nodes, without=node.id)
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Remove it; a manager is made a worker first."""
        node = find(await self.nodes(ctx), name_of(ctx, "node"))
        if node is None:
            return Receipt(self.spec.id, ctx.clock.now(), {"already": True})
        facts: dict[str, Any] = {"node": node.id, "role": node.role}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        facts = self._begun.get(ctx.idempotency_key) or await self._permitted(ctx, facts)
        self._begun[ctx.idempotency_key] = facts
        try:
            await self._make_worker(ctx, node)
            await self.ask(ctx, lambda api: api.remove_node(node.id, force=node.role == "manager"))
        except ActionError as error:
            error.receipt_facts = facts
            raise
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it is gone and its tasks run elsewhere."""
        names = set(receipt.facts.get("services") or ())

        async def sample() -> Check:
            try:
                nodes = await self.nodes(ctx)
                is_there = find(nodes, receipt.facts.get("node") or name_of(ctx, "node")) is not None
                reason = "the node is still listed" if is_there else await self.short(ctx, names)
            except (TransientError, PermanentError) as error:
                return Check(ok=False, reason=error.message)
            return Check(ok=not reason, reason=reason, facts={"nodes": len(nodes)})

        return await held(
            ctx, sample, hold_seconds=ctx.params.stable_seconds, within_seconds=ctx.seconds_left
        )

    async def _tasks_on(self, ctx: ActionContext, node: Node) -> list[Task]:
        """Give its tasks, also those that the swarm has given up because the node is down."""
        filters = {"node": node.id}
        return [task_of(found) for found in await self.ask(ctx, lambda api: api.tasks(filters=filters))]

    async def _permitted(self, ctx: ActionContext, facts: dict[str, Any]) -> dict[str, Any]:
        check = await self.precheck(ctx)
        if not check.ok:
            raise PermanentError(check.reason)
        return {**facts, "services": check.facts.get("services", [])}

    async def _make_worker(self, ctx: ActionContext, node: Node) -> None:
        """Take a manager's vote away; the swarm does so a little later, and removes no node that has one."""
        if node.role == "manager":
            await self.set_node(ctx, node, Role="worker")

        async def sample() -> Check:
            found = find(await self.nodes(ctx), node.id)
            has_vote = found is not None and bool(found.reachability)
            return Check(ok=not has_vote, reason="the node is still a manager" if has_vote else "")

        check = await held(ctx, sample, hold_seconds=0.0, within_seconds=_DEMOTION_SECONDS)
        if not check.ok:
            raise TransientError(check.reason)


def _not_dead(node: Node, down: float, needed: float) -> str:
    if node.state != "down":
        return f"the node is {node.state}, not down"
    if node.is_leader:
        return "the node leads the managers"
    return "" if down >= needed else f"the node is down for {down:.0f} s, not {needed:.0f}"


def _clock_of(api: Api) -> float:
    return seconds_of(str(api.info().get("SystemTime") or ""))
