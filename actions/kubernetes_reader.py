"""Reading a target's cluster: its place, lists in pages, a workload with the pods that it controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from actions.kubernetes_api import Clusters
from actions.kubernetes_objects import WORKLOADS, owned_by, path_of, selector_of
from oncall_agent.contract import PermanentError, Target
from oncall_agent.models import JsonObject

Json = dict[str, Any]
KIND, NODE_KIND = "kubernetes_workload", "kubernetes_node"
_PAGE = 500


class Asking(Protocol):
    """On whose behalf is asked, and how long there is: an attempt, or a probe."""

    @property
    def target(self) -> Target:
        """Whose cluster is asked."""
        ...

    @property
    def seconds_left(self) -> float:
        """Time for the whole."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target is: its kind, its namespace (none for a node), its name."""

    kind: str
    namespace: str
    name: str

    @property
    def subject(self) -> str:
        """How a lease and a fact call it."""
        return f"{self.kind}/{self.name}"

    def path(self, sub: str = "") -> str:
        """Give its path in the API."""
        return path_of(self.kind, self.namespace, self.name, sub)


def place_of(target: Target, *, kinds: tuple[str, ...] = tuple(WORKLOADS)) -> Place:
    """Give the place that the target's address names.

    Raises:
        PermanentError: the address lacks something, or the kind is not one that this action knows.
    """
    address = target.address
    if target.kind == NODE_KIND:
        return Place("Node", "", _word(target, "node"))
    kind = str(address.get("kind") or "Deployment")
    if kind not in kinds:
        raise PermanentError(f"target {target.name}: {kind} is none of {', '.join(kinds)}")
    return Place(kind, _word(target, "namespace"), _word(target, "name"))


def _word(target: Target, key: str) -> str:
    found = target.address.get(key)
    if not isinstance(found, str) or not found:
        raise PermanentError(f"target {target.name}: the address must have a {key}")
    return found


class Reader:
    """The clients, and what is read through them."""

    def __init__(self, clusters: Clusters) -> None:
        self.clusters = clusters

    async def ask(self, ctx: Asking, method: str, path: str, **more: Any) -> Json:
        """Ask the target's cluster inside the attempt's deadline."""
        context = str(ctx.target.address.get("context") or "")
        settings = self.clusters.settings
        if context and context not in (settings.context, *settings.contexts):
            raise PermanentError(
                f"target {ctx.target.name}: the context {context} is not in backends.kubernetes"
            )
        return await self.clusters.ask(ctx.seconds_left, method, path, context=context, **more)

    async def listed(
        self, ctx: Asking, path: str, *, query: Mapping[str, str] | None = None, most: int = _PAGE
    ) -> list[Json]:
        """Give the items of a list, page by page.

        Raises:
            PermanentError: there are more than `most`.
        """
        found: list[Json] = []
        asked = {**(query or {}), "limit": str(_PAGE)}
        while True:
            answer = await self.ask(ctx, "GET", path, query=asked)
            found += answer.get("items") or []
            more = (answer.get("metadata") or {}).get("continue")
            if len(found) > most or (more and len(found) == most):
                raise PermanentError(f"more than {most} objects at {path}")
            if not more:
                return found
            asked["continue"] = more

    async def pods(self, ctx: Asking, workload: JsonObject) -> list[Json]:
        """Give the pods that the workload controls, through its replica sets if it has them."""
        meta = workload["metadata"]
        query, uids = {"labelSelector": selector_of(workload)}, [meta["uid"]]
        if workload["kind"] == "Deployment":
            sets = await self.listed(ctx, path_of("ReplicaSet", meta["namespace"]), query=query)
            uids = [one["metadata"]["uid"] for one in owned_by(sets, uids)]
        return owned_by(await self.listed(ctx, path_of("Pod", meta["namespace"]), query=query), uids)
