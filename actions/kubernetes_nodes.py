"""Nodes: take one out of scheduling, and put it back."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from actions.kubernetes_api import MissingError
from actions.kubernetes_claim import Claims
from actions.kubernetes_executor import KubernetesExecutor
from actions.kubernetes_objects import condition, is_ready, path_of
from actions.kubernetes_ownership import protection
from actions.kubernetes_reader import NODE_KIND, place_of
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    TransientError,
    held,
)
from oncall_agent.models import JsonObject

Json = dict[str, Any]
SUBJECT = "nodes"
"""One lease for all nodes: one of them at a time is taken out."""
_MAX_NODES = 5_000


class NodeParams(Params):
    """How long the node must stay as it was set."""

    stable_seconds: float = Field(2.0, ge=0, le=600)
    """The node has to stay as it was set for that long."""


class NodeExecutor(KubernetesExecutor):
    """Reads a node, sets whether pods are put on it, and says what it is like."""

    async def node(self, ctx: ActionContext) -> Json:
        """Give the node as it is now."""
        return await self.ask(ctx, "GET", place_of(ctx.target).path())

    async def node_or_objection(self, ctx: ActionContext) -> tuple[Json, str]:
        """Give the node and why it may not be touched: absent, protected."""
        if ctx.target.protected:
            return {}, "the target is protected"
        try:
            found = await self.node(ctx)
        except MissingError:
            return {}, f"there is no {place_of(ctx.target).subject}"
        return found, protection([found], self.clusters.settings)

    def claims(self) -> Claims:
        """Give the leases of nodes."""
        return Claims(self.ask, self.clusters.settings.lease_namespace)

    async def set_unschedulable(self, ctx: ActionContext, uid: str, *, value: bool) -> None:
        """Cordon or uncordon this very node."""
        body = {"metadata": {"uid": uid}, "spec": {"unschedulable": True if value else None}}
        await self.ask(ctx, "PATCH", place_of(ctx.target).path(), body=body)

    async def too_many(self, ctx: ActionContext, node: JsonObject) -> str:
        """Give why no further node may be taken out; empty when one may."""
        nodes = await self.listed(ctx, path_of("Node"), most=_MAX_NODES)
        return share_objection(
            nodes, node["metadata"]["name"], self.clusters.settings.max_unschedulable_nodes
        )

    async def set_once(self, ctx: ActionContext, *, value: bool) -> Receipt:
        """Cordon or uncordon once per key."""
        node = await self.node(ctx)
        facts = node_facts(node)
        if ctx.dry_run:
            return self.planned(ctx, facts)

        async def act(found: Json) -> None:
            await self.set_unschedulable(ctx, found["uid"], value=value)

        return await self.once(ctx, self.claims(), SUBJECT, facts, act)

    async def until(self, ctx: ActionContext, *, value: bool) -> Check:
        """Poll until pods are, or are not, put on the node, and it stays so."""

        async def sample() -> Check:
            try:
                node = await self.node(ctx)
            except (TransientError, PermanentError) as error:
                return Check(ok=False, reason=error.message)
            is_as_wanted = bool(node["spec"].get("unschedulable")) is value
            word = "not cordoned" if value else "cordoned"
            reason = "" if is_as_wanted else f"the node is {word}"
            if not value and not reason and not is_ready(node):
                reason = "the node is not ready"
            return Check(ok=not reason, reason=reason, facts=node_facts(node))

        return await held(
            ctx, sample, hold_seconds=ctx.params.stable_seconds, within_seconds=ctx.seconds_left
        )

    async def restore(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set what was set before."""
        before = bool(receipt.facts.get("was_unschedulable"))
        node = await self.node(ctx)
        if bool(node["spec"].get("unschedulable")) is not before:
            await self.set_unschedulable(ctx, node["metadata"]["uid"], value=before)
        return Check(ok=True, facts={"unschedulable": before})

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the node's conditions, taints, and how many pods it has."""
        try:
            node = await self.node(ctx)
            query = {"fieldSelector": f"spec.nodeName={node['metadata']['name']}"}
            pods = await self.listed(ctx, path_of("Pod"), query=query)
        except ActionError as error:
            return {"reason": error.message}
        conditions = (node.get("status") or {}).get("conditions") or []
        said = [f"{one['type']}={one['status']}: {one.get('message', '')}"[:200] for one in conditions[:10]]
        return {**node_facts(node), "conditions": said, "pods": len(pods)}


class Cordon(NodeExecutor):
    """Takes a node out of scheduling; what runs on it goes on."""

    spec = ActionSpec(
        id="kubernetes.cordon",
        summary="Put no more pods on a node.",
        target_kind=NODE_KIND,
        params=NodeParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.05,
        family="other",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a node that is cordoned, and more nodes at once than the share."""
        node, reason = await self.node_or_objection(ctx)
        if not node or reason:
            return Check(ok=False, reason=reason)
        if node["spec"].get("unschedulable"):
            return Check(ok=False, reason="the node is cordoned", facts=node_facts(node))
        reason = await self.too_many(ctx, node)
        return Check(ok=not reason, reason=reason, facts=node_facts(node))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Cordon it once."""
        return await self.set_once(ctx, value=True)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it is cordoned and stays so."""
        return await self.until(ctx, value=True)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Uncordon it, unless it was cordoned before."""
        return await self.restore(ctx, receipt)


class Uncordon(NodeExecutor):
    """Puts a node back into scheduling."""

    spec = ActionSpec(
        id="kubernetes.uncordon",
        summary="Put pods on a node again.",
        target_kind=NODE_KIND,
        params=NodeParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=60.0,
        cost=0.03,
        family="other",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a node that is not cordoned, or not ready, or under pressure."""
        node, reason = await self.node_or_objection(ctx)
        if not node or reason:
            return Check(ok=False, reason=reason)
        if not node["spec"].get("unschedulable"):
            reason = "the node is not cordoned"
        elif not is_ready(node):
            reason = "the node is not ready"
        else:
            reason = _pressure(node)
        return Check(ok=not reason, reason=reason, facts=node_facts(node))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Uncordon it once."""
        return await self.set_once(ctx, value=False)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it takes pods and is ready, and stays so."""
        return await self.until(ctx, value=False)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Cordon it again."""
        return await self.restore(ctx, receipt)


def node_facts(node: JsonObject) -> dict[str, Any]:
    """Give what is needed to take the change back, and to see what the node was like."""
    return {
        "node": node["metadata"]["name"],
        "uid": node["metadata"]["uid"],
        "was_unschedulable": bool(node["spec"].get("unschedulable")),
        "ready": is_ready(node),
        "taints": [f"{one.get('key')}:{one.get('effect')}" for one in node["spec"].get("taints") or []][:10],
    }


def share_objection(nodes: list[Json], name: str, share: float) -> str:
    """Give why this node may not be out, too; empty when it may.

    A node counts as out when it is cordoned or not ready. One always may be out, all never.
    """
    others = [one for one in nodes if one["metadata"]["name"] != name]
    out = [one for one in others if one["spec"].get("unschedulable") or not is_ready(one)]
    if len(out) == len(others):
        return "no other node takes pods"
    allowed = max(1, int(len(nodes) * share))
    if len(out) + 1 > allowed:
        return f"{len(out)} of {len(nodes)} nodes are out, {allowed} may be"
    return ""


def _pressure(node: JsonObject) -> str:
    kinds = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
    found = [kind for kind in kinds if condition(node, kind).get("status") == "True"]
    return f"the node is under {found[0]}" if found else ""
