"""Which pods hang, why, and whether it is safe to remove them: plain functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actions.kubernetes_objects import (
    condition,
    controller_of,
    is_finished,
    is_ready,
    seconds_of,
    statuses_of,
)
from actions.kubernetes_settings import KubernetesSettings
from oncall_agent.models import JsonObject

_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


@dataclass(frozen=True, slots=True)
class Hanging:
    """A pod that is stuck.

    Attributes:
        objection: why it may not be removed; empty when it may.
        needs_delete: a DELETE is to be sent; else taking off the finalizers is enough.
        by_force: its node will not say that it has ended.
    """

    name: str
    uid: str
    why: str
    finalizers: tuple[str, ...] = ()
    objection: str = ""
    needs_delete: bool = True
    by_force: bool = False

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence."""
        return {"name": self.name, "uid": self.uid, "why": self.why, "finalizers": list(self.finalizers)}


def hanging_of(
    pod: JsonObject,
    nodes: Mapping[str, JsonObject],
    now: float,
    older_than_seconds: float,
    settings: KubernetesSettings,
) -> Hanging | None:
    """Give what is stuck about a pod; None when nothing is."""
    meta = pod["metadata"]
    # The time of deletion is when the grace period ends.
    deleting = seconds_of(meta.get("deletionTimestamp"))
    if deleting and now - deleting >= older_than_seconds:
        return _terminating(pod, nodes, settings)
    if not deleting and is_finished(pod) and (pod.get("status") or {}).get("phase") == "Failed":
        ended = seconds_of(condition(pod, "Ready").get("lastTransitionTime")) or seconds_of(
            meta.get("creationTimestamp")
        )
        reason = str((pod.get("status") or {}).get("reason") or "Failed")
        if now - ended >= older_than_seconds:
            return Hanging(meta["name"], meta["uid"], reason, objection=_ownerless(pod))
    return None


def _terminating(pod: JsonObject, nodes: Mapping[str, JsonObject], settings: KubernetesSettings) -> Hanging:
    meta, finalizers = pod["metadata"], tuple(pod["metadata"].get("finalizers") or ())
    unlisted = [one for one in finalizers if one not in settings.removable_finalizers]
    node = nodes.get(pod["spec"].get("nodeName", ""))
    is_over = all((one.get("state") or {}).get("terminated") for one in statuses_of(pod))
    objection = _ownerless(pod)
    if unlisted:
        objection = (
            f"{meta['name']} waits for the finalizer {unlisted[0]}, which is not among removable_finalizers"
        )
    elif not is_over and not objection:
        objection = _running_objection(pod, node)
    return Hanging(
        meta["name"],
        meta["uid"],
        "Terminating",
        finalizers,
        objection,
        needs_delete=not is_over,
        by_force=not is_over,
    )


def _running_objection(pod: JsonObject, node: JsonObject | None) -> str:
    name = pod["metadata"]["name"]
    if node is None or _is_out_of_service(node):
        return ""
    if is_ready(node):
        return f"the containers of {name} still run on a node that is ready"
    owner = controller_of(pod) or {}
    if owner.get("kind") == "StatefulSet":
        # Two pods of one identity might run: only a person can say that the node is off.
        return f"{name} belongs to a StatefulSet and its node may still run it"
    return ""


def _ownerless(pod: JsonObject) -> str:
    return "" if controller_of(pod) else f"{pod['metadata']['name']} has no controller that replaces it"


def _is_out_of_service(node: JsonObject) -> bool:
    return any(taint.get("key") == _OUT_OF_SERVICE for taint in node["spec"].get("taints") or [])
