"""The prober that reads a workload's health: how many pods are ready, what ails the others, what they use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.kubernetes_api import Clusters, MissingError
from actions.kubernetes_objects import restarts_of, trouble_of
from actions.kubernetes_reader import Asking, Reader, place_of
from actions.kubernetes_usage import Used, largest_share, of_metrics, of_summary
from actions.kubernetes_workload import complaint, desired_of, ready_of
from oncall_agent.contract import (
    Clock,
    Params,
    PermanentError,
    Prober,
    Reading,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_METRICS = "/apis/metrics.k8s.io/v1beta1/namespaces"
_SICK = ("CrashLoopBackOff", "Error", "OOMKilled", "Unschedulable", "Evicted")
_SICK_PARTS = ("Image", "ErrImage", "CreateContainer", "RunContainer")
_MAX_NODES = 10


class KubernetesProbeParams(Params):
    """What counts as up, and what is read."""

    min_ready: float = Field(0.75, gt=0, le=1)
    """Share of the wanted pods that must be ready."""
    usage: bool = True
    """Also CPU and memory, from the metrics API where the cluster has it."""
    kubelet_stats: bool = False
    """Where it has not, from the nodes' kubelets; needs `nodes/proxy`, which is much to grant."""


@dataclass(frozen=True, slots=True)
class _Probe:
    target: Target
    clock: Clock
    deadline_at: float

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline_at - self.clock.monotonic())


class KubernetesProber(Prober):
    """Reads a workload; one that does not exist is down."""

    kind = "kubernetes"
    params = KubernetesProbeParams

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._reader = Reader(Clusters(settings))
        self._restarts: LRUCache[str, int] = LRUCache(4096)

    async def __aexit__(self, *_: object) -> None:
        await self._reader.clusters.close()

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Read the workload and its pods once."""
        ctx = _Probe(target, clock, clock.monotonic() + timeout_seconds)
        try:
            workload = await self._reader.ask(ctx, "GET", place_of(target).path())
            pods = await self._reader.pods(ctx, workload)
        except MissingError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        except PermanentError as error:
            raise TransientError(error.message) from error
        desired, ready, restarts = desired_of(workload), ready_of(workload), restarts_of(pods)
        reason = self._reason(workload, pods, params, restarts)
        facts = {"desired": desired, "ready": ready, "restarts": restarts, "reason": reason}
        used = await self._used(ctx, pods, params)
        cpu, memory = largest_share(pods, used, "cpu"), largest_share(pods, used, "memory")
        missing = max(0.0, 1.0 - ready / desired) if desired else 0.0
        return Reading(
            Signals(up=not reason, cpu=_bounded(cpu), memory=_bounded(memory), error_rate=missing), facts
        )

    def _reason(self, workload: Json, pods: list[Json], params: Any, restarts: int) -> str:
        uid, desired = workload["metadata"]["uid"], desired_of(workload)
        before = self._restarts.get(uid)
        self._restarts[uid] = restarts
        ails = next((word for pod in pods if is_sick(word := trouble_of(pod))), "")
        if ails:
            return f"a pod of it is {ails}"
        if before is not None and restarts > before:
            return "its containers keep restarting"
        if ready_of(workload) < desired * params.min_ready:
            return complaint(workload) or f"{ready_of(workload)} of {desired} pods are ready"
        return ""

    async def _used(self, ctx: Asking, pods: list[Json], params: Any) -> dict[tuple[str, str], Used]:
        namespace = place_of(ctx.target).namespace
        if not params.usage:
            return {}
        try:
            path = f"{_METRICS}/{namespace}/pods"
            return of_metrics(await self._reader.ask(ctx, "GET", path, query={"limit": "500"}))
        except (PermanentError, TransientError):
            return await self._from_kubelets(ctx, namespace, pods) if params.kubelet_stats else {}

    async def _from_kubelets(
        self, ctx: Asking, namespace: str, pods: list[Json]
    ) -> dict[tuple[str, str], Used]:
        names = sorted({pod["spec"].get("nodeName", "") for pod in pods} - {""})
        found: dict[tuple[str, str], Used] = {}
        for name in names[:_MAX_NODES]:
            try:
                answer = await self._reader.ask(ctx, "GET", f"/api/v1/nodes/{name}/proxy/stats/summary")
            except (PermanentError, TransientError):
                continue  # The pods themselves were read; that node's use stays unknown.
            found |= of_summary(answer, namespace)
        return found


def is_sick(trouble: str) -> bool:
    """Say whether what ails a pod is more than that it is not ready yet."""
    return trouble in _SICK or trouble.startswith(_SICK_PARTS)


def _bounded(share: float | None) -> float | None:
    return None if share is None else min(1.0, max(0.0, share))
