"""The least-privilege role: which verbs on which resources each action needs, and the YAML that grants them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import yaml

from actions.kubernetes_settings import KubernetesSettings

ROLE = "oncall-agent"
_PREFIX = "kubernetes."


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """One verb on one resource; `everywhere` when it is not asked for in a namespace."""

    group: str
    resource: str
    verb: str
    everywhere: bool = False

    @property
    def name(self) -> str:
        """In Kubernetes' own words, such as `patch deployments.apps/scale`."""
        plural, _, sub = self.resource.partition("/")
        full = f"{plural}.{self.group}" if self.group else plural
        return f"{self.verb} {full}{f'/{sub}' if sub else ''}"


def _needs(group: str, resources: str, verbs: str, *, everywhere: bool = False) -> frozenset[Need]:
    return frozenset(
        Need(group, resource, verb, everywhere) for resource in resources.split() for verb in verbs.split()
    )


_LEASE = _needs("coordination.k8s.io", "leases", "get create update patch")
_READ = (
    _needs("apps", "deployments statefulsets daemonsets", "get")
    | _needs("apps", "replicasets", "list")
    | _needs("", "pods", "list")
    | _needs("", "pods/log", "get")
    | _needs("", "events", "list")
)
_METRICS = _needs("metrics.k8s.io", "pods", "list")
_ROOM = _needs("", "nodes pods", "list", everywhere=True) | _needs("", "resourcequotas", "list")
_BUDGETS = _needs("policy", "poddisruptionbudgets", "list")
_PATCH = _needs("apps", "deployments statefulsets daemonsets", "patch")
_WORKLOAD = _READ | _LEASE | _METRICS
_HPA = _needs("autoscaling", "horizontalpodautoscalers", "get list patch")
_NODE = (
    _needs("", "nodes", "get list patch", everywhere=True)
    | _needs("", "pods", "list", everywhere=True)
    | _LEASE
)
_SCALE = _WORKLOAD | _ROOM | _BUDGETS | _HPA | _needs("apps", "deployments/scale statefulsets/scale", "patch")
NEEDS: dict[str, frozenset[Need]] = {
    "kubernetes.rollout_restart": _WORKLOAD | _PATCH | _BUDGETS,
    "kubernetes.rollout_undo": _WORKLOAD | _PATCH | _needs("apps", "controllerrevisions", "list"),
    "kubernetes.delete_pod": _WORKLOAD | _needs("", "pods", "get") | _needs("", "pods/eviction", "create"),
    "kubernetes.delete_stuck": _WORKLOAD
    | _needs("", "pods", "patch delete")
    | _needs("batch", "jobs", "get create delete")
    | _needs("", "configmaps", "get create update")
    | _needs("", "nodes", "list", everywhere=True),
    "kubernetes.scale": _SCALE,
    "kubernetes.raise_hpa": _WORKLOAD | _ROOM | _HPA,
    "kubernetes.set_resources": _WORKLOAD | _PATCH | _ROOM,
    "kubernetes.cordon": _NODE,
    "kubernetes.uncordon": _NODE,
    "kubernetes.drain": _NODE
    | _needs("", "pods/eviction", "create")
    | _needs("apps", "replicasets statefulsets", "get")
    | _BUDGETS,
}
"""Action -> what it needs, with its diagnostics and the prober."""


def needed(actions: Iterable[str]) -> dict[Need, tuple[str, ...]]:
    """Give what these actions need, and which of them need it."""
    found: dict[Need, tuple[str, ...]] = {}
    for action in actions:
        for need in NEEDS.get(action, frozenset()):
            found[need] = (*found.get(need, ()), action)
    return dict(sorted(found.items()))


def manifests(actions: Sequence[str], settings: KubernetesSettings) -> str:
    """Give the account, the roles and their bindings as YAML.

    With `namespaces`, what is namespaced is bound in each of them and nowhere else; leases of nodes in their own.
    """
    needs = list(needed(actions))
    wide = [need for need in needs if need.everywhere or not settings.namespaces]
    narrow = [need for need in needs if need not in wide]
    namespace, _, name = settings.service_account.partition("/")
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace},
    }
    documents: list[object] = [account]
    if wide:
        documents += [
            _role("ClusterRole", f"{ROLE}-cluster", wide),
            _binding(f"{ROLE}-cluster", settings, ""),
        ]
    if narrow:
        documents.append(_role("ClusterRole", ROLE, narrow))
        documents += [_binding(ROLE, settings, one) for one in settings.namespaces]
    if narrow and _has_node_action(actions) and settings.lease_namespace not in settings.namespaces:
        lease = [need for need in needs if need in _LEASE]
        documents += [
            _role("ClusterRole", f"{ROLE}-leases", lease),
            _binding(f"{ROLE}-leases", settings, settings.lease_namespace),
        ]
    return "---\n".join(yaml.safe_dump(one, sort_keys=False) for one in documents)


def _has_node_action(actions: Iterable[str]) -> bool:
    return any(NEEDS.get(action, frozenset()) >= _NODE for action in actions)


def _role(kind: str, name: str, needs: Sequence[Need]) -> dict[str, object]:
    verbs: dict[tuple[str, str], list[str]] = {}
    for need in needs:
        found = verbs.setdefault((need.group, need.resource), [])
        if need.verb not in found:
            found.append(need.verb)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, resource), words in verbs.items():
        together.setdefault((group, tuple(sorted(words))), []).append(resource)
    rules = [
        {"apiGroups": [group], "resources": resources, "verbs": list(words)}
        for (group, words), resources in together.items()
    ]
    api = "rbac.authorization.k8s.io/v1"
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, "rules": rules}


def _binding(role: str, settings: KubernetesSettings, namespace: str) -> dict[str, object]:
    home, _, name = settings.service_account.partition("/")
    meta = {"name": role, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": meta,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": home}],
    }
