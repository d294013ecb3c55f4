"""The actions on nodes of a real swarm: emptied, brought back, forgotten; and every refusal.

All are exclusive: a node that is away is seen by every other test on nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from backends.swarm_fixtures import running_tasks
from backends.swarm_node import NodeEngine
from scenes.swarm import attempt, until

from actions.swarm_dead import RemoveDeadNode
from actions.swarm_nodes import ActivateNode, DrainNode
from oncall_agent.contract import PermanentError

pytestmark = [pytest.mark.slow, pytest.mark.exclusive, pytest.mark.timeout(120)]

Run = Callable[..., str]
ANYWHERE: dict[str, Any] = {"constraints": ()}


def set_node(api: Any, node: str, **changes: Any) -> None:
    """Change a node as its owner would."""
    found = api.inspect_node(node)
    api.update_node(node, found["Version"]["Index"], {**found["Spec"], **changes})


def tasks_on(api: Any, node: str) -> int:
    found = api.tasks(filters={"node": node, "desired-state": "running"})
    return sum(task["Status"]["State"] == "running" for task in found)


@pytest.fixture
def worker(swarm_api) -> Iterator[str]:
    """The second node; it takes tasks again afterwards."""
    node = next(one["ID"] for one in swarm_api.nodes() if one["Spec"]["Role"] == "worker")
    yield node
    set_node(swarm_api, node, Availability="active", Labels={})


async def test_a_drained_nodes_tasks_move_and_come_back_no_more_by_themselves(
    worker: str, run_service: Run, swarm_api, open_on_swarm
) -> None:
    name = await asyncio.to_thread(run_service, replicas=4, **ANYWHERE)
    assert tasks_on(swarm_api, worker) == 2
    first, second = await open_on_swarm(DrainNode), await open_on_swarm(DrainNode)
    ctx = attempt(DrainNode, worker)
    check = await first.precheck(ctx)
    assert (check.ok, check.instances, check.facts["services"]) == (True, 2, [name]), check
    assert (await first.execute(replace(ctx, dry_run=True))).planned
    assert swarm_api.inspect_node(worker)["Spec"]["Availability"] == "active"
    receipt = await first.execute(ctx)
    verified = await first.verify(ctx, receipt)
    assert verified.ok, verified
    assert (tasks_on(swarm_api, worker), running_tasks(swarm_api, name)) == (0, 4)
    version = swarm_api.inspect_node(worker)["Version"]
    assert (await second.execute(ctx)).facts["already"]
    assert swarm_api.inspect_node(worker)["Version"] == version
    assert len((await first.diagnose(ctx))["nodes"]) == 2
    for _ in range(2):
        assert (await second.rollback(ctx, receipt)).ok
        assert swarm_api.inspect_node(worker)["Spec"]["Availability"] == "active"


async def test_draining_refuses_what_would_be_lost(
    worker: str, run_service: Run, swarm_api, open_on_swarm
) -> None:
    executor, ctx = await open_on_swarm(DrainNode), attempt(DrainNode, worker)
    said = [(await executor.precheck(attempt(DrainNode, "none"))).reason]
    bound = await asyncio.to_thread(run_service, replicas=1, constraints=(f"node.id=={worker}",))
    said.append((await executor.precheck(ctx)).reason)
    with pytest.raises(PermanentError, match="no other node could take"):
        await executor.execute(ctx)
    swarm_api.remove_service(bound)
    mounts = [{"Type": "bind", "Source": "/tmp", "Target": "/host"}]
    local = await asyncio.to_thread(run_service, replicas=2, container={"Mounts": mounts}, **ANYWHERE)
    said.append((await executor.precheck(ctx)).reason)
    allowed = await executor.precheck(attempt(DrainNode, worker, allow_local_volumes=True))
    assert allowed.ok, allowed
    set_node(swarm_api, worker, Labels={"oncall-agent.protected": "true"})
    said.append((await executor.precheck(ctx)).reason)
    set_node(swarm_api, worker, Labels={}, Availability="pause")
    said.append((await executor.precheck(ctx)).reason)
    assert said == [
        "there is no node none",
        f"no other node could take the tasks of {bound}",
        f"service {local} keeps something on the node itself",
        "the node is protected by its label",
        "the node is pause and ready, not active and ready",
    ]


async def test_a_drained_node_is_brought_back_for_what_waits_for_it(
    worker: str, run_service: Run, swarm_api, open_on_swarm
) -> None:
    first, second = await open_on_swarm(ActivateNode), await open_on_swarm(ActivateNode)
    ctx = attempt(ActivateNode, worker)
    assert (await first.precheck(ctx)).reason == "the node is active, not drained"
    set_node(swarm_api, worker, Availability="drain")
    constraints = (f"node.id=={worker}",)
    name = await asyncio.to_thread(run_service, replicas=1, running=0, constraints=constraints)
    until(lambda: swarm_api.tasks(filters={"service": name})[0]["Status"]["State"] == "pending")
    check = await first.precheck(ctx)
    assert (check.ok, check.facts["services"]) == (True, [name]), check
    assert (await first.execute(replace(ctx, dry_run=True))).planned
    assert swarm_api.inspect_node(worker)["Spec"]["Availability"] == "drain"
    receipt = await first.execute(ctx)
    verified = await first.verify(ctx, receipt)
    assert verified.ok, verified
    assert running_tasks(swarm_api, name) == 1
    assert (await second.execute(ctx)).facts["already"]
    for _ in range(2):
        assert (await second.rollback(ctx, receipt)).ok
        assert swarm_api.inspect_node(worker)["Spec"]["Availability"] == "drain"


async def test_a_dead_node_is_forgotten_and_its_tasks_run_elsewhere(
    worker: str, run_service: Run, swarm_api, open_on_swarm, join_node: Callable[..., NodeEngine]
) -> None:
    third = await asyncio.to_thread(join_node)
    node = third.engine.node_id()
    name = await asyncio.to_thread(run_service, replicas=3, constraints=(f"node.id!={worker}",))
    assert tasks_on(swarm_api, node) > 0
    eager = await open_on_swarm(RemoveDeadNode, dead_after_seconds=0)
    patient, other = await open_on_swarm(RemoveDeadNode), await open_on_swarm(RemoveDeadNode)
    ctx = attempt(RemoveDeadNode, node)
    assert (await eager.precheck(ctx)).reason == "the node is ready, not down"
    third.kill()
    until(lambda: swarm_api.inspect_node(node)["Status"]["State"] == "down")
    drain = await open_on_swarm(DrainNode)
    refused = (await drain.precheck(attempt(DrainNode, worker))).reason
    assert refused == f"one at a time: node {third.name} is active and down"
    assert "not 900" in (await patient.precheck(ctx)).reason
    with pytest.raises(PermanentError, match="not 900"):
        await patient.execute(ctx)
    assert "not 3600" in (await eager.precheck(attempt(RemoveDeadNode, node, down_seconds=3600))).reason
    assert (await eager.execute(replace(ctx, dry_run=True))).planned
    receipt = await eager.execute(ctx)
    verified = await eager.verify(ctx, receipt)
    assert verified.ok, verified
    assert node not in {one["ID"] for one in swarm_api.nodes()}
    assert running_tasks(swarm_api, name) == 3
    assert (await other.execute(ctx)).facts["already"]
