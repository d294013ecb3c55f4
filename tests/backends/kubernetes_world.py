"""What a test does in a namespace of its own: make workloads, break them, look at them."""

import asyncio
import itertools
import json
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backends.kubernetes_control import Access

Json = dict[str, Any]
IDLE = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
CRASH = "exit 3"
MERGE = "application/merge-patch+json"
PLURALS = {
    "Deployment": "/apis/apps/v1/{}/deployments",
    "StatefulSet": "/apis/apps/v1/{}/statefulsets",
    "DaemonSet": "/apis/apps/v1/{}/daemonsets",
    "ReplicaSet": "/apis/apps/v1/{}/replicasets",
    "ControllerRevision": "/apis/apps/v1/{}/controllerrevisions",
    "Job": "/apis/batch/v1/{}/jobs",
    "Pod": "/api/v1/{}/pods",
    "ConfigMap": "/api/v1/{}/configmaps",
    "ServiceAccount": "/api/v1/{}/serviceaccounts",
    "ResourceQuota": "/api/v1/{}/resourcequotas",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/{}/horizontalpodautoscalers",
    "PodDisruptionBudget": "/apis/policy/v1/{}/poddisruptionbudgets",
    "Lease": "/apis/coordination.k8s.io/v1/{}/leases",
    "Role": "/apis/rbac.authorization.k8s.io/v1/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/{}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Node": "/api/v1/nodes",
    "Namespace": "/api/v1/namespaces",
}
_numbers = itertools.count(1)


@dataclass
class World:
    """One namespace, as the administrator sees it."""

    access: Access
    namespace: str
    image: str
    made: list[str] = field(default_factory=list)

    def path(self, kind: str, name: str = "", sub: str = "") -> str:
        """The path of an object or a list in this namespace."""
        base = PLURALS[kind].format(f"namespaces/{self.namespace}")
        return "/".join(part for part in (base, name, sub) if part)

    def get(self, kind: str, name: str) -> Json:
        """An object; an empty one when there is none."""
        try:
            found: Json = self.access.request("GET", self.path(kind, name))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return {}
        return found

    def items(self, kind: str) -> list[Json]:
        """All objects of a kind in this namespace."""
        found: list[Json] = self.access.request("GET", self.path(kind))["items"]
        return found

    def create(
        self, kind: str, name: str, version: str, *, manager: str = "oncall-test", **more: Any
    ) -> Json:
        """Make an object as this writer; `metadata` adds to what is set here."""
        meta = {"name": name, **more.pop("metadata", {})}
        body = {"apiVersion": version, "kind": kind, "metadata": meta, **more}
        found: Json = self.access.request("POST", f"{self.path(kind)}?fieldManager={manager}", body)
        return found

    def patch(self, kind: str, name: str, body: Json, *, strategic: bool = False, sub: str = "") -> Json:
        """Change an object by a merge patch."""
        kind_of_patch = "application/strategic-merge-patch+json" if strategic else MERGE
        found: Json = self.access.request("PATCH", self.path(kind, name, sub), body, kind=kind_of_patch)
        return found

    def delete(self, kind: str, name: str, **options: Any) -> None:
        """Delete an object; nothing when it is gone."""
        try:
            self.access.request("DELETE", self.path(kind, name), options or None)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise

    def container(self, script: str = IDLE, **more: Any) -> Json:
        """A container of the tests' image that runs a shell script."""
        return {
            "name": "app",
            "image": self.image,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
            **more,
        }

    def template(self, name: str, script: str = IDLE, pod: Json | None = None, **container: Any) -> Json:
        """A pod template."""
        spec = {"terminationGracePeriodSeconds": 1, "containers": [self.container(script, **container)]}
        return {"metadata": {"labels": {"app": name}}, "spec": {**spec, **(pod or {})}}

    def workload(
        self,
        name: str = "web",
        *,
        kind: str = "Deployment",
        replicas: int = 1,
        script: str = IDLE,
        metadata: Json | None = None,
        spec: Json | None = None,
        pod: Json | None = None,
        manager: str = "oncall-test",
        **container: Any,
    ) -> Json:
        """Make a workload as this writer."""
        body: Json = {
            "selector": {"matchLabels": {"app": name}},
            "template": self.template(name, script, pod, **container),
            **({} if kind == "DaemonSet" else {"replicas": replicas}),
            **({"serviceName": name} if kind == "StatefulSet" else {}),
            **(spec or {}),
        }
        return self.create(kind, name, "apps/v1", manager=manager, metadata=metadata or {}, spec=body)

    def set_script(self, name: str, script: str, *, kind: str = "Deployment", **container: Any) -> None:
        """Roll out another script."""
        template = {"spec": {"containers": [{"name": "app", "command": ["sh", "-c", script], **container}]}}
        self.patch(kind, name, {"spec": {"template": template}}, strategic=True)

    def pods(self, name: str = "web") -> list[Json]:
        """The pods of a workload, also those that end."""
        return [pod for pod in self.items("Pod") if pod["metadata"]["labels"].get("app") == name]

    def budget(self, name: str = "web", **spec: Any) -> None:
        """Make a disruption budget for a workload's pods."""
        spec = {"selector": {"matchLabels": {"app": name}}, **spec}
        self.create("PodDisruptionBudget", f"{name}-{next(_numbers)}", "policy/v1", spec=spec)

    def autoscaler(self, name: str = "web", *, low: int, high: int, metadata: Json | None = None) -> None:
        """Make an autoscaler for a Deployment."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        cpu = {
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
        }
        spec = {"scaleTargetRef": target, "minReplicas": low, "maxReplicas": high, "metrics": [cpu]}
        self.create("HorizontalPodAutoscaler", name, "autoscaling/v2", metadata=metadata or {}, spec=spec)

    def is_empty(self, node: str) -> bool:
        """True when no pod of any namespace is on the node."""
        query = f"?fieldSelector=spec.nodeName={node}"
        return not self.access.request("GET", f"/api/v1/pods{query}")["items"]

    async def until(self, condition: Callable[[], Any], *, seconds: float = 30.0) -> Any:
        """Poll until something is there or true; give it."""
        async with asyncio.timeout(seconds):
            while not (found := await asyncio.to_thread(condition)):
                await asyncio.sleep(0.01)
        return found

    async def until_ready(self, name: str = "web", *, kind: str = "Deployment", count: int = 1) -> None:
        """Wait until so many pods of the present revision are ready, and none else is there."""

        def is_ready() -> bool:
            found = self.get(kind, name)
            status = found.get("status", {})
            seen = status.get("observedGeneration") == found["metadata"]["generation"]
            ready = status.get("numberAvailable" if kind == "DaemonSet" else "availableReplicas", 0)
            updated = status.get("updatedNumberScheduled" if kind == "DaemonSet" else "updatedReplicas", 0)
            total = status.get("currentNumberScheduled" if kind == "DaemonSet" else "replicas", 0)
            return bool(seen and ready == updated == total == count)

        await self.until(is_ready)

    def close(self) -> None:
        """Delete the namespace; objects that wait for a finalizer of a test lose it."""
        for pod in self.items("Pod"):
            if pod["metadata"].get("finalizers"):
                self.patch("Pod", pod["metadata"]["name"], {"metadata": {"finalizers": None}})
        self.access.request("DELETE", f"/api/v1/namespaces/{self.namespace}", {"gracePeriodSeconds": 0})

    def __repr__(self) -> str:
        return json.dumps({"namespace": self.namespace})
