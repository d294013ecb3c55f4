"""The rules of the kubernetes actions that need no cluster: who owns what, what hangs, what fits, what is granted."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from actions.kubernetes_capacity import Room, unplaced
from actions.kubernetes_grants import NEEDS, manifests
from actions.kubernetes_hanging import hanging_of
from actions.kubernetes_nodes import share_objection
from actions.kubernetes_objects import quantity
from actions.kubernetes_ownership import REPLICAS, TEMPLATE, drift
from actions.kubernetes_settings import KubernetesSettings
from actions.kubernetes_usage import largest_share, of_metrics, of_summary
from actions.kubernetes_workload import does_match

NOW = 1_700_000_000.0
HOUR_AGO = "2023-11-14T21:13:20Z"
OWNED = {"kind": "ReplicaSet", "name": "web-1", "uid": "u", "controller": True}
STATEFUL = {**OWNED, "kind": "StatefulSet"}
ARGO, FLUX = {"argocd.argoproj.io/instance": "shop"}, {"kustomize.toolkit.fluxcd.io/name": "shop"}


def workload(labels: dict[str, str], writer: str = "", *, owners: Any = (), **marks: str) -> dict[str, Any]:
    fields = [{"manager": writer, "fieldsV1": {"f:spec": {"f:template": {}}}}] if writer else []
    meta = {"name": "web", "labels": labels, "annotations": marks, "ownerReferences": list(owners)}
    return {"metadata": {**meta, "managedFields": fields}, "spec": {}}


@pytest.mark.parametrize(
    ("item", "path", "said"),
    [
        (workload({}), TEMPLATE, ""),
        (workload(ARGO), TEMPLATE, "Argo CD applies it"),
        (workload(ARGO, "argocd-controller"), TEMPLATE, "Argo CD applies it"),
        (workload(ARGO, "kubectl"), TEMPLATE, ""),
        (workload(ARGO, "argocd-controller"), REPLICAS, "Argo CD applies it"),
        (workload(FLUX, "kustomize-controller"), TEMPLATE, "Flux applies it"),
        (workload(FLUX, **{"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}), TEMPLATE, ""),
        (workload({}, owners=[{**OWNED, "kind": "Shop", "name": "s"}]), REPLICAS, "Shop s owns it"),
        (workload({"app.kubernetes.io/managed-by": "keda-operator"}), REPLICAS, "keda-operator owns it"),
        (workload({"app.kubernetes.io/managed-by": "Helm"}), REPLICAS, ""),
    ],
)
def test_what_somebody_else_writes_is_left_to_them(item: dict[str, Any], path: Any, said: str) -> None:
    assert drift(item, path).startswith(said)
    assert bool(drift(item, path)) is bool(said)


def node(*, ready: bool = True, **spec: Any) -> dict[str, Any]:
    state = {"type": "Ready", "status": "True" if ready else "False"}
    return {"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": [state]}}


def pod(owner: Any = OWNED, *, ended: bool = False, phase: str = "Running", **meta: Any) -> dict[str, Any]:
    states = [{"name": "c", "state": {"terminated": {"exitCode": 0}} if ended else {"running": {}}}]
    about = {"name": "web-1-a", "uid": "p", "ownerReferences": [owner] if owner else [], **meta}
    return {
        "metadata": about,
        "spec": {"nodeName": "n"},
        "status": {"phase": phase, "containerStatuses": states},
    }


OUT = {"key": "node.kubernetes.io/out-of-service"}
GOING = {"deletionTimestamp": HOUR_AGO}
KEPT = {**GOING, "finalizers": ["example.com/keep"]}


@pytest.mark.parametrize(
    ("given", "on", "objection", "by_force"),
    [
        (pod(**GOING), node(), "still run on a node that is ready", True),
        (pod(**GOING), node(ready=False), "", True),
        (pod(**GOING), None, "", True),
        (pod(STATEFUL, **GOING), node(ready=False), "its node may still run it", True),
        (pod(STATEFUL, **GOING), node(ready=False, taints=[OUT]), "", True),
        (pod(None, **GOING), node(ready=False), "has no controller", True),
        (pod(ended=True, **KEPT), node(), "", False),
        (
            pod(ended=True, **{**KEPT, "finalizers": ["other/one"]}),
            node(),
            "not among removable_finalizers",
            False,
        ),
        (pod(phase="Failed", creationTimestamp=HOUR_AGO), node(), "", False),
        (pod(None, phase="Failed", creationTimestamp=HOUR_AGO), node(), "has no controller", False),
    ],
)
def test_stuck_pod_is_removed_only_when_that_is_safe(
    given: Any, on: Any, objection: str, by_force: bool
) -> None:
    settings = KubernetesSettings(removable_finalizers=("example.com/keep",))
    found = hanging_of(given, {"n": on} if on else {}, NOW, 600.0, settings)
    assert found is not None
    assert objection in found.objection
    assert bool(found.objection) is bool(objection)
    assert found.by_force is by_force


def test_what_is_young_or_well_is_not_stuck() -> None:
    for given in (pod(), pod(**GOING), pod(phase="Failed", creationTimestamp=HOUR_AGO)):
        assert hanging_of(given, {"n": node()}, NOW, 7_200.0, KubernetesSettings()) is None


def nodes(states: str) -> list[dict[str, Any]]:
    """Give a node for each letter: x is cordoned, - is not ready."""
    found = [node(ready=state != "-", unschedulable=state == "x" or None) for state in states]
    for at, one in enumerate(found):
        one["metadata"]["name"] = f"n{at}"
    return found


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (".", "no other node takes pods"),
        (".x", "no other node takes pods"),
        ("..", ""),
        ("..x", "1 of 3 nodes are out, 1 may be"),
        ("..-", "1 of 3 nodes are out, 1 may be"),
        ("........", ""),
        (".......x", ""),
        ("......x-", "2 of 8 nodes are out, 2 may be"),
    ],
)
def test_only_a_share_of_the_nodes_is_out_at_once(there: str, said: str) -> None:
    assert share_objection(nodes(there), "n0", 0.25) == said


def test_pods_are_placed_largest_first() -> None:
    rooms = [Room("a", 2.0, 4.0, 10), Room("b", 1.0, 8.0, 1)]
    small, large = {"cpu": 0.5, "memory": 4.0}, {"cpu": 0.5, "memory": 8.0}
    assert unplaced(rooms, [small, large]) == 0
    assert unplaced(rooms, [small, large, small]) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("250m", 0.25), ("1Gi", 2.0**30), ("1.5", 1.5), ("2k", 2e3), (None, 0.0), ("1e3", 1e3)],
)
def test_quantity_is_read_as_kubernetes_writes_it(text: Any, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


def test_selector_matches_as_kubernetes_does() -> None:
    among = {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]}
    absent = {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}
    assert does_match(among, {"tier": "a"})
    assert not does_match(among, {})
    assert does_match(absent, {})
    assert does_match({}, {"tier": "a"})
    assert not does_match(None, {})


def test_largest_share_of_a_limit_is_read_from_both_sources() -> None:
    container = {"name": "c", "resources": {"limits": {"cpu": "200m", "memory": "100"}}}
    pods = [{"metadata": {"name": "web"}, "spec": {"containers": [container, {"name": "d"}]}}]
    metrics = {
        "items": [{"metadata": {"name": "web"}, "containers": [{"name": "c", "usage": {"cpu": "190m"}}]}]
    }
    used = [{"name": "c", "cpu": {"usageNanoCores": 50_000_000}, "memory": {"workingSetBytes": 80}}]
    summary = {"pods": [{"podRef": {"name": "web", "namespace": "shop"}, "containers": used}]}
    assert largest_share(pods, of_metrics(metrics), "cpu", "c") == pytest.approx(0.95)
    assert largest_share(pods, of_summary(summary, "shop"), "memory") == pytest.approx(0.8)
    assert largest_share(pods, of_summary(summary, "other"), "memory") is None


@pytest.mark.parametrize(
    "given",
    [
        {"host": "https://a", "kubeconfig": "/x"},
        {"token": "env:X"},
        {"host": "http://example.com"},
        {"namespaces": ["Not A Name"]},
        {"unknown": 1},
    ],
)
def test_settings_that_contradict_themselves_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="KubernetesSettings"):
        KubernetesSettings.model_validate(given)


def test_role_is_bound_only_where_targets_are() -> None:
    settings = KubernetesSettings(namespaces=("shop", "pay"), lease_namespace="ops")
    found = list(yaml.safe_load_all(manifests(["kubernetes.drain"], settings)))
    places = {
        (one["metadata"]["name"], one["metadata"].get("namespace", "")) for one in found if "roleRef" in one
    }
    narrow = {("oncall-agent", "shop"), ("oncall-agent", "pay"), ("oncall-agent-leases", "ops")}
    assert places == narrow | {("oncall-agent-cluster", "")}
    wide = next(one for one in found if one["metadata"]["name"] == "oncall-agent-cluster" and "rules" in one)
    assert {verb for rule in wide["rules"] for verb in rule["verbs"]} <= {"get", "list", "patch"}


@pytest.mark.parametrize("action", NEEDS)
def test_role_never_holds_a_wildcard_or_a_secret(action: str) -> None:
    text = manifests([action], KubernetesSettings())
    rules = [rule for one in yaml.safe_load_all(text) for rule in one.get("rules", [])]
    words = {word for rule in rules for key in ("apiGroups", "resources", "verbs") for word in rule[key]}
    assert not words & {"*", "secrets", "pods/exec", "escalate", "bind", "impersonate"}
