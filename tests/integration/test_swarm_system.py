"""The swarm as a system: its drills healed behind exactly the generated rules, in a real proxy; inspection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import docker
import pytest
from backends.nginx_server import Nginx
from scenes.swarm import attempt, system_context

from actions.swarm import ForceUpdateService, ScaleService
from actions.swarm_dead import RemoveDeadNode
from actions.swarm_drills import DRILLS, DeadTask, DrainedNode, NodeToDrain
from actions.swarm_nodes import ActivateNode, DrainNode
from actions.swarm_rollback import RollbackService
from actions.swarm_rules import NEEDS
from actions.swarm_spec import SetLimitsOrImage
from actions.swarm_system import SwarmSystem
from oncall_agent.contract import Drill, Executor, PermanentError, SystemClock, TransientError
from oncall_agent.testing import Fault, FaultyProxy, Upstream, context_for
from oncall_agent.testing.harness import run_in_thread

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

KINDS: dict[str, type[Executor]] = {
    kind.spec.id: kind
    for kind in (
        *(ForceUpdateService, ScaleService, RollbackService, SetLimitsOrImage),
        *(DrainNode, ActivateNode, RemoveDeadNode),
    )
}
ON_NODES = (NodeToDrain, DrainedNode)


@pytest.fixture
def behind_proxy(nginx: Nginx, swarm_host: str) -> Callable[..., str]:
    """Starts nginx with exactly the generated rules; gives the manager's address behind it."""

    def start(*actions: str) -> str:
        listen = "listen unix:/run/oncall-agent-swarm/docker.sock;"
        text = SwarmSystem({"host": swarm_host}).grants(actions).text
        assert listen in text
        nginx.start(text.replace(listen, "listen 127.0.0.1:{port};"))
        return f"tcp://127.0.0.1:{nginx.port}"

    return start


@pytest.fixture
def sandbox(swarm_host: str, swarm_image: str, swarm_api: Any) -> dict[str, str]:
    """What an operator names."""
    worker = next(one["ID"] for one in swarm_api.nodes() if one["Spec"]["Role"] == "worker")
    return {"image": swarm_image, "node": worker, "host": swarm_host}


async def heal(drill: Drill, settings: dict[str, Any]) -> None:
    """What the validation suite does with a drill: well, sick, acted on, well, undone, gone."""
    kind, ctx = KINDS[drill.spec.action], system_context()
    try:
        trial = await drill.prepare(ctx)
        assert (await drill.symptom(ctx, trial)).ok
        await drill.inject(ctx, trial)
        assert not (await drill.symptom(ctx, trial)).ok
        given = kind.spec.params.model_validate(dict(trial.params))
        attempted = context_for(
            given, trial.target, clock=SystemClock(), seconds=60, run_blocking=run_in_thread
        )
        async with kind(settings) as executor:
            check = await executor.precheck(attempted)
            assert check.ok, check
            receipt = await executor.execute(attempted)
            verified = await executor.verify(attempted, receipt)
            assert verified.ok, verified
            assert (await drill.symptom(ctx, trial)).ok
            undone = await executor.rollback(attempted, receipt)
            assert undone.ok, undone
    finally:
        await drill.clean_up(system_context())
        await drill.clean_up(system_context())


async def is_healed_and_leaves_nothing(kind: type[Drill], host: str, sandbox: Any, api: Any) -> None:
    drill = kind({"host": host}, sandbox)
    await heal(drill, {"host": host})
    assert api.services(filters={"name": drill.name}) == []
    assert {node["Spec"]["Availability"] for node in api.nodes()} == {"active"}


@pytest.mark.backend("nginx")
@pytest.mark.parametrize(
    "kind", [kind for kind in DRILLS if kind not in ON_NODES], ids=lambda kind: kind.spec.id
)
async def test_drill_on_a_service_is_healed_with_exactly_the_rules_of_its_action(
    kind, behind_proxy, sandbox, swarm_api
) -> None:
    host = behind_proxy(kind.spec.action)
    drill = kind({"host": host}, sandbox)
    await heal(drill, {"host": host})
    assert swarm_api.services(filters={"name": drill.name}) == []


@pytest.mark.backend("nginx")
@pytest.mark.exclusive
@pytest.mark.parametrize("kind", ON_NODES, ids=lambda kind: kind.spec.id)
async def test_drill_on_a_node_is_healed_with_exactly_the_rules_of_its_action(
    kind, behind_proxy, sandbox, swarm_api
) -> None:
    await is_healed_and_leaves_nothing(kind, behind_proxy(kind.spec.action), sandbox, swarm_api)


@pytest.mark.backend("nginx")
@pytest.mark.exclusive
async def test_a_dead_node_is_removed_with_exactly_the_rules_for_it(
    behind_proxy, swarm_api, join_node
) -> None:
    third = await asyncio.to_thread(join_node)
    node, host = third.engine.node_id(), behind_proxy("swarm.remove_dead_node")
    third.kill()
    ctx = attempt(RemoveDeadNode, node)
    async with RemoveDeadNode({"host": host, "dead_after_seconds": 0}) as executor:
        while not (check := await executor.precheck(ctx)).ok and ctx.seconds_left:
            assert check.reason == "the node is ready, not down"
            await asyncio.sleep(0.01)
        receipt = await executor.execute(ctx)
        assert (await executor.verify(ctx, receipt)).ok
    assert node not in {one["ID"] for one in swarm_api.nodes()}


@pytest.mark.backend("nginx")
async def test_rules_let_nothing_else_through(behind_proxy, run_service, swarm_image: str) -> None:
    name = await asyncio.to_thread(run_service, replicas=1)
    api = docker.APIClient(base_url=behind_proxy(*NEEDS), version="auto")
    refused: list[Callable[[], Any]] = [
        lambda: api.remove_service(name),
        lambda: api.create_service({"ContainerSpec": {"Image": swarm_image}}, name="x"),
        api.inspect_swarm,
        api.secrets,
        api.leave_swarm,
        api.containers,
        lambda: api.create_container(swarm_image),
        api.volumes,
    ]
    for call in refused:
        with pytest.raises(docker.errors.APIError) as error:
            await asyncio.to_thread(call)
        assert error.value.status_code == 403
    api.close()


@pytest.mark.backend("nginx")
async def test_inspect_behind_the_rules_finds_nothing_lacking_and_nothing_too_much(behind_proxy) -> None:
    actions = ["swarm.scale_service", "swarm.drain_node"]
    async with SwarmSystem({"host": behind_proxy(*actions)}) as system:
        found = await system.inspect(system_context(), actions)
    lacking = [one.name for one in found.privileges if one.needed_by and not one.held]
    too_much = [one.name for one in found.privileges if one.held and not one.needed_by]
    assert (lacking, too_much, found.unsupported) == ([], [], "")


@pytest.mark.backend("nginx")
async def test_an_action_without_its_rule_is_refused_with_a_name(behind_proxy, run_service) -> None:
    name = await asyncio.to_thread(run_service, replicas=1)
    async with ScaleService({"host": behind_proxy("swarm.drain_node")}) as executor:
        with pytest.raises(PermanentError):
            await executor.execute(attempt(ScaleService, name, replicas=2))


async def test_inspecting_a_bare_socket_reports_too_much_and_changes_nothing(
    swarm_host: str, swarm_api
) -> None:
    before = {node["ID"]: node["Version"] for node in swarm_api.nodes()}
    async with SwarmSystem({"host": swarm_host}) as system:
        found = await system.inspect(system_context(), ["swarm.scale_service"])
    assert found.product.startswith("Docker Swarm (")
    assert abs(found.server_time - SystemClock().now()) < 5
    assert all(privilege.held for privilege in found.privileges)
    excess = {one.name for one in found.privileges if not one.needed_by}
    assert {
        "POST service create",
        "DELETE service remove",
        "DELETE node remove",
        "GET swarm inspect",
    } <= excess
    after = {node["ID"]: node["Version"] for node in swarm_api.nodes()}
    assert before.items() <= after.items()


async def test_an_engine_that_is_no_manager_is_not_supported(swarm_worker_host: str) -> None:
    async with SwarmSystem({"host": swarm_worker_host}) as system:
        found = await system.inspect(system_context(), ["swarm.scale_service"])
    assert found.unsupported == "the engine is no manager of a swarm"


async def test_inspect_ends_with_a_name_when_the_manager_is_away(swarm_host: str) -> None:
    async with FaultyProxy(Upstream(path=swarm_host.removeprefix("unix://"))) as proxy:
        await proxy.become(Fault.BLACK_HOLE)
        async with SwarmSystem({"host": f"tcp://127.0.0.1:{proxy.port}", "timeout_seconds": 1}) as system:
            with pytest.raises(TransientError):
                await system.inspect(system_context(0.5), ["swarm.scale_service"])


@pytest.mark.parametrize(
    ("kind", "named", "reason"),
    [
        (DeadTask, {}, "validation.sandboxes.swarm.image"),
        (NodeToDrain, {"image": "x"}, "validation.sandboxes.swarm.node"),
    ],
    ids=["no image", "no node"],
)
async def test_drill_says_what_to_name(kind, named, reason, swarm_host: str) -> None:
    drill = kind({"host": swarm_host}, named)
    with pytest.raises(PermanentError, match=reason):
        await drill.prepare(system_context())
    await drill.clean_up(system_context())


def test_updating_services_is_named_as_what_it_is() -> None:
    assert "any image with any mount" in SwarmSystem({}).grants(["swarm.scale_service"]).how_to_apply
    assert "any mount" not in SwarmSystem({}).grants(["swarm.drain_node"]).how_to_apply
