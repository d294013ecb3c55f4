"""The actions on services of a real swarm: the fault, the fix, the undo, and every refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scenes.swarm import attempt, change, crash, is_well, kill_one, until

from actions.swarm import ForceUpdateService, ScaleService
from actions.swarm_dead import RemoveDeadNode
from actions.swarm_nodes import ActivateNode, DrainNode
from actions.swarm_rollback import RollbackService
from actions.swarm_spec import SetLimitsOrImage
from oncall_agent.contract import PermanentError, Receipt, TransientError
from oncall_agent.testing import FaultyProxy, Upstream, check_outages

pytestmark = [pytest.mark.slow]

MIB = 1_048_576
Run = Callable[..., str]
LIMITED = {"Limits": {"MemoryBytes": 32 * MIB, "NanoCPUs": 500_000_000}}


def spec_of(api: Any, name: str) -> dict[str, Any]:
    return api.inspect_service(name)["Spec"]


async def healed(executor: Any, other: Any, ctx: Any, api: Any, name: str) -> Receipt:
    """Dry run, fix, and a repeat in another process: what every action on a service has to do."""
    check = await executor.precheck(ctx)
    assert check.ok, check
    before = api.inspect_service(name)["Version"]
    assert (await executor.execute(replace(ctx, dry_run=True))).planned
    assert api.inspect_service(name)["Version"] == before
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    version = api.inspect_service(name)["Version"]
    await executor.execute(ctx)
    assert (await other.execute(ctx)).facts["already"]
    assert api.inspect_service(name)["Version"] == version
    return receipt


async def undone(executor: Any, ctx: Any, receipt: Receipt) -> None:
    """Rollback, twice."""
    for _ in range(2):
        found = await executor.rollback(ctx, receipt)
        assert found.ok, found


async def test_forcing_an_update_replaces_a_task_that_died(
    run_service: Run, swarm_api, open_on_swarm
) -> None:
    name = await asyncio.to_thread(run_service, restart={"Condition": "none"})
    await asyncio.to_thread(kill_one, swarm_api, name)
    first, second = await open_on_swarm(ForceUpdateService), await open_on_swarm(ForceUpdateService)
    ctx = attempt(ForceUpdateService, name)
    receipt = await healed(first, second, ctx, swarm_api, name)
    assert spec_of(swarm_api, name)["TaskTemplate"]["ForceUpdate"] == 1
    evidence = await first.diagnose(ctx)
    assert {task["state"] for task in evidence["tasks"]} >= {"running", "failed"}
    await undone(second, ctx, receipt)
    assert spec_of(swarm_api, name)["TaskTemplate"].get("ForceUpdate", 0) == 0


async def test_forcing_an_update_refuses_what_would_be_away_meanwhile(
    run_service: Run, swarm_api, open_on_swarm
) -> None:
    single = await asyncio.to_thread(run_service, replicas=1)
    everywhere = await asyncio.to_thread(run_service, mode={"Global": {}}, running=1)
    executor = await open_on_swarm(ForceUpdateService)
    found = [
        await executor.precheck(attempt(ForceUpdateService, name)) for name in (single, everywhere, "none")
    ]
    assert [check.reason for check in found] == [
        "the service has 1 replicas: nobody would serve meanwhile",
        "the service has one task: nobody would serve meanwhile",
        "there is no service none",
    ]
    with pytest.raises(PermanentError, match="nobody would serve"):
        await executor.execute(attempt(ForceUpdateService, single))


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (ForceUpdateService, {}),
        (ScaleService, {"replicas": 3}),
        (SetLimitsOrImage, {"cpus": 0.6}),
        (RollbackService, {}),
    ],
    ids=lambda value: value.spec.id if isinstance(value, type) else "",
)
async def test_a_protected_service_is_refused_also_just_before_acting(
    kind, params, run_service: Run, open_on_swarm
) -> None:
    name = await asyncio.to_thread(
        run_service, replicas=1, labels={"oncall-agent.protected": "true"}, resources=LIMITED
    )
    executor, ctx = await open_on_swarm(kind), attempt(kind, name, **params)
    assert (await executor.precheck(ctx)).reason == "the service is protected by its label"
    with pytest.raises(PermanentError, match="protected"):
        await executor.execute(ctx)


async def test_an_update_under_way_is_left_alone(run_service: Run, swarm_api, open_on_swarm) -> None:
    slow = {"Parallelism": 1, "Delay": 30_000_000_000}
    name = await asyncio.to_thread(run_service, update=slow)
    await asyncio.to_thread(change, swarm_api, name, lambda spec: spec["TaskTemplate"].update(ForceUpdate=7))
    until(lambda: swarm_api.inspect_service(name).get("UpdateStatus", {}).get("State") == "updating")
    for kind, params in ((ForceUpdateService, {}), (ScaleService, {"replicas": 3})):
        check = await (await open_on_swarm(kind)).precheck(attempt(kind, name, **params))
        assert "under way: updating" in check.reason


async def test_scaling_to_what_has_room_heals_unschedulable_replicas(
    run_service: Run, swarm_api, open_on_swarm
) -> None:
    name = await asyncio.to_thread(run_service, replicas=3, running=2, placement={"MaxReplicas": 2})
    first, second = await open_on_swarm(ScaleService), await open_on_swarm(ScaleService)
    ctx = attempt(ScaleService, name, replicas=2)
    receipt = await healed(first, second, ctx, swarm_api, name)
    await undone(second, ctx, receipt)
    assert spec_of(swarm_api, name)["Mode"]["Replicated"]["Replicas"] == 3


async def test_scaling_up_adds_tasks_and_refuses_what_has_no_room(
    run_service: Run, swarm_api, open_on_swarm
) -> None:
    reserved = {
        "Reservations": {"MemoryBytes": swarm_api.nodes()[0]["Description"]["Resources"]["MemoryBytes"] // 3}
    }
    name = await asyncio.to_thread(run_service, replicas=1, resources=reserved)
    executor = await open_on_swarm(ScaleService, max_replicas=5)
    found = [(await executor.precheck(attempt(ScaleService, name, replicas=n))).reason for n in (1, 5, 6)]
    assert found[0] == "the service has 1 replicas already"
    assert "the nodes have room for" in found[1]
    assert found[2] == "6 replicas are beyond the cap of 5"
    everywhere = await asyncio.to_thread(run_service, mode={"Global": {}}, running=1)
    check = await executor.precheck(attempt(ScaleService, everywhere, replicas=2))
    assert "can't be scaled" in check.reason
    ctx = attempt(ScaleService, name, replicas=2)
    check = await executor.precheck(ctx)
    assert (check.ok, check.instances) == (True, 1), check
    assert (await executor.verify(ctx, await executor.execute(ctx))).ok


async def test_a_bad_rollout_is_taken_back_once_and_can_be_brought_again(
    run_service: Run, swarm_api, open_on_swarm
) -> None:
    name = await asyncio.to_thread(run_service)
    good = spec_of(swarm_api, name)
    await asyncio.to_thread(change, swarm_api, name, crash)
    bad = spec_of(swarm_api, name)
    until(lambda: not is_well(swarm_api, name))
    first, second = await open_on_swarm(RollbackService), await open_on_swarm(RollbackService)
    ctx = attempt(RollbackService, name)
    receipt = await healed(first, second, ctx, swarm_api, name)
    assert spec_of(swarm_api, name) == good
    await undone(second, ctx, receipt)
    assert spec_of(swarm_api, name) == bad


async def test_rolling_back_refuses_what_is_hardly_the_cause(
    run_service: Run, swarm_api, open_on_swarm
) -> None:
    name = await asyncio.to_thread(run_service)
    executor, ctx = await open_on_swarm(RollbackService), attempt(RollbackService, name)
    assert (await executor.precheck(ctx)).reason == "the swarm keeps no specification before the present one"
    await asyncio.to_thread(
        change, swarm_api, name, lambda spec: spec["Mode"]["Replicated"].update(Replicas=3)
    )
    assert (await executor.precheck(ctx)).reason == "the last change did not concern the tasks"
    with pytest.raises(PermanentError, match="did not concern"):
        await executor.execute(ctx)
    await asyncio.to_thread(change, swarm_api, name, crash)
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    again = await executor.precheck(attempt(RollbackService, name))
    assert again.reason == "the service was rolled back already: rollback_completed"


async def test_a_new_image_by_digest_reaches_every_task_and_the_old_one_comes_back(
    run_service: Run, swarm_api, open_on_swarm, swarm_image: str, swarm_image_2: str
) -> None:
    name = await asyncio.to_thread(run_service)
    first, second = await open_on_swarm(SetLimitsOrImage), await open_on_swarm(SetLimitsOrImage)
    ctx = attempt(SetLimitsOrImage, name, image=swarm_image_2)
    receipt = await healed(first, second, ctx, swarm_api, name)
    tasks = swarm_api.tasks(filters={"service": name, "desired-state": "running"})
    assert {task["Spec"]["ContainerSpec"]["Image"] for task in tasks} == {swarm_image_2}
    await undone(second, ctx, receipt)
    assert spec_of(swarm_api, name)["TaskTemplate"]["ContainerSpec"]["Image"] == swarm_image


async def test_more_memory_reaches_every_task_and_a_foreign_change_stands(
    run_service: Run, swarm_api, open_on_swarm
) -> None:
    name = await asyncio.to_thread(run_service, replicas=1, resources=LIMITED)
    executor = await open_on_swarm(SetLimitsOrImage)
    ctx = attempt(SetLimitsOrImage, name, memory_factor=1.5, cpus=0.75)
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    found = spec_of(swarm_api, name)["TaskTemplate"]["Resources"]["Limits"]
    assert found == {"MemoryBytes": 48 * MIB, "NanoCPUs": 750_000_000}

    def foreign(spec: dict[str, Any]) -> None:
        spec["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"] = 40 * MIB
        spec["Labels"] = {}

    await asyncio.to_thread(change, swarm_api, name, foreign)
    soon = replace(ctx, deadline_at=ctx.clock.monotonic() + 0.5)
    assert (await executor.verify(soon, receipt)).reason == "the change does not stand"
    undone = await executor.rollback(ctx, receipt)
    assert (undone.ok, undone.reason) == (False, "the service was changed by somebody else since")


async def test_limits_and_images_beyond_the_bounds_are_refused(
    run_service: Run, swarm_api, open_on_swarm, swarm_image: str
) -> None:
    limited = await asyncio.to_thread(run_service, replicas=1, resources=LIMITED)
    unlimited = await asyncio.to_thread(run_service, replicas=1)
    executor, full = (
        await open_on_swarm(SetLimitsOrImage),
        await open_on_swarm(SetLimitsOrImage, memory_reserve=0.9999),
    )
    absent = f"{swarm_image.partition('@')[0]}@sha256:{'0' * 64}"
    cases = [
        (executor, limited, {"memory_bytes": 64 * MIB}, "beyond half as much again"),
        (executor, limited, {"cpus": 0.8}, "beyond half as much again"),
        (executor, unlimited, {"memory_factor": 1.5}, "no memory limit to raise"),
        (executor, unlimited, {"cpus": 1.0}, "no CPU limit to raise"),
        (executor, unlimited, {"image": swarm_image}, "runs this image already"),
        (executor, unlimited, {"image": absent}, "can't be found"),
        (full, limited, {"memory_factor": 1.5}, "has not enough memory"),
    ]
    found = [
        (await one.precheck(attempt(SetLimitsOrImage, name, **params))).reason
        for one, name, params, _ in cases
    ]
    assert all(reason in said for said, (*_, reason) in zip(found, cases, strict=True)), found


async def test_a_service_that_does_not_stay_up_is_no_success(
    run_service: Run, swarm_api, open_on_swarm
) -> None:
    name = await asyncio.to_thread(run_service, restart={"Condition": "none"})
    executor, ctx = await open_on_swarm(ForceUpdateService), attempt(ForceUpdateService, name)
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    await asyncio.to_thread(kill_one, swarm_api, name)
    soon = replace(ctx, deadline_at=ctx.clock.monotonic() + 0.5)
    assert "1 of 2 tasks run" in (await executor.verify(soon, receipt)).reason


# --- when the swarm goes away ----------------------------------------------------------------------------


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (ForceUpdateService, {}),
        (ScaleService, {"replicas": 2}),
        (RollbackService, {}),
        (SetLimitsOrImage, {"cpus": 0.6}),
        (DrainNode, {}),
        (ActivateNode, {}),
        (RemoveDeadNode, {}),
    ],
    ids=lambda value: value.spec.id if isinstance(value, type) else "",
)
async def test_outages_end_in_time_and_with_a_name(kind, params, swarm_host: str) -> None:
    async with FaultyProxy(Upstream(path=swarm_host.removeprefix("unix://"))) as proxy:
        settings = {"host": f"tcp://127.0.0.1:{proxy.port}", "timeout_seconds": 1}
        async with kind(settings) as executor:
            ended = await check_outages(
                executor,
                proxy,
                lambda seconds: attempt(kind, "no-such-target", seconds=seconds, **params),
                receipt=Receipt(kind.spec.id, 0.0, {"before": {"force": 0}, "wanted": {"force": 1}}),
            )
    assert len(ended) >= 20


async def test_an_engine_that_is_no_manager_is_named(swarm_worker_host: str, open_on_swarm) -> None:
    executor = await open_on_swarm(ScaleService, host=swarm_worker_host)
    ctx = attempt(ScaleService, "any", replicas=2)
    assert (await executor.ping(ctx)).reason == "the engine is no manager of a swarm"
    with pytest.raises(TransientError, match="not a swarm manager"):
        await executor.precheck(ctx)
