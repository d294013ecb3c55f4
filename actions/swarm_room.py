"""Where a swarm could place tasks: constraints, reservations, and what is free on each node. Pure.

Cautious: a constraint that is not understood counts as not met.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actions.swarm_state import Node, Service, Task
from oncall_agent.models import JsonObject

_CONSTRAINT = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*(==|!=)\s*(.*?)\s*")
_PLENTY = 10_000


@dataclass(slots=True)
class Room:
    """What is free on one node."""

    node: Node
    memory: int
    cpus: int

    def fits(self, memory: int, cpus: int) -> int:
        """Say how many tasks with these reservations it could take."""
        counts = [self.memory // memory] if memory else []
        counts += [self.cpus // cpus] if cpus else []
        return max(0, min([_PLENTY, *counts]))

    def take(self, memory: int, cpus: int) -> None:
        """Reserve for one task."""
        self.memory, self.cpus = self.memory - memory, self.cpus - cpus


def reservation(template: JsonObject) -> tuple[int, int]:
    """Give the memory (bytes) and CPU (billionths) that one task reserves."""
    found = (template.get("Resources") or {}).get("Reservations") or {}
    return int(found.get("MemoryBytes") or 0), int(found.get("NanoCPUs") or 0)


def rooms(nodes: Iterable[Node], tasks: Iterable[Task]) -> dict[str, Room]:
    """Give what is free on every node that takes tasks."""
    found = {node.id: Room(node, node.memory, node.cpus) for node in nodes if node.takes_tasks}
    for task in tasks:
        if task.node in found:
            found[task.node].take(*reservation(task.spec))
    return found


def could_add(service: Service, nodes: Sequence[Node], tasks: Sequence[Task]) -> int:
    """Say how many more tasks of a service the swarm could place now."""
    placement = service.template.get("Placement") or {}
    most = int(placement.get("MaxReplicas") or 0)
    there = Counter(task.node for task in tasks if task.service == service.id)
    memory, cpus = reservation(service.template)
    total = 0
    for room in rooms(nodes, tasks).values():
        if meets(room.node, placement.get("Constraints") or ()):
            fitting = room.fits(memory, cpus)
            total += min(fitting, max(0, most - there[room.node.id])) if most else fitting
    return total


def stranded(node: Node, services: Sequence[Service], nodes: Sequence[Node], tasks: Sequence[Task]) -> str:
    """Give the name of a service whose task on this node no other node could take; empty when all could.

    Tasks are placed one by one, largest memory first; those of services with one on every node just end.
    """
    by_id = {service.id: service for service in services}
    others = rooms([one for one in nodes if one.id != node.id], tasks)
    there = Counter((task.service, task.node) for task in tasks)
    moving = [task for task in tasks if task.node == node.id and task.service in by_id]
    for task in sorted(moving, key=lambda one: reservation(one.spec), reverse=True):
        service = by_id[task.service]
        if service.replicas is None:
            continue
        room = _place(service, others, there)
        if room is None:
            return service.name
        room.take(*reservation(service.template))
        there[service.id, room.node.id] += 1
    return ""


def _place(service: Service, others: dict[str, Room], there: Counter[tuple[str, str]]) -> Room | None:
    placement = service.template.get("Placement") or {}
    most = int(placement.get("MaxReplicas") or 0)
    for room in others.values():
        is_allowed = meets(room.node, placement.get("Constraints") or ())
        has_place = not most or there[service.id, room.node.id] < most
        if is_allowed and has_place and room.fits(*reservation(service.template)):
            return room
    return None


def meets(node: Node, constraints: Iterable[str]) -> bool:
    """Say whether a node meets every constraint."""
    return all(_meets(node, constraint) for constraint in constraints)


def _meets(node: Node, constraint: str) -> bool:
    matched = _CONSTRAINT.fullmatch(constraint)
    if matched is None:
        return False
    key, operator, wanted = matched.groups()
    value = _value(node, key)
    if value is None:
        return False
    return (value.lower() == wanted.lower()) is (operator == "==")


def _value(node: Node, key: str) -> str | None:
    plain = {
        "node.id": node.id,
        "node.hostname": node.hostname,
        "node.role": node.role,
        "node.platform.os": node.platform[0],
        "node.platform.arch": node.platform[1],
    }
    if key.startswith("node.labels."):
        return node.labels.get(key.removeprefix("node.labels."), "")
    if key.startswith("engine.labels."):
        return node.engine_labels.get(key.removeprefix("engine.labels."), "")
    return plain.get(key)
