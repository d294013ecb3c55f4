"""What a manager says of services, tasks and nodes, as values; and what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actions.docker_time import seconds_of
from oncall_agent.contract import Check
from oncall_agent.models import JsonObject

CHANGING = ("updating", "rollback_started")
HALTED = ("paused", "rollback_paused")


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    Attributes:
        version: what the next change has to name.
        replicas: how many tasks ought to run; None for a service with one on every node.
        update_state: of its last update; empty when there was none.
        previous: the specification before the last change, if the swarm keeps it.
    """

    id: str
    name: str
    version: int
    spec: JsonObject
    previous: JsonObject | None
    replicas: int | None
    update_state: str
    update_message: str
    update_started: float
    changed_at: float
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def template(self) -> JsonObject:
        """What its tasks are made from."""
        found: JsonObject = self.spec.get("TaskTemplate") or {}
        return found

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence, without the specification: that may hold secrets."""
        return {
            "service": self.name,
            "replicas": self.replicas,
            "update": self.update_state,
            "update_message": self.update_message[:200],
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a service."""

    id: str
    service: str
    node: str
    state: str
    error: str
    since: float
    spec: JsonObject = field(default_factory=dict)
    container: str = ""

    def as_fact(self) -> dict[str, Any]:
        """Give it as evidence."""
        return {"id": self.id[:12], "node": self.node[:12], "state": self.state, "error": self.error[:200]}


@dataclass(frozen=True, slots=True)
class Node:
    """One node."""

    id: str
    hostname: str
    version: int
    spec: JsonObject
    role: str
    availability: str
    state: str
    changed_at: float
    cpus: int
    memory: int
    labels: Mapping[str, str]
    engine_labels: Mapping[str, str]
    platform: tuple[str, str]
    reachability: str = ""
    is_leader: bool = False

    @property
    def takes_tasks(self) -> bool:
        """Whether the swarm places tasks there."""
        return self.state == "ready" and self.availability == "active"

    def as_fact(self) -> dict[str, Any]:
        """Give it as evidence."""
        return {
            "id": self.id[:12],
            "hostname": self.hostname,
            "role": self.role,
            "availability": self.availability,
            "state": self.state,
        }


def service_of(found: JsonObject) -> Service:
    """Give a service from the manager's answer."""
    spec = found["Spec"]
    status = found.get("UpdateStatus") or {}
    replicated = (spec.get("Mode") or {}).get("Replicated")
    return Service(
        id=found["ID"],
        name=str(spec.get("Name", "")),
        version=int(found["Version"]["Index"]),
        spec=spec,
        previous=found.get("PreviousSpec"),
        replicas=None if replicated is None else int(replicated.get("Replicas") or 0),
        update_state=str(status.get("State") or ""),
        update_message=str(status.get("Message") or ""),
        update_started=seconds_of(str(status.get("StartedAt") or "")),
        changed_at=seconds_of(str(found.get("UpdatedAt") or "")),
        labels=dict(spec.get("Labels") or {}),
    )


def task_of(found: JsonObject) -> Task:
    """Give a task from the manager's answer."""
    status = found.get("Status") or {}
    return Task(
        id=found["ID"],
        service=str(found.get("ServiceID") or ""),
        node=str(found.get("NodeID") or ""),
        state=str(status.get("State") or ""),
        error=str(status.get("Err") or ""),
        since=seconds_of(str(status.get("Timestamp") or "")),
        spec=found.get("Spec") or {},
        container=str((status.get("ContainerStatus") or {}).get("ContainerID") or ""),
    )


def node_of(found: JsonObject) -> Node:
    """Give a node from the manager's answer."""
    spec, told = found["Spec"], found.get("Description") or {}
    platform, resources = told.get("Platform") or {}, told.get("Resources") or {}
    manager = found.get("ManagerStatus") or {}
    return Node(
        id=found["ID"],
        hostname=str(told.get("Hostname") or ""),
        version=int(found["Version"]["Index"]),
        spec=spec,
        role=str(spec.get("Role") or ""),
        availability=str(spec.get("Availability") or ""),
        state=str((found.get("Status") or {}).get("State") or ""),
        changed_at=seconds_of(str(found.get("UpdatedAt") or "")),
        cpus=int(resources.get("NanoCPUs") or 0),
        memory=int(resources.get("MemoryBytes") or 0),
        labels=dict(spec.get("Labels") or {}),
        engine_labels=dict((told.get("Engine") or {}).get("Labels") or {}),
        platform=(str(platform.get("OS") or ""), str(platform.get("Architecture") or "")),
        reachability=str(manager.get("Reachability") or ""),
        is_leader=bool(manager.get("Leader")),
    )


def quorum_complaint(nodes: Iterable[Node], *, without: str = "") -> str:
    """Say why the managers are no majority, with one of them left out; empty when they are.

    Only a node with a reachability has a vote: one that is just becoming a manager has none yet.
    """
    managers = [node for node in nodes if node.reachability and node.id != without]
    reachable = sum(node.reachability == "reachable" for node in managers)
    if reachable * 2 > len(managers):
        return ""
    return f"{reachable} of {len(managers)} managers are reachable: no quorum"


def judge(service: Service, tasks: Sequence[Task]) -> Check:
    """Say whether a service is well: no update under way or stuck, every task running on its specification.

    A task that runs has passed its health check, where there is one.
    """
    running = [task for task in tasks if task.state == "running"]
    wanted = len(tasks) if service.replicas is None else service.replicas
    facts = {**service.as_facts(), "running": len(running), "wanted": wanted}
    reason = ""
    if service.update_state in CHANGING:
        reason = f"its update is {service.update_state}"
    elif service.update_state in HALTED:
        reason = f"its update is {service.update_state}: {service.update_message}"[:300]
    elif len(running) != wanted:
        errors = sorted({task.error for task in tasks if task.error})
        reason = f"{len(running)} of {wanted} tasks run" + (f": {errors[0]}"[:200] if errors else "")
    elif any(_differs(task.spec, service.template) for task in running):
        reason = "some tasks still run on the specification before"
    return Check(ok=not reason, reason=reason, facts=facts)


def _differs(spec: JsonObject, template: JsonObject) -> bool:
    return _marks(spec) != _marks(template)


def _marks(spec: JsonObject) -> tuple[Any, ...]:
    limits = (spec.get("Resources") or {}).get("Limits") or {}
    return (
        (spec.get("ContainerSpec") or {}).get("Image"),
        int(spec.get("ForceUpdate") or 0),
        int(limits.get("MemoryBytes") or 0),
        int(limits.get("NanoCPUs") or 0),
    )
