"""The revisions of a workload: replica sets of a Deployment, controller revisions of the others."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from actions.kubernetes_executor import KubernetesExecutor
from actions.kubernetes_objects import condition, owned_by, path_of, seconds_of, selector_of
from oncall_agent.contract import ActionContext
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_NUMBER = "deployment.kubernetes.io/revision"
_HISTORY = "deployment.kubernetes.io/revision-history"
_HASH = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision; the template may hold what nobody else should see, so only the name goes anywhere.

    Attributes:
        is_reused: it was left and came back, so its age is not that of the last change.
    """

    number: int
    name: str
    created_at: float
    is_reused: bool
    template: Json = field(repr=False)


async def revisions_of(
    executor: KubernetesExecutor, ctx: ActionContext, workload: JsonObject
) -> list[Revision]:
    """Give the revisions that are kept, the present one first."""
    meta = workload["metadata"]
    is_deployment = workload["kind"] == "Deployment"
    kind = "ReplicaSet" if is_deployment else "ControllerRevision"
    query = {"labelSelector": selector_of(workload)}
    items = owned_by(await executor.listed(ctx, path_of(kind, meta["namespace"]), query=query), [meta["uid"]])
    found = [_of_set(one) if is_deployment else _of_revision(one) for one in items]
    return sorted(found, key=lambda one: -one.number)


def changed_at(workload: JsonObject, current: Revision) -> float:
    """Give when the present revision was rolled out."""
    if not current.is_reused:
        return current.created_at
    return seconds_of(condition(workload, "Progressing").get("lastUpdateTime")) or current.created_at


def is_present(workload: JsonObject, revision: Revision) -> bool:
    """Say whether a revision's template is the one that the workload has now."""
    return _plain(workload["spec"]["template"]) == _plain(revision.template)


def _plain(template: JsonObject) -> Json:
    found = copy.deepcopy(dict(template))
    found["metadata"].pop("creationTimestamp", None)  # none, yet written by some versions
    return found


def template_patch(uid: str, revision: Revision) -> list[Json]:
    """Give the JSON patch that makes a revision's template the present one, on this very object only."""
    return [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "replace", "path": "/spec/template", "value": revision.template},
    ]


def _of_set(item: JsonObject) -> Revision:
    meta, annotations = item["metadata"], item["metadata"].get("annotations") or {}
    template = copy.deepcopy(item["spec"]["template"])
    template["metadata"].get("labels", {}).pop(_HASH, None)
    number = int(annotations.get(_NUMBER) or 0)
    return Revision(
        number,
        meta["name"],
        seconds_of(meta.get("creationTimestamp")),
        bool(annotations.get(_HISTORY)),
        template,
    )


def _of_revision(item: JsonObject) -> Revision:
    meta = item["metadata"]
    template = copy.deepcopy((item.get("data") or {}).get("spec", {}).get("template") or {})
    template.pop("$patch", None)
    number = int(item.get("revision") or 0)
    return Revision(
        number, meta["name"], seconds_of(meta.get("creationTimestamp")), is_reused=False, template=template
    )
