"""A manager of a swarm in memory, at the border of the library docker: it stands where `docker.APIClient` stands.

Updates are carried out at once. Needs the library itself only to raise its own errors.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from oncall_agent.contract import Clock
from oncall_agent.testing.docker import conflict, not_found

_HOLD_SECONDS = 5.0
_GIB = 1_073_741_824


@dataclass
class FakeNode:
    """One node; set its fields to make it sick."""

    name: str
    role: str = "worker"
    availability: str = "active"
    is_leader: bool = False
    state: str = "ready"
    version: int = 1
    changed_at: float = 0.0
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def takes_tasks(self) -> bool:
        """Whether tasks are placed there."""
        return self.state == "ready" and self.availability == "active"


@dataclass
class FakeService:
    """One service.

    Attributes:
        bad_image: tasks of this image crash.
        needed_bytes: tasks with a lower memory limit are killed.
        most: so many tasks have a place at all.
        bound_to: the only node that its tasks may run on; empty for any.
        missing: so many tasks died and are not replaced until the next update.
    """

    name: str
    spec: dict[str, Any]
    previous: dict[str, Any] | None = None
    version: int = 1
    update_state: str = ""
    update_started: float = 0.0
    changed_at: float = 0.0
    bad_image: str = "bad"
    needed_bytes: int = 0
    most: int = 100
    bound_to: str = ""
    missing: int = 0

    @property
    def replicas(self) -> int:
        """How many tasks ought to run."""
        return int(self.spec["Mode"]["Replicated"]["Replicas"])


def service_spec(
    name: str, *, replicas: int = 2, image: str = "web:1", memory: int = 32 << 20, env: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Give the specification of a service, every field set that an action changes."""
    return {
        "Name": name,
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {"Image": image, "Env": list(env)},
            "Resources": {"Limits": {"MemoryBytes": memory, "NanoCPUs": 500_000_000}},
            "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


class FakeSwarm:
    """Call it like the class `docker.APIClient`; `calls` holds what changed something, in order.

    Attributes:
        images: what the manager has.
        hold: while cleared, the manager does not answer (at most 5 s).
    """

    base_url, api_version, timeout = "http+fake://manager", "1.41", 10

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.nodes_by_name: dict[str, FakeNode] = {}
        self.services_by_name: dict[str, FakeService] = {}
        self.images: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, **_settings: Any) -> FakeSwarm:
        """Give itself, as the class would give a client."""
        return self

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def info(self) -> dict[str, Any]:
        """Say that it is a manager."""
        self._answer()
        now = _date(self.clock.now())
        return {"ServerVersion": "0-fake", "SystemTime": now, "Swarm": {"ControlAvailable": True}}

    def nodes(self) -> list[dict[str, Any]]:
        """List the nodes."""
        self._answer()
        return [_node(node) for node in self.nodes_by_name.values()]

    def update_node(self, node_id: str, version: int, node_spec: dict[str, Any]) -> bool:
        """Set availability and role."""
        self._answer()
        node = self._node(node_id)
        if version != node.version:
            raise conflict("update out of sequence")
        node.availability, node.role = node_spec["Availability"], node_spec["Role"]
        node.version, node.changed_at = node.version + 1, self.clock.now()
        self.calls.append(("update node", node.name))
        return True

    def remove_node(self, node_id: str, *, force: bool) -> None:
        """Forget a node that is down."""
        self._answer()
        node = self._node(node_id)
        if node.role == "manager" or (node.state != "down" and not force):
            raise conflict("the node is a manager, or not down")
        del self.nodes_by_name[node.name]
        self.calls.append(("remove node", node.name))

    def services(self) -> list[dict[str, Any]]:
        """List the services."""
        self._answer()
        return [_service(one) for one in self.services_by_name.values()]

    def inspect_service(self, name: str) -> dict[str, Any]:
        """Give a service."""
        self._answer()
        if name not in self.services_by_name:
            raise not_found("service")
        return _service(self.services_by_name[name])

    def service_logs(self, name: str, **_more: Any) -> list[bytes]:
        """Give one line."""
        self.inspect_service(name)
        return [b"serving\n"]

    def tasks(self, *, filters: dict[str, str]) -> list[dict[str, Any]]:
        """List tasks that ought to run."""
        self._answer()
        found = [task for service in self.services_by_name.values() for task in self._tasks(service)]
        return [
            task
            for task in found
            if filters.get("service", task["ServiceID"]) == task["ServiceID"]
            and filters.get("node", task["NodeID"]) == task["NodeID"]
        ]

    def inspect_image(self, reference: str) -> dict[str, Any]:
        """Give an image that the manager has."""
        self._answer()
        if reference not in self.images:
            raise not_found("image")
        return {"Id": reference}

    def post(self, url: str, *, params: dict[str, Any], json: dict[str, Any], timeout: float) -> None:
        """Take the one request that is sent as it is: the update of a service."""
        self._answer()
        service = self.services_by_name[url.rpartition("/services/")[2].removesuffix("/update")]
        if params["version"] != service.version:
            raise conflict("update out of sequence")
        is_rollback = params.get("rollback") == "previous"
        fresh = service.previous if is_rollback else json
        if fresh is None:
            raise conflict("no previous specification")
        service.previous, service.spec = service.spec, copy.deepcopy(fresh)
        service.version, service.missing = service.version + 1, 0
        service.update_state = "rollback_completed" if is_rollback else "completed"
        service.update_started = service.changed_at = self.clock.now()
        self.calls.append(("update service", service.name))

    def _raise_for_status(self, answer: None) -> None:
        """Do nothing: errors were raised already."""

    def _tasks(self, service: FakeService) -> list[dict[str, Any]]:
        places = [
            node.name
            for node in self.nodes_by_name.values()
            if node.takes_tasks and service.bound_to in ("", node.name)
        ]
        found = []
        for number in range(service.replicas):
            has_place = bool(places) and number < service.most
            node = places[number % len(places)] if has_place else ""
            state = _state(service) if has_place else "pending"
            if number < service.missing:
                state = "failed"
            found.append(_task(service, number, node, state))
        return found

    def _node(self, name: str) -> FakeNode:
        if name not in self.nodes_by_name:
            raise not_found("node")
        return self.nodes_by_name[name]

    def _answer(self) -> None:
        self.hold.wait(_HOLD_SECONDS)


def _state(service: FakeService) -> str:
    template = service.spec["TaskTemplate"]
    is_starved = template["Resources"]["Limits"]["MemoryBytes"] < service.needed_bytes
    return "failed" if is_starved or template["ContainerSpec"]["Image"] == service.bad_image else "running"


def _task(service: FakeService, number: int, node: str, state: str) -> dict[str, Any]:
    return {
        "ID": f"{service.name}-{service.version}-{number}",
        "ServiceID": service.name,
        "NodeID": node,
        "Status": {"State": state, "Err": "" if state == "running" else "task: non-zero exit (1)"},
        "Spec": copy.deepcopy(service.spec["TaskTemplate"]),
    }


def _service(service: FakeService) -> dict[str, Any]:
    update = {"State": service.update_state, "StartedAt": _date(service.update_started)}
    return copy.deepcopy(
        {
            "ID": service.name,
            "Version": {"Index": service.version},
            "Spec": service.spec,
            "PreviousSpec": service.previous,
            "UpdatedAt": _date(service.changed_at),
            "UpdateStatus": update if service.update_state else None,
        }
    )


def _node(node: FakeNode) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ID": node.name,
        "Version": {"Index": node.version},
        "UpdatedAt": _date(node.changed_at),
        "Spec": {"Role": node.role, "Availability": node.availability, "Labels": dict(node.labels)},
        "Status": {"State": node.state},
        "Description": {"Hostname": node.name, "Resources": {"NanoCPUs": 2 * 10**9, "MemoryBytes": _GIB}},
    }
    if node.role == "manager":
        is_reachable = node.state == "ready"
        found["ManagerStatus"] = {
            "Reachability": "reachable" if is_reachable else "unreachable",
            "Leader": node.is_leader,
        }
    return found


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
