"""Room: what nodes have free, what a namespace's quota still allows, and how many more pods fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actions.kubernetes_api import ForbiddenError
from actions.kubernetes_executor import KubernetesExecutor
from actions.kubernetes_objects import is_finished, is_ready, path_of, quantity, requests_of
from oncall_agent.contract import ActionContext
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_MAX_NODES, _MAX_PODS = 5_000, 20_000
_HARMLESS = ("PreferNoSchedule",)


@dataclass(frozen=True, slots=True)
class Room:
    """What one node has left: CPUs, bytes, pods."""

    name: str
    cpu: float
    memory: float
    pods: int

    def holds(self, need: Mapping[str, float]) -> int:
        """Give how many pods of this size fit."""
        fits = [self.pods]
        for free, name in ((self.cpu, "cpu"), (self.memory, "memory")):
            if need.get(name):
                fits.append(math.floor(free / need[name] + 1e-9))
        return max(0, min(fits))

    def without(self, need: Mapping[str, float]) -> Room:
        """Give what is left once a pod of this size runs there."""
        return Room(
            self.name, self.cpu - need.get("cpu", 0.0), self.memory - need.get("memory", 0.0), self.pods - 1
        )


def can_schedule(node: JsonObject, tolerated: Sequence[JsonObject] = ()) -> bool:
    """Say whether a pod with these tolerations may be put on a node."""
    spec = node["spec"]
    if spec.get("unschedulable") or not is_ready(node):
        return False
    taints = [one for one in spec.get("taints") or [] if one.get("effect") not in _HARMLESS]
    return all(any(_tolerates(one, taint) for one in tolerated) for taint in taints)


def _tolerates(toleration: JsonObject, taint: JsonObject) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    return toleration.get("key") == taint.get("key") and toleration.get("value", "") == taint.get("value", "")


def rooms_of(nodes: Sequence[JsonObject], pods: Sequence[JsonObject], pod_spec: JsonObject) -> list[Room]:
    """Give the room of each node that a pod of this kind may go to."""
    used: dict[str, list[dict[str, float]]] = {}
    for pod in pods:
        if not is_finished(pod):
            used.setdefault(pod["spec"].get("nodeName", ""), []).append(requests_of(pod["spec"]))
    chosen = [
        node
        for node in nodes
        if can_schedule(node, pod_spec.get("tolerations") or []) and _is_selected(node, pod_spec)
    ]
    return [_room(node, used.get(node["metadata"]["name"], [])) for node in chosen]


def _is_selected(node: JsonObject, pod_spec: JsonObject) -> bool:
    labels = node["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in (pod_spec.get("nodeSelector") or {}).items())


def _room(node: JsonObject, used: Sequence[Mapping[str, float]]) -> Room:
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return Room(
        node["metadata"]["name"],
        quantity(allocatable.get("cpu")) - sum(one["cpu"] for one in used),
        quantity(allocatable.get("memory")) - sum(one["memory"] for one in used),
        int(quantity(allocatable.get("pods") or 110)) - len(used),
    )


def unplaced(rooms: Sequence[Room], needs: Sequence[Mapping[str, float]]) -> int:
    """Give how many of these pods find no place when the largest go first."""
    left, missing = list(rooms), 0
    for need in sorted(needs, key=lambda one: (-one.get("memory", 0.0), -one.get("cpu", 0.0))):
        fitting = [room for room in left if room.holds(need)]
        if not fitting:
            missing += 1
            continue
        best = max(fitting, key=lambda room: (room.memory, room.cpu))
        left[left.index(best)] = best.without(need)
    return missing


def quota_objection(quotas: Sequence[JsonObject], added: Mapping[str, float]) -> str:
    """Give the quota that what is added would exceed; empty when none.

    Args:
        added: by the quota's own names, such as `requests.memory` and `pods`.
    """
    for one in quotas:
        status = one.get("status") or {}
        hard, used = status.get("hard") or {}, status.get("used") or {}
        for name, more in added.items():
            if more > 0 and name in hard and quantity(used.get(name)) + more > quantity(hard[name]):
                return f"the quota {one['metadata']['name']} allows {hard[name]} of {name}, {used.get(name)} are used"
    return ""


def added_pods(pod_spec: JsonObject, count: int) -> dict[str, float]:
    """Give what that many pods more take of a quota."""
    requests, limits = requests_of(pod_spec), _limits_of(pod_spec)
    found = {"pods": 1.0, "count/pods": 1.0, "cpu": requests["cpu"], "memory": requests["memory"]}
    found |= {f"requests.{name}": value for name, value in requests.items()}
    found |= {f"limits.{name}": value for name, value in limits.items()}
    return {name: value * count for name, value in found.items()}


def _limits_of(pod_spec: JsonObject) -> dict[str, float]:
    limits = [(one.get("resources") or {}).get("limits") or {} for one in pod_spec.get("containers") or []]
    return {name: sum(quantity(one.get(name)) for one in limits) for name in ("cpu", "memory")}


async def pods_objection(
    executor: KubernetesExecutor, ctx: ActionContext, namespace: str, pod_spec: JsonObject, count: int
) -> str:
    """Give why that many pods more may not run: the quota of the namespace, or the room of the nodes."""
    if count <= 0:
        return ""
    quotas = await executor.listed(ctx, path_of("ResourceQuota", namespace))
    reason = quota_objection(quotas, added_pods(pod_spec, count))
    if reason:
        return reason
    try:
        nodes, pods = await nodes_and_pods(executor, ctx)
    except ForbiddenError:
        return "the room of the nodes can't be read: nodes and pods of the whole cluster are needed"
    missing = unplaced(rooms_of(nodes, pods, pod_spec), [requests_of(pod_spec)] * count)
    return f"the nodes have no room for {missing} of {count} pods" if missing else ""


async def nodes_and_pods(executor: KubernetesExecutor, ctx: ActionContext) -> tuple[list[Json], list[Json]]:
    """Give all nodes, and all pods that have a node."""
    nodes = await executor.listed(ctx, path_of("Node"), most=_MAX_NODES)
    pods = await executor.listed(ctx, path_of("Pod"), most=_MAX_PODS)
    return nodes, [pod for pod in pods if pod["spec"].get("nodeName")]
