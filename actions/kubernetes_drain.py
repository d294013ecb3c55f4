"""Draining a node: its pods go elsewhere by eviction, so that disruption budgets are asked and never bypassed."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from actions.kubernetes_api import BusyError, ConflictError, MissingError
from actions.kubernetes_capacity import nodes_and_pods, rooms_of, unplaced
from actions.kubernetes_evictable import Evictable, blocked, evictable_of
from actions.kubernetes_nodes import SUBJECT, NodeExecutor, NodeParams, node_facts
from actions.kubernetes_objects import path_of, requests_of
from actions.kubernetes_ownership import namespace_objection, protection
from actions.kubernetes_pods import eviction
from actions.kubernetes_reader import NODE_KIND
from oncall_agent.contract import ActionContext, ActionSpec, Check, PermanentError, Receipt, RiskClass, held
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_POLL_SECONDS, _BUSY_SECONDS, _RESERVE_SECONDS = 0.5, 2.0, 20.0
_OWNERS = ("ReplicaSet", "StatefulSet")


class DrainParams(NodeParams):
    """How far a drain may go."""

    timeout_seconds: float = Field(240.0, gt=0, le=3_600)
    """For the pods to be gone; what a disruption budget holds back longer ends the drain, and it is undone."""
    max_pods: int = Field(50, ge=1, le=250)
    """A node with more pods to evict is left alone."""


class Drain(NodeExecutor):
    """Cordons a node and evicts its pods; those of daemon sets stay."""

    spec = ActionSpec(
        id="kubernetes.drain",
        summary="Move every pod off a node by eviction.",
        target_kind=NODE_KIND,
        params=DrainParams,
        risk=RiskClass.R2,
        reversible=True,
        blast_radius=250,
        deadline_seconds=600.0,
        cooldown_seconds=900.0,
        cost=0.2,
        family="other",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse local data, pods without a controller, a closed budget, lacking room, and too many nodes out."""
        node, reason = await self.node_or_objection(ctx)
        if not node or reason:
            return Check(ok=False, reason=reason)
        nodes, pods = await nodes_and_pods(self, ctx)
        found = evictable_of(pods, node["metadata"]["name"])
        facts = {**node_facts(node), "pods": [one.name for one in found][:50]}
        reason = await self.too_many(ctx, node) or self._objection(ctx, found, nodes, pods, node)
        reason = reason or await self._closed_budget(ctx, found)
        return Check(ok=not reason, reason=reason, instances=max(1, len(found)), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Cordon it, then evict pod by pod until none is left."""
        node = await self.node(ctx)
        facts = node_facts(node)
        if ctx.dry_run:
            return self.planned(ctx, facts)
        return await self.once(ctx, self.claims(), SUBJECT, facts, lambda found: self._drain(ctx, found))

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the node is cordoned and empty, and what was moved is ready elsewhere."""

        async def sample() -> Check:
            node = await self.node(ctx)
            left = await self._left(ctx, node["metadata"]["name"])
            if not node["spec"].get("unschedulable"):
                return Check(ok=False, reason="the node is not cordoned", facts=node_facts(node))
            if left:
                return Check(ok=False, reason=f"{len(left)} pods are still on it", facts=node_facts(node))
            reason = await self._not_ready(ctx, receipt.facts.get("owners") or [])
            return Check(ok=not reason, reason=reason, facts=node_facts(node))

        return await held(
            ctx, sample, hold_seconds=ctx.params.stable_seconds, within_seconds=ctx.seconds_left
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Uncordon it; pods that were moved stay where they are."""
        return await self.restore(ctx, receipt)

    async def _drain(self, ctx: ActionContext, found: Json) -> Json:
        await self.set_unschedulable(ctx, found["uid"], value=True)
        end = ctx.clock.monotonic() + min(
            ctx.params.timeout_seconds, max(0.0, ctx.seconds_left - _RESERVE_SECONDS)
        )
        owners: dict[str, Json] = {}
        held_back = ""
        while left := await self._left(ctx, found["node"]):
            if (reason := _unsafe(left)) or ctx.clock.monotonic() > end:
                reason = reason or held_back or f"{len(left)} pods did not end in time"
                raise PermanentError(
                    f"the drain stopped: {reason}", receipt_facts={"owners": list(owners.values())}
                )
            held_back = await self._evict_all(ctx, left)
            owners |= {one.uid: one.owner for one in left if one.owner.get("kind") in _OWNERS}
            await ctx.clock.sleep(_BUSY_SECONDS if held_back else _POLL_SECONDS)
        return {"owners": list(owners.values())[:50]}

    async def _evict_all(self, ctx: ActionContext, pods: list[Evictable]) -> str:
        """Ask for each pod once; give what was held back."""
        held_back = ""
        for one in pods:
            if one.is_ending:
                continue
            path = path_of("Pod", one.namespace, one.name, "eviction")
            try:
                body = eviction({"pod": one.name, "pod_uid": one.uid}, None, {})
                await self.ask(ctx, "POST", path, body=body)
            except BusyError:
                held_back = f"a disruption budget does not allow {one.namespace}/{one.name} to be evicted"
            except (MissingError, ConflictError):
                continue
        return held_back

    async def _left(self, ctx: ActionContext, node: str) -> list[Evictable]:
        query = {"fieldSelector": f"spec.nodeName={node}"}
        return evictable_of(await self.listed(ctx, path_of("Pod"), query=query), node)

    def _objection(
        self,
        ctx: ActionContext,
        found: list[Evictable],
        nodes: list[Json],
        pods: list[Json],
        node: JsonObject,
    ) -> str:
        settings = self.clusters.settings
        own = [pod for pod in pods if pod["metadata"]["uid"] in {one.uid for one in found}]
        outside = [reason for one in found if (reason := namespace_objection(one.namespace, settings))]
        if len(found) > ctx.params.max_pods:
            return f"{len(found)} pods are on it, more than {ctx.params.max_pods}"
        if outside:
            return f"it has pods that may not be touched: {outside[0]}"
        others = [one for one in nodes if one["metadata"]["name"] != node["metadata"]["name"]]
        missing = unplaced(rooms_of(others, pods, {}), [requests_of(pod["spec"]) for pod in own])
        no_room = f"the other nodes have no room for {missing} of {len(own)} pods" if missing else ""
        return protection(own, settings) or _unsafe(found) or _homeless(own, others, pods) or no_room

    async def _closed_budget(self, ctx: ActionContext, found: list[Evictable]) -> str:
        for namespace in sorted({one.namespace for one in found}):
            budgets = await self.listed(ctx, path_of("PodDisruptionBudget", namespace))
            reason = blocked([one for one in found if one.namespace == namespace], budgets)
            if reason:
                return reason
        return ""

    async def _not_ready(self, ctx: ActionContext, owners: list[JsonObject]) -> str:
        for owner in owners:
            place = path_of(str(owner["kind"]), str(owner["namespace"]), str(owner["name"]))
            try:
                found = await self.ask(ctx, "GET", place)
            except MissingError:
                continue
            wanted = int(found["spec"].get("replicas") or 0)
            ready = int((found.get("status") or {}).get("readyReplicas") or 0)
            if ready < wanted:
                return f"{ready} of {wanted} pods of {owner['kind']} {owner['name']} are ready"
        return ""


def _homeless(own: list[Json], others: list[Json], pods: list[Json]) -> str:
    """Give the pod that no other node may take: its node selector, or a taint, keeps it here."""
    for pod in own:
        need = requests_of(pod["spec"])
        if not any(room.holds(need) for room in rooms_of(others, pods, pod["spec"])):
            return f"no other node can take {pod['metadata']['namespace']}/{pod['metadata']['name']}"
    return ""


def _unsafe(found: list[Evictable]) -> str:
    return next((one.objection for one in found if one.objection), "")
