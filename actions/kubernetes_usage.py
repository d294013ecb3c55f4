"""What pods use of their limits: from the metrics API, or from a node's kubelet where that may be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actions.kubernetes_executor import KubernetesExecutor
from actions.kubernetes_objects import quantity
from oncall_agent.contract import ActionContext, PermanentError, TransientError
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_METRICS = "/apis/metrics.k8s.io/v1beta1/namespaces"


@dataclass(frozen=True, slots=True)
class Used:
    """What one container uses now: CPUs and bytes."""

    cpu: float
    memory: float


async def cpu_share(
    executor: KubernetesExecutor, ctx: ActionContext, namespace: str, pods: Sequence[Json], container: str
) -> float | None:
    """Give the largest share of its CPU limit that a container uses in any of the pods; None when unknown."""
    try:
        answer = await executor.ask(ctx, "GET", f"{_METRICS}/{namespace}/pods", query={"limit": "500"})
    except (PermanentError, TransientError):
        return None
    return largest_share(pods, of_metrics(answer), "cpu", container)


def of_metrics(answer: JsonObject) -> dict[tuple[str, str], Used]:
    """Read an answer of the metrics API; keys are pod and container."""
    return {
        (item["metadata"]["name"], one["name"]): Used(
            quantity(one["usage"].get("cpu")), quantity(one["usage"].get("memory"))
        )
        for item in answer.get("items") or []
        for one in item.get("containers") or []
    }


def of_summary(answer: JsonObject, namespace: str) -> dict[tuple[str, str], Used]:
    """Read a kubelet's stats summary."""
    return {
        (item["podRef"]["name"], one["name"]): Used(
            float((one.get("cpu") or {}).get("usageNanoCores") or 0.0) / 1e9,
            float((one.get("memory") or {}).get("workingSetBytes") or 0.0),
        )
        for item in answer.get("pods") or []
        if (item.get("podRef") or {}).get("namespace") == namespace
        for one in item.get("containers") or []
    }


def largest_share(
    pods: Sequence[JsonObject], used: Mapping[tuple[str, str], Used], name: str, container: str = ""
) -> float | None:
    """Give the largest share of a limit that is used; None when no limit or no use is known."""
    shares = []
    for pod in pods:
        for one in pod["spec"]["containers"]:
            limit = quantity(((one.get("resources") or {}).get("limits") or {}).get(name))
            now = used.get((pod["metadata"]["name"], one["name"]))
            if limit and now is not None and container in ("", one["name"]):
                shares.append((now.cpu if name == "cpu" else now.memory) / limit)
    return max(shares, default=None)
