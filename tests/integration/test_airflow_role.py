"""The generated role on a real FAB auth manager: with exactly it every drill is healed, and nothing more is permitted."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import pytest
from backends.airflow_users import ALL_ACTIONS, FAB_ADMIN, FAB_PASSWORD, FAB_ROLES
from scenes.airflow import SOON, attempt

from actions.airflow_client import AirflowClient, ForbiddenError, TakenError
from actions.airflow_control import PauseDag, SetPoolSlots
from actions.airflow_drills import DRILLS
from actions.airflow_system import AirflowSystem
from oncall_agent.contract import Drill, PermanentError, SystemClock, SystemContext
from oncall_agent.testing import RecordingLog, context_for

pytestmark = [pytest.mark.backend("airflow"), pytest.mark.slow]

POOL = "oncall_sandbox"
Settings = Callable[[str], dict[str, Any]]


@pytest.fixture
def settings(airflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Gives `backends.airflow` for a user of the FAB auth manager."""
    monkeypatch.setenv("TEST_AIRFLOW_FAB", FAB_PASSWORD)
    return lambda name: {
        "url": os.environ["ONCALL_TEST_AIRFLOW_FAB_URL"],
        "username": name,
        "password": "env:TEST_AIRFLOW_FAB",
        "timeout_seconds": 30.0,
    }


def context(seconds: float = 50.0) -> SystemContext:
    clock = SystemClock()
    return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds)


async def privileges(settings: dict[str, Any], actions: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """What is lacking, and what is too much."""
    async with AirflowSystem(settings) as system:
        found = await system.inspect(context(), actions)
    lacking = {one.name for one in found.privileges if one.needed_by and not one.held}
    return lacking, {one.name for one in found.privileges if one.held and not one.needed_by}


@pytest.mark.parametrize("role", FAB_ROLES)
async def test_the_generated_role_has_what_its_actions_need_and_no_more(
    role: str, settings: Settings
) -> None:
    assert await privileges(settings(role), FAB_ROLES[role]) == (set(), set())


async def test_an_admin_is_told_to_have_too_much_and_a_small_role_what_it_lacks(settings: Settings) -> None:
    lacking, surplus = await privileges(settings(FAB_ADMIN), ("airflow.pause_dag",))
    assert not lacking
    assert surplus >= {
        "can_read on Variables",
        "can_read on Connections",
        "can_edit on Pools",
        "can_create on DAG Runs",
    }
    lacking, surplus = await privileges(settings("oncall_pause"), ALL_ACTIONS)
    assert lacking >= {
        "can_edit on DAG Runs",
        "can_create on DAG Runs",
        "can_edit on Task Instances",
        "can_edit on Pools",
    }
    assert not surplus


async def test_the_whole_role_is_refused_what_no_action_needs(settings: Settings) -> None:
    async with AirflowClient(settings("oncall_all")) as client:
        for method, path, body in (
            ("GET", "/variables", None),
            ("GET", "/connections", None),
            ("GET", "/config", None),
            ("POST", "/pools", {"name": "not_ours", "slots": 1}),
            ("DELETE", "/pools/default_pool", None),
            ("DELETE", "/dags/oncall_roles", None),
            ("DELETE", "/dags/oncall_roles/dagRuns/none", None),
        ):
            with pytest.raises(ForbiddenError):
                await client.call(SOON, method, path, body=body)


async def test_a_role_for_one_action_is_refused_the_others(settings: Settings) -> None:
    async with PauseDag(settings("oncall_pause")) as pause:
        ctx = attempt(PauseDag, "oncall_roles")
        assert (await pause.precheck(ctx)).ok
        receipt = await pause.execute(ctx)
        assert (await pause.verify(ctx, receipt)).ok
        assert (await pause.rollback(ctx, receipt)).ok
        with pytest.raises(ForbiddenError):
            await pause.api.trigger(SOON, "oncall_roles", "not-permitted", {}, "")
    async with SetPoolSlots(settings("oncall_pool")) as slots:
        with pytest.raises(ForbiddenError):
            await slots.api.set_paused(SOON, "oncall_roles", is_paused=True)


@pytest.mark.parametrize("kind", DRILLS, ids=lambda kind: kind.spec.id)
async def test_every_drill_makes_a_fault_that_its_action_heals(kind: type[Drill], settings: Settings) -> None:
    given = settings("oncall_all")
    if "pool" in kind.spec.sandbox_keys:
        await _make_pool(settings(FAB_ADMIN))
    own = f"oncall_sandbox_{kind.spec.id.partition('.')[2]}"
    drill = kind(given, {"dag": own, "pool_dag": "oncall_sandbox_pool", "pool": POOL})
    ctx = context()
    point = next(p for p in entry_points(group="oncall_agent.actions") if p.name == kind.spec.action)
    action = point.load()
    try:
        trial = await drill.prepare(ctx)
        await drill.inject(ctx, trial)
        sick = await drill.symptom(ctx, trial)
        assert not sick.ok
        async with action(given) as executor:
            params = action.spec.params.model_validate(dict(trial.params))
            acting = context_for(
                params, trial.target, clock=SystemClock(), seconds=50.0, key=uuid.uuid4().hex
            )
            check = await executor.precheck(acting)
            assert check.ok, check
            verified = await executor.verify(acting, await executor.execute(acting))
        assert verified.ok, verified
        well = await drill.symptom(ctx, trial)
        assert well.ok, well
    finally:
        for _ in range(2):
            await drill.clean_up(context())


async def _make_pool(settings: dict[str, Any]) -> None:
    async with AirflowClient(settings) as client:
        try:
            await client.call(SOON, "POST", "/pools", body={"name": POOL, "slots": 0})
        except TakenError:
            return


async def test_a_wrong_password_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_WRONG", "s3cr3t-Zx81")
    wrong = {**settings("oncall_all"), "password": "env:TEST_WRONG"}
    with pytest.raises(PermanentError, match="refuses the password of oncall_all"):
        await privileges(wrong, ALL_ACTIONS)
