"""Who else writes an object: GitOps, an operator, an autoscaler. What is theirs is left to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actions.kubernetes_objects import controller_of
from actions.kubernetes_settings import KubernetesSettings
from oncall_agent.models import JsonObject

_ARGO = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance")
_FLUX = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")
_SUSPENDED = {
    "kustomize.toolkit.fluxcd.io/reconcile": "disabled",
    "kustomize.toolkit.fluxcd.io/ssa": "ignore",
    "helm.toolkit.fluxcd.io/driftDetection": "disabled",
}
_GITOPS_WRITERS = ("argocd", "kustomize-controller", "helm-controller", "flux")
_OPERATOR_ENDINGS = ("operator", "controller")
_MANAGED_BY = "app.kubernetes.io/managed-by"
REPLICAS, TEMPLATE = ("spec", "replicas"), ("spec", "template")
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ownership:
    """What an object says of who writes it.

    Attributes:
        gitops: `Argo CD` or `Flux` when one of them applies it, else empty.
        suspended: GitOps says on the object that it does not undo changes.
        operator: what owns it by reference or by label, else empty.
    """

    gitops: str = ""
    suspended: bool = False
    operator: str = ""

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence."""
        return asdict(self)


def ownership_of(item: JsonObject) -> Ownership:
    """Read the marks that GitOps tools and operators leave on what they write."""
    meta = item["metadata"]
    marks = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
    managed_by = str(marks.get(_MANAGED_BY, "")).lower()
    is_argo = any(mark in marks for mark in _ARGO) or "argo" in managed_by
    is_flux = any(mark in marks for mark in _FLUX) or "flux" in managed_by
    is_suspended = any(str(marks.get(key, "")).lower() == value for key, value in _SUSPENDED.items())
    return Ownership(
        gitops="Argo CD" if is_argo else "Flux" if is_flux else "",
        suspended=is_suspended,
        operator=_operator(item, managed_by),
    )


def _operator(item: JsonObject, managed_by: str) -> str:
    owner = controller_of(item)
    if owner is not None:
        return f"{owner.get('kind')} {owner.get('name')}"
    return managed_by if managed_by.endswith(_OPERATOR_ENDINGS) else ""


def drift(item: JsonObject, path: Path) -> str:
    """Give why a change of this field would be undone, or undo somebody's work; empty when it would not.

    A field that GitOps does not write (replicas under an autoscaler, say) is not drift: the server keeps
    account of who wrote which field.
    """
    owners = ownership_of(item)
    if owners.operator:
        return f"{owners.operator} owns it: what is changed here would be changed back"
    if not owners.gitops or owners.suspended:
        return ""
    if is_written_by_gitops(item, path):
        return f"{owners.gitops} applies it from git: change it there, or suspend it on the object"
    return ""


def is_written_by_gitops(item: JsonObject, path: Path) -> bool:
    """Say whether a GitOps tool wrote the field, or nobody is known to have."""
    writers = [one for one in item["metadata"].get("managedFields") or [] if _has(one.get("fieldsV1"), path)]
    names = [str(one.get("manager", "")).lower() for one in writers]
    return not names or any(name.startswith(_GITOPS_WRITERS) for name in names)


def _has(fields: Any, path: Path) -> bool:
    for word in path:
        fields = fields.get(f"f:{word}") if isinstance(fields, dict) else None
    return fields is not None


def protection(items: Sequence[JsonObject], settings: KubernetesSettings) -> str:
    """Give why one of these objects may not be touched at all; empty when all may."""
    for item in items:
        meta = item["metadata"]
        marks = {**(meta.get("annotations") or {}), **(meta.get("labels") or {})}
        if str(marks.get(settings.protected_label, "")).lower() == "true":
            return f"{item.get('kind', 'the object')} {meta['name']} is protected by its label"
    return ""


def namespace_objection(namespace: str, settings: KubernetesSettings) -> str:
    """Give why nothing in this namespace may be touched; empty when it may."""
    if namespace in settings.protected_namespaces:
        return f"the namespace {namespace} is protected"
    if settings.namespaces and namespace not in settings.namespaces:
        return f"the namespace {namespace} is not among those of backends.kubernetes"
    return ""
