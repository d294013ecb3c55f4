"""What objects of Kubernetes are called and what their fields mean: plain functions over plain JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from oncall_agent.models import JsonObject

Json = dict[str, Any]
WORKLOADS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
_PLACES = {
    **{kind: ("apps/v1", plural) for kind, plural in WORKLOADS.items()},
    "ReplicaSet": ("apps/v1", "replicasets"),
    "ControllerRevision": ("apps/v1", "controllerrevisions"),
    "Job": ("batch/v1", "jobs"),
    "Pod": ("v1", "pods"),
    "Event": ("v1", "events"),
    "ConfigMap": ("v1", "configmaps"),
    "Namespace": ("v1", "namespaces"),
    "ResourceQuota": ("v1", "resourcequotas"),
    "Node": ("v1", "nodes"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
}
_UNITS = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
}
_UNITS |= {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", start=1)}


def api_version(kind: str) -> str:
    """Give the API version that this kind is asked for in."""
    return _PLACES[kind][0]


def path_of(kind: str, namespace: str = "", name: str = "", sub: str = "") -> str:
    """Give the path of an object, of a list (no name), or of a part of an object."""
    version, plural = _PLACES[kind]
    root = "/api" if "/" not in version else "/apis"
    parts = [root, version]
    if namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(plural)
    if name:
        parts.append(quote(name, safe=""))
    if sub:
        parts.append(sub)
    return "/".join(parts)


def quantity(text: object) -> float:
    """Give a quantity such as `500m` or `128Mi` as a number; 0 for nothing."""
    word = str(text or "0")
    digits = word.rstrip("numkKMGTPEi")
    unit = word[len(digits) :]
    try:
        return float(digits) * _UNITS[unit]
    except (ValueError, KeyError):
        return float(word) if _is_number(word) else 0.0


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def seconds_of(text: object) -> float:
    """Give a time of the API as seconds since the epoch; 0 for none."""
    if not isinstance(text, str) or not text:
        return 0.0
    return datetime.fromisoformat(text).timestamp()


def time_of(seconds: float) -> str:
    """Give seconds since the epoch as the API writes a time with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def selector_of(workload: JsonObject) -> str:
    """Give the label selector of a workload as a query takes it."""
    selector = workload["spec"].get("selector") or {}
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    parts += [_expression(one) for one in selector.get("matchExpressions") or []]
    return ",".join(parts)


def _expression(one: JsonObject) -> str:
    key, values = one["key"], ",".join(one.get("values") or [])
    texts: dict[str, str] = {
        "In": f"{key} in ({values})",
        "NotIn": f"{key} notin ({values})",
        "Exists": key,
        "DoesNotExist": f"!{key}",
    }
    return texts[str(one["operator"])]


def controller_of(item: JsonObject) -> JsonObject | None:
    """Give the owner that controls an object."""
    owners = item["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def owned_by(items: Iterable[Json], uids: Sequence[str]) -> list[Json]:
    """Give those that one of these objects controls."""
    return [one for one in items if (controller_of(one) or {}).get("uid") in uids]


def condition(item: JsonObject, kind: str) -> JsonObject:
    """Give one condition of an object's status; empty when it has none of this kind."""
    conditions = (item.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind), {})


def is_ready(item: JsonObject) -> bool:
    """Say whether a pod or a node is ready."""
    return condition(item, "Ready").get("status") == "True"


def is_finished(pod: JsonObject) -> bool:
    """Say whether a pod has ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def statuses_of(pod: JsonObject) -> list[Json]:
    """Give the states of a pod's containers, init containers first."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def restarts_of(pods: Iterable[JsonObject]) -> int:
    """Give how often containers were restarted, all together."""
    return sum(int(one.get("restartCount") or 0) for pod in pods for one in statuses_of(pod))


def trouble_of(pod: JsonObject) -> str:
    """Give why a pod is not well, in Kubernetes' own words; empty when it is."""
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for one in statuses_of(pod):
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return str(waiting["reason"])
    status = pod.get("status") or {}
    if status.get("reason"):
        return str(status["reason"])
    if condition(pod, "PodScheduled").get("status") == "False":
        return str(condition(pod, "PodScheduled").get("reason") or "Unschedulable")
    return "" if is_ready(pod) else f"NotReady ({status.get('phase', 'Unknown')})"


def was_oom_killed(pod: JsonObject, container: str) -> bool:
    """Say whether a container of the pod ran out of memory, now or the last time."""
    for one in statuses_of(pod):
        if one.get("name") == container:
            ends = [(one.get(when) or {}).get("terminated") or {} for when in ("state", "lastState")]
            if any(end.get("reason") == "OOMKilled" for end in ends):
                return True
    return False


def requests_of(pod_spec: JsonObject) -> dict[str, float]:
    """Give what a pod asks of a node: CPUs and bytes."""
    found = {}
    for name in ("cpu", "memory"):
        containers = sum(_request(one, name) for one in pod_spec.get("containers") or [])
        first = max((_request(one, name) for one in pod_spec.get("initContainers") or []), default=0.0)
        found[name] = max(containers, first) + quantity((pod_spec.get("overhead") or {}).get(name))
    return found


def _request(container: JsonObject, name: str) -> float:
    resources = container.get("resources") or {}
    return quantity((resources.get("requests") or {}).get(name) or (resources.get("limits") or {}).get(name))
