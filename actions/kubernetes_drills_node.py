"""Drills on a node that the operator names: it is taken out of service and put back."""

from __future__ import annotations

from typing import Any, ClassVar

from actions.kubernetes_drill import KubernetesDrill
from actions.kubernetes_objects import path_of
from actions.kubernetes_reader import NODE_KIND
from oncall_agent.contract import Check, DrillSpec, PermanentError, SystemContext, Target, Trial

Json = dict[str, Any]
_KEYS = ("image", "node")


class NodeDrill(KubernetesDrill):
    """Knows the node; `tolerate` in the sandbox is the key of a taint that keeps others from it."""

    @property
    def node(self) -> str:
        """The node's name."""
        return str(self.sandbox.get("node") or "")

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Refuse without a node, or with one that is cordoned."""
        if not self.node:
            raise PermanentError("name a node that may be emptied: validation.sandboxes.kubernetes.node")
        if await self.is_cordoned(ctx):
            raise PermanentError(f"the node {self.node} is cordoned")
        return await super().prepare(ctx)

    async def is_cordoned(self, ctx: SystemContext) -> bool:
        """Say whether pods are kept from the node."""
        found = await self.ask(ctx, "GET", path_of("Node", "", self.node))
        return bool(found["spec"].get("unschedulable"))

    async def cordon(self, ctx: SystemContext, *, value: bool) -> None:
        """Keep pods from the node, or let them in."""
        body = {"spec": {"unschedulable": True if value else None}}
        await self.ask(ctx, "PATCH", path_of("Node", "", self.node), body=body)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Let pods in again, then remove the rest."""
        try:
            if self.made:
                await self.cordon(ctx, value=False)
        finally:
            await super().clean_up(ctx)

    def trial(self) -> Trial:
        """Give the node."""
        context = {"context": self.sandbox["context"]} if self.sandbox.get("context") else {}
        target = Target(self.node, NODE_KIND, address={"node": self.node, **context})
        return Trial(target, {"stable_seconds": self.stable_seconds})


class FullNode(NodeDrill):
    """A node that has to be emptied, with a disruption budget on what runs there."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.node_to_drain",
        action="kubernetes.drain",
        scenario="node_to_drain",
        summary="Two pods under a disruption budget run on a node that has to be emptied.",
        sandbox="named",
        sandbox_keys=_KEYS,
        deadline_seconds=120.0,
    )
    must_be_empty = False

    async def make(self, ctx: SystemContext) -> None:
        """Start two pods that prefer the node, and say that one of them has to be there always."""
        keys = [str(self.sandbox["tolerate"])] if self.sandbox.get("tolerate") else []
        wanted = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.node]}
        preferred = [{"weight": 100, "preference": {"matchExpressions": [wanted]}}]
        affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
        pod: Json = {
            "affinity": affinity,
            "tolerations": [{"key": key, "operator": "Exists"} for key in keys],
        }
        selector = {"matchLabels": {"app": self.name}}
        await self.deploy(ctx, replicas=2, pod=pod)
        await self.create(
            ctx, "PodDisruptionBudget", self.name, spec={"selector": selector, "minAvailable": 1}
        )

    async def break_it(self, ctx: SystemContext) -> None:
        """Want the node empty."""
        self.must_be_empty = True
        if (await self.look(ctx)).ok:
            raise PermanentError(f"the drill's pods did not go to the node {self.node}")

    async def look(self, ctx: SystemContext) -> Check:
        """Ask where the pods run."""
        check = await super().look(ctx)
        if not check.ok or not self.must_be_empty:
            return check
        workload = await self.ask(ctx, "GET", path_of("Deployment", self.namespace, self.name))
        there = [pod for pod in await self.pods(ctx, workload) if pod["spec"].get("nodeName") == self.node]
        return Check(ok=not there, reason=f"{len(there)} pods run on the node" if there else "")


class CordonedNode(NodeDrill):
    """A node that somebody cordoned and forgot."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="kubernetes.cordoned_node",
        action="kubernetes.uncordon",
        scenario="cordoned_node",
        summary="A node is cordoned and forgotten.",
        sandbox="named",
        sandbox_keys=_KEYS,
        deadline_seconds=60.0,
    )

    async def break_it(self, ctx: SystemContext) -> None:
        """Cordon it."""
        await self.cordon(ctx, value=True)

    async def look(self, ctx: SystemContext) -> Check:
        """Ask whether it takes pods."""
        is_out = await self.is_cordoned(ctx)
        return Check(ok=not is_out, reason="the node is cordoned" if is_out else "")
