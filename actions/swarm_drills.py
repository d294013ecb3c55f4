"""Faults made on purpose on a small service of a drill's own, and on a node that the operator names.

There is none for removing a dead node: killing a node is nothing to do for practice.
"""

from __future__ import annotations

from typing import Any, ClassVar

from actions.docker_engine import Api
from actions.docker_scripts import CRASH, IDLE
from actions.swarm_drill import SwarmDrill
from actions.swarm_engine import NODE
from actions.swarm_state import Node, node_of
from oncall_agent.contract import Check, Drill, DrillSpec, PermanentError, Target, Trial

_TIGHT_BYTES = 32 * 1_048_576
_HUNGRY = f"head -c 40000000 /dev/zero | tail -c 40000000 > /dev/null || exit 137; {IDLE}"


class DeadTask(SwarmDrill):
    """A service one of whose tasks died and was not replaced."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="swarm.dead_task",
        action="swarm.force_update_service",
        scenario="service_crash_handling",
        summary="A task of a service of its own is killed, and the service's policy leaves it dead.",
        sandbox="named",
        sandbox_keys=("image",),
    )

    def shape(self, api: Api, body: dict[str, Any]) -> None:
        """Keep the tasks on this engine, which can kill them; nothing restarts them."""
        node = api.info()["Swarm"]["NodeID"]
        body["TaskTemplate"]["Placement"] = {"Constraints": [f"node.id=={node}"]}
        body["TaskTemplate"]["RestartPolicy"] = {"Condition": "none"}

    def break_it(self, api: Api) -> None:
        """Kill the container of one task."""
        api.kill(self.tasks(api)[0].container, "SIGKILL")


class FailingUpdate(SwarmDrill):
    """A service whose last change makes its tasks crash."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="swarm.failing_update",
        action="swarm.rollback_service",
        scenario="bad_rollout",
        summary="A service of its own is updated to a command that crashes.",
        sandbox="named",
        sandbox_keys=("image",),
    )

    def break_it(self, api: Api) -> None:
        """Update it to a command that crashes."""

        def crash(spec: dict[str, Any]) -> None:
            spec["TaskTemplate"]["ContainerSpec"]["Command"] = ["sh", "-c", CRASH]

        self.change(api, crash)


class UnschedulableReplicas(SwarmDrill):
    """A service with more replicas than any node may take."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="swarm.unschedulable_replicas",
        action="swarm.scale_service",
        scenario="unschedulable_replicas",
        summary="A service of its own is scaled beyond what its node may take.",
        sandbox="named",
        sandbox_keys=("image",),
    )

    def shape(self, api: Api, body: dict[str, Any]) -> None:
        """Allow two tasks, on one node."""
        node = api.info()["Swarm"]["NodeID"]
        body["TaskTemplate"]["Placement"] = {"Constraints": [f"node.id=={node}"], "MaxReplicas": 2}

    def break_it(self, api: Api) -> None:
        """Ask for a third."""

        def scale(spec: dict[str, Any]) -> None:
            spec["Mode"]["Replicated"]["Replicas"] = 3

        self.change(api, scale)

    def trial(self) -> Trial:
        """Ask for what has room."""
        given = super().trial()
        return Trial(given.target, {**given.params, "replicas": 2})


class OutOfMemory(SwarmDrill):
    """A service whose load needs more memory than its limit."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="swarm.out_of_memory",
        action="swarm.set_limits_or_image",
        scenario="high_memory_response",
        summary="A service of its own needs more memory than its limit and is killed for it.",
        sandbox="named",
        sandbox_keys=("image",),
    )
    replicas = 1

    def shape(self, api: Api, body: dict[str, Any]) -> None:
        """Give it little memory."""
        body["TaskTemplate"]["Resources"] = {"Limits": {"MemoryBytes": _TIGHT_BYTES}}

    def break_it(self, api: Api) -> None:
        """Give it a load that takes more."""

        def burden(spec: dict[str, Any]) -> None:
            spec["TaskTemplate"]["ContainerSpec"]["Command"] = ["sh", "-c", _HUNGRY]

        self.change(api, burden)

    def trial(self) -> Trial:
        """Ask for half as much again."""
        given = super().trial()
        return Trial(given.target, {**given.params, "memory_factor": 1.5})


class _NamedNode(SwarmDrill):
    """The operator names the node that may be drained for a moment."""

    def trial(self) -> Trial:
        """Work on the node."""
        name = str(self.sandbox["node"])
        return Trial(Target(name, NODE, address={"node": name}), {"stable_seconds": 1.0})

    def look_before(self, api: Api) -> None:
        """Refuse a node that is not there or does not take tasks."""
        if not self.node(api).takes_tasks:
            raise PermanentError("the node that is named takes no tasks now")

    def node(self, api: Api) -> Node:
        """Give the node. Blocking."""
        name = str(self.sandbox.get("node") or "")
        found = [node for node in map(node_of, api.nodes()) if name in (node.id, node.hostname)]
        if len(found) != 1:
            raise PermanentError("name one node by its id: validation.sandboxes.swarm.node")
        return found[0]

    def set_availability(self, api: Api, availability: str) -> None:
        """Set it, unless it is set. Blocking."""
        node = self.node(api)
        if node.availability != availability:
            api.update_node(node.id, node.version, {**node.spec, "Availability": availability})

    def undo(self, api: Api) -> None:
        """Let the node take tasks again."""
        if self.sandbox.get("node"):
            self.set_availability(api, "active")


class NodeToDrain(_NamedNode):
    """Tasks run on a node that has to be emptied."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="swarm.node_to_drain",
        action="swarm.drain_node",
        scenario="node_to_drain",
        summary="Tasks of a service of its own run on the named node, which has to be emptied.",
        sandbox="named",
        sandbox_keys=("image", "node"),
    )

    def shape(self, api: Api, body: dict[str, Any]) -> None:
        """Begin elsewhere."""
        body["TaskTemplate"]["Placement"] = {"Constraints": [f"node.id!={self.node(api).id}"]}

    def break_it(self, api: Api) -> None:
        """Let tasks come to the node: so many that some do."""
        count = 2 * len(api.nodes())

        def spread(spec: dict[str, Any]) -> None:
            spec["TaskTemplate"]["Placement"] = {}
            spec["Mode"]["Replicated"]["Replicas"] = count

        self.change(api, spread)

    def look(self, api: Api) -> Check:
        """Call it well when all tasks run, none on the node."""
        node, tasks = self.node(api), self.tasks(api)
        there = sum(task.node == node.id for task in tasks)
        if there:
            return Check(ok=False, reason=f"{there} tasks run on the node")
        return super().look(api)


class DrainedNode(_NamedNode):
    """A node that somebody drained and forgot, while a service waits for it."""

    spec: ClassVar[DrillSpec] = DrillSpec(
        id="swarm.drained_node",
        action="swarm.activate_node",
        scenario="unschedulable_replicas",
        summary="The named node is drained, and a service of its own that belongs there has no place.",
        sandbox="named",
        sandbox_keys=("image", "node"),
    )

    def shape(self, api: Api, body: dict[str, Any]) -> None:
        """Bind the service to the node."""
        body["TaskTemplate"]["Placement"] = {"Constraints": [f"node.id=={self.node(api).id}"]}

    def break_it(self, api: Api) -> None:
        """Drain it."""
        self.set_availability(api, "drain")

    def is_settled(self, api: Api) -> bool:
        """Say whether its tasks wait for a place."""
        return any(not task.node for task in self.tasks(api))


DRILLS: tuple[type[Drill], ...] = (
    DeadTask,
    FailingUpdate,
    UnschedulableReplicas,
    OutOfMemory,
    NodeToDrain,
    DrainedNode,
)
