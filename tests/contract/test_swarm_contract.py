"""The contract test of the swarm actions, and what only a virtual clock can show."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest

from actions.swarm import ForceUpdateService, ScaleService
from actions.swarm_dead import RemoveDeadNode
from actions.swarm_nodes import ActivateNode, DrainNode
from actions.swarm_rollback import RollbackService
from actions.swarm_spec import SetLimitsOrImage
from actions.swarm_state import node_of, quorum_complaint
from oncall_agent.contract import Executor, PermanentError, Target
from oncall_agent.testing import FakeClock, Harness, check_executor
from oncall_agent.testing.harness import run_in_thread
from oncall_agent.testing.swarm import FakeNode, FakeService, FakeSwarm, service_spec

SECRET = "s3cr3t-Qw92"
MIB = 1 << 20
DIGEST = f"web@sha256:{'a' * 64}"
LONG_AGO = -100_000.0


@pytest.fixture
def swarm(monkeypatch: pytest.MonkeyPatch) -> FakeSwarm:
    manager = FakeSwarm(FakeClock())
    manager.images = {DIGEST}
    monkeypatch.setattr("docker.APIClient", manager)
    return manager


def a_task_died(swarm: FakeSwarm, web: FakeService) -> None:
    web.missing = 1


def too_many_replicas(swarm: FakeSwarm, web: FakeService) -> None:
    web.spec["Mode"]["Replicated"]["Replicas"], web.most = 3, 2


def bad_rollout(swarm: FakeSwarm, web: FakeService) -> None:
    web.previous = copy.deepcopy(web.spec)
    web.spec["TaskTemplate"]["ContainerSpec"]["Image"] = "bad"
    web.update_state, web.changed_at = "paused", swarm.clock.now()


def out_of_memory(swarm: FakeSwarm, web: FakeService) -> None:
    web.needed_bytes = 40 * MIB


def bad_image(swarm: FakeSwarm, web: FakeService) -> None:
    web.spec["TaskTemplate"]["ContainerSpec"]["Image"] = "bad"


def nothing(swarm: FakeSwarm, web: FakeService) -> None:
    """The node is in use, and has to be emptied."""


def drained(swarm: FakeSwarm, web: FakeService) -> None:
    swarm.nodes_by_name["two"].availability, web.bound_to = "drain", "two"


def dead(swarm: FakeSwarm, web: FakeService) -> None:
    node = swarm.nodes_by_name["two"]
    node.state, node.changed_at = "down", swarm.clock.now() + LONG_AGO


Sickness = Callable[[FakeSwarm, FakeService], None]


def harness(
    swarm: FakeSwarm, kind: type[Executor], params: dict[str, object], sickness: Sickness, counted: str
) -> Harness:
    async def make_sick() -> None:
        swarm.nodes_by_name = {"one": FakeNode("one", "manager", is_leader=True), "two": FakeNode("two")}
        for node in swarm.nodes_by_name.values():
            node.labels = {"token": SECRET}
        web = FakeService("web", service_spec("web", env=(f"PASSWORD={SECRET}",)))
        swarm.services_by_name = {"web": web}
        sickness(swarm, web)

    async def effects() -> int:
        return sum(verb == counted for verb, _ in swarm.calls)

    async def snapshot() -> object:
        nodes = {name: node.availability for name, node in swarm.nodes_by_name.items()}
        return nodes, copy.deepcopy(swarm.services_by_name["web"].spec)

    async def hang() -> None:
        swarm.hold.clear()

    async def release() -> None:
        swarm.hold.set()

    return Harness(
        factory=lambda: kind({}),
        target=Target("web", kind.spec.target_kind, address={"service": "web", "node": "two"}),
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        params={"stable_seconds": 1, **params},
        clock=swarm.clock,
        run_blocking=run_in_thread,
    )


CASES: list[tuple[type[Executor], dict[str, object], Sickness, str]] = [
    (ForceUpdateService, {}, a_task_died, "update service"),
    (ScaleService, {"replicas": 2}, too_many_replicas, "update service"),
    (RollbackService, {}, bad_rollout, "update service"),
    (SetLimitsOrImage, {"memory_factor": 1.5}, out_of_memory, "update service"),
    (SetLimitsOrImage, {"image": DIGEST}, bad_image, "update service"),
    (DrainNode, {}, nothing, "update node"),
    (ActivateNode, {}, drained, "update node"),
    (RemoveDeadNode, {}, dead, "remove node"),
]


@pytest.mark.parametrize(
    ("kind", "params", "sickness", "counted"), CASES, ids=lambda value: getattr(value, "__name__", "")
)
async def test_executor_keeps_the_contract(kind, params, sickness, counted, swarm: FakeSwarm) -> None:
    scorecard = await check_executor(harness(swarm, kind, params, sickness, counted))
    assert not scorecard.failures, str(scorecard)


async def test_a_change_of_long_ago_is_hardly_the_cause(swarm: FakeSwarm) -> None:
    world = harness(swarm, RollbackService, {}, bad_rollout, "")
    await world.make_sick()
    ctx, _ = world.context()
    swarm.services_by_name["web"].changed_at = swarm.clock.now() - 7_260
    async with RollbackService({"change_window_seconds": 7_200}) as executor:
        assert (await executor.precheck(ctx)).reason == (
            "the last change was 121 minutes ago: it is hardly the cause"
        )
        with pytest.raises(PermanentError, match="hardly the cause"):
            await executor.execute(ctx)
    assert swarm.calls == []


async def test_a_repeat_within_the_attempt_is_not_refused_because_the_first_try_changed_the_node(
    swarm: FakeSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = harness(swarm, RemoveDeadNode, {}, dead, "")
    await world.make_sick()
    ctx, _ = world.context()
    remove = swarm.remove_node
    monkeypatch.setattr(swarm, "remove_node", lambda *_, **__: (_ for _ in ()).throw(ConnectionError()))
    async with RemoveDeadNode({}) as executor:
        with pytest.raises(Exception, match="can't be reached") as error:
            await executor.execute(ctx)
        assert error.value.receipt_facts["node"] == "two"
        swarm.nodes_by_name["two"].changed_at = swarm.clock.now()
        monkeypatch.setattr(swarm, "remove_node", remove)
        await executor.execute(ctx)
    assert "two" not in swarm.nodes_by_name


async def test_a_dead_manager_loses_its_vote_before_it_is_removed(swarm: FakeSwarm) -> None:
    world = harness(swarm, RemoveDeadNode, {}, dead, "")
    await world.make_sick()
    swarm.nodes_by_name |= {
        "two": FakeNode("two", "manager", state="down"),
        "three": FakeNode("three", "manager"),
    }
    ctx, _ = world.context()
    async with RemoveDeadNode({"dead_after_seconds": 0}) as executor:
        await executor.execute(ctx)
    assert swarm.calls == [("update node", "two"), ("remove node", "two")]


@pytest.mark.parametrize(
    ("reachable", "without", "complaint"),
    [
        ([True], "", ""),
        ([True, True, False], "", ""),
        ([True, False, False], "", "1 of 3 managers are reachable: no quorum"),
        ([True, True, False], "0", "1 of 2 managers are reachable: no quorum"),
        ([], "", "0 of 0 managers are reachable: no quorum"),
    ],
)
def test_quorum_is_a_majority_of_those_that_have_a_vote(
    reachable: list[bool], without: str, complaint: str
) -> None:
    template = node_of({"ID": "w", "Version": {"Index": 1}, "Spec": {"Role": "worker"}})
    states = ["reachable" if one else "unreachable" for one in reachable]
    nodes = [replace(template, id=str(number), reachability=state) for number, state in enumerate(states)]
    assert quorum_complaint([template, *nodes], without=without) == complaint
