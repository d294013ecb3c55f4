"""Which pods a drain has to move, and which of them must not be moved: plain functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from actions.kubernetes_objects import controller_of, is_finished
from actions.kubernetes_workload import budgets_of
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_MIRROR = "kubernetes.io/config.mirror"
_LOCAL = ("emptyDir", "hostPath", "ephemeral")


@dataclass(frozen=True, slots=True)
class Evictable:
    """A pod that a drain has to move.

    Attributes:
        objection: why it must not be evicted; empty when it may be.
        is_ending: its deletion is under way.
        owner: kind, namespace and name of its controller.
    """

    namespace: str
    name: str
    uid: str
    objection: str = ""
    is_ending: bool = False
    owner: Json = field(default_factory=dict)
    labels: Json = field(default_factory=dict)


def evictable_of(pods: Sequence[JsonObject], node: str) -> list[Evictable]:
    """Give the pods of a node that have to go: none of a daemon set, of the node itself, or ended."""
    own = [pod for pod in pods if pod["spec"].get("nodeName") == node]
    return [_evictable(pod) for pod in own if not _stays(pod)]


def _stays(pod: JsonObject) -> bool:
    is_mirror = _MIRROR in (pod["metadata"].get("annotations") or {})
    return is_mirror or is_finished(pod) or (controller_of(pod) or {}).get("kind") == "DaemonSet"


def _evictable(pod: JsonObject) -> Evictable:
    meta, owner = pod["metadata"], controller_of(pod)
    return Evictable(
        meta["namespace"],
        meta["name"],
        meta["uid"],
        objection=_objection(pod),
        is_ending=bool(meta.get("deletionTimestamp")),
        owner={"kind": owner["kind"], "namespace": meta["namespace"], "name": owner["name"]} if owner else {},
        labels=dict(meta.get("labels") or {}),
    )


def _objection(pod: JsonObject) -> str:
    place = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    if controller_of(pod) is None:
        return f"{place} has no controller that replaces it"
    for volume in pod["spec"].get("volumes") or []:
        kind = next((one for one in _LOCAL if one in volume), "")
        # What is in memory is lost with every restart, so nobody keeps it there.
        if kind and (volume[kind] or {}).get("medium") != "Memory":
            return f"{place} keeps local data ({kind} {volume.get('name')})"
    return ""


def blocked(found: Sequence[Evictable], budgets: Sequence[Json]) -> str:
    """Give the disruption budget that allows no eviction of one of these pods; empty when none is closed."""
    for one in found:
        for budget in budgets_of(budgets, {"metadata": {"labels": one.labels}}):
            if not int((budget.get("status") or {}).get("disruptionsAllowed") or 0):
                return f"the disruption budget {budget['metadata']['name']} allows no eviction of {one.name}"
    return ""
