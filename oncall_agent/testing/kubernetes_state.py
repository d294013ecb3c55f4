"""What a fake cluster holds, and what its controllers make of a change: at once, in one pass."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from oncall_agent.contract import Clock

Json = dict[str, Any]
Key = tuple[str, str, str]
"""Plural, namespace (empty for what has none), name."""
KINDS = {
    "deployments": "Deployment",
    "replicasets": "ReplicaSet",
    "pods": "Pod",
    "nodes": "Node",
    "jobs": "Job",
    "leases": "Lease",
    "configmaps": "ConfigMap",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler",
}
_REVISION, _HISTORY = "deployment.kubernetes.io/revision", "deployment.kubernetes.io/revision-history"
_HASH = "pod-template-hash"
_MIB = 1_048_576


@dataclass
class ClusterState:
    """Objects by key; `changes` counts by plural what really changed.

    Attributes:
        sick: uids of pods that crash again and again.
        hungry_bytes: what every container needs; with a lower limit it is killed for memory.
        wanted: how many pods an autoscaler wants.
    """

    clock: Clock
    objects: dict[Key, Json] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    sick: set[str] = field(default_factory=set)
    hungry_bytes: int = 0
    wanted: int = 1
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def put(self, key: Key, item: Json) -> Json:
        """Make an object, as a server does: with a uid, a version and a time."""
        plural, namespace, name = key
        meta = {**(item.get("metadata") or {}), "name": name, "uid": f"uid-{next(self._numbers)}"}
        meta |= {
            "generation": 1,
            "resourceVersion": str(next(self._numbers)),
            "creationTimestamp": self.time(),
        }
        if namespace:
            meta["namespace"] = namespace
        self.objects[key] = {"kind": KINDS[plural], "spec": {}, "status": {}, **copy.deepcopy(item)}
        self.objects[key]["metadata"] = copy.deepcopy(meta)
        return self.objects[key]

    def replace(self, key: Key, item: Json) -> bool:
        """Write an object anew; False when that changes nothing."""
        old = self.objects[key]
        if item == old:
            return False
        if item.get("spec") != old.get("spec"):
            item["metadata"]["generation"] = int(old["metadata"]["generation"]) + 1
        item["metadata"]["resourceVersion"] = str(next(self._numbers))
        self.objects[key] = item
        self.changes[key[0]] += 1
        return True

    def of(self, plural: str, namespace: str = "") -> list[Json]:
        """Give all objects of a kind, of one namespace or of all."""
        return [
            item
            for (kind, where, _), item in sorted(self.objects.items())
            if kind == plural and namespace in ("", where)
        ]

    def time(self) -> str:
        """Give the present as the API writes it."""
        return datetime.fromtimestamp(self.clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def settle(self) -> None:
        """Let every controller do its work."""
        for hpa in self.of("horizontalpodautoscalers"):
            self._autoscale(hpa)
        for deployment in self.of("deployments"):
            self._roll(deployment)

    def _autoscale(self, hpa: Json) -> None:
        spec, meta = hpa["spec"], hpa["metadata"]
        target = self.objects[("deployments", meta["namespace"], spec["scaleTargetRef"]["name"])]
        target["spec"]["replicas"] = max(spec["minReplicas"], min(self.wanted, spec["maxReplicas"]))

    def _roll(self, deployment: Json) -> None:
        meta, wanted = deployment["metadata"], int(deployment["spec"]["replicas"])
        current = self._replica_set(deployment)
        owned = [pod for pod in self.of("pods", meta["namespace"]) if _is_of(pod, meta["name"])]
        for pod in owned:
            if _owner_uid(pod) != current["metadata"]["uid"]:
                self._remove(pod)
        kept = [pod for pod in owned if _owner_uid(pod) == current["metadata"]["uid"]]
        for pod in kept[wanted:]:
            self._remove(pod)
        kept = kept[:wanted] + [self._pod(deployment, current) for _ in range(wanted - len(kept))]
        for pod in kept:
            pod["status"] = self._status(pod)
        ready = sum(not self._ails(pod) for pod in kept)
        counts = {"replicas": wanted, "updatedReplicas": wanted, "readyReplicas": ready}
        deployment["status"] = {
            **counts,
            "availableReplicas": ready,
            "observedGeneration": meta["generation"],
        }

    def _remove(self, pod: Json) -> None:
        self.objects.pop(("pods", pod["metadata"]["namespace"], pod["metadata"]["name"]), None)

    def _replica_set(self, deployment: Json) -> Json:
        meta, template = deployment["metadata"], deployment["spec"]["template"]
        sets = [one for one in self.of("replicasets", meta["namespace"]) if _is_of(one, meta["name"])]
        newest = max((_revision(one) for one in sets), default=0)
        for one in sets:
            if _plain(one["spec"]["template"]) == template:
                if _revision(one) < newest:
                    one["metadata"]["annotations"] |= {
                        _REVISION: str(newest + 1),
                        _HISTORY: str(_revision(one)),
                    }
                return one
        name = f"{meta['name']}-{next(self._numbers)}"
        kept = copy.deepcopy(template)
        kept["metadata"]["labels"][_HASH] = name
        about = {
            "annotations": {_REVISION: str(newest + 1)},
            "labels": kept["metadata"]["labels"],
            "ownerReferences": [_owner(deployment)],
        }
        return self.put(
            ("replicasets", meta["namespace"], name), {"metadata": about, "spec": {"template": kept}}
        )

    def _pod(self, deployment: Json, owner: Json) -> Json:
        meta, template = deployment["metadata"], owner["spec"]["template"]
        free = [one for one in self.of("nodes") if not one["spec"].get("unschedulable")]
        about = {"labels": template["metadata"]["labels"], "ownerReferences": [_owner(owner)]}
        spec = {**template["spec"], "nodeName": free[0]["metadata"]["name"] if free else ""}
        name = f"{owner['metadata']['name']}-{next(self._numbers)}"
        return self.put(("pods", meta["namespace"], name), {"metadata": about, "spec": spec})

    def _ails(self, pod: Json) -> str:
        container = pod["spec"]["containers"][0]
        limit = str(container["resources"]["limits"]["memory"])
        if int(limit.removesuffix("Mi")) * _MIB < self.hungry_bytes:
            return "OOMKilled"
        is_bad = "exit 3" in container["command"]
        return "Error" if is_bad or pod["metadata"]["uid"] in self.sick else ""

    def _status(self, pod: Json) -> Json:
        ails, name = self._ails(pod), pod["spec"]["containers"][0]["name"]
        state: Json = {"waiting": {"reason": "CrashLoopBackOff"}} if ails else {"running": {}}
        last = {"terminated": {"reason": ails, "exitCode": 137}} if ails else {}
        one = {"name": name, "restartCount": 3 if ails else 0, "state": state, "lastState": last}
        ready = {"type": "Ready", "status": "False" if ails else "True"}
        return {"phase": "Running", "conditions": [ready], "containerStatuses": [one]}


def matches(item: Json, selector: str) -> bool:
    """Say whether an object has the labels `a=b,c=d`."""
    labels = item["metadata"].get("labels") or {}
    pairs = (part.partition("=") for part in selector.split(",") if part)
    return all(labels.get(key) == value for key, _, value in pairs)


def merged(old: Any, change: Any) -> Any:
    """Give a value changed by a merge patch; lists of containers are merged by name, as a strategic one does."""
    if isinstance(change, list) and isinstance(old, list) and all("name" in one for one in [*old, *change]):
        changed = {one["name"]: one for one in change}
        return [merged(one, changed.pop(one["name"], {})) for one in old] + list(changed.values())
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    found = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


def _owner(item: Json) -> Json:
    meta = item["metadata"]
    return {"kind": item["kind"], "name": meta["name"], "uid": meta["uid"], "controller": True}


def _owner_uid(item: Json) -> str:
    owners: Iterable[Json] = item["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners), "")


def _is_of(item: Json, name: str) -> bool:
    return (item["metadata"].get("labels") or {}).get("app") == name


def _revision(item: Json) -> int:
    return int(item["metadata"]["annotations"][_REVISION])


def _plain(template: Json) -> Json:
    found = copy.deepcopy(template)
    found["metadata"]["labels"].pop(_HASH, None)
    return found
