"""The autoscaler that has the word over a workload's number of pods."""

from __future__ import annotations

from typing import Any

from actions.kubernetes_executor import KubernetesExecutor
from actions.kubernetes_objects import path_of
from actions.kubernetes_ownership import drift
from oncall_agent.contract import ActionContext
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_BOUNDS = (("spec", "minReplicas"), ("spec", "maxReplicas"))


async def autoscaler_of(
    executor: KubernetesExecutor, ctx: ActionContext, workload: JsonObject
) -> Json | None:
    """Give the HorizontalPodAutoscaler whose target the workload is; None without one."""
    meta = workload["metadata"]
    for one in await executor.listed(ctx, path_of("HorizontalPodAutoscaler", meta["namespace"])):
        target = one["spec"].get("scaleTargetRef") or {}
        if (target.get("kind"), target.get("name")) == (workload["kind"], meta["name"]):
            return one
    return None


def bounds_of(hpa: JsonObject) -> dict[str, int]:
    """Give the lowest and the highest number of pods."""
    spec = hpa["spec"]
    return {"min": int(spec.get("minReplicas") or 1), "max": int(spec["maxReplicas"])}


def hpa_objection(hpa: JsonObject) -> str:
    """Give who would set the autoscaler's bounds back (an operator such as KEDA, GitOps); empty when nobody."""
    return next((reason for path in _BOUNDS if (reason := drift(hpa, path))), "")
