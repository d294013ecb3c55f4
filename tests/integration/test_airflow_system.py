"""Airflow as a whole: what it says of itself, the roles, and every drill healed by its action."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import pytest
from scenes.airflow import SOON, attempt

from actions.airflow_client import AirflowClient, ForbiddenError
from actions.airflow_drills import DRILLS
from actions.airflow_grants import simple_role
from actions.airflow_system import AirflowSystem
from oncall_agent.contract import PermanentError, SystemClock, SystemContext
from oncall_agent.testing import RecordingLog

pytestmark = [pytest.mark.backend("airflow"), pytest.mark.slow]

ALL = tuple(
    point.name for point in entry_points(group="oncall_agent.actions") if point.name.startswith("airflow.")
)
ON_DAGS = tuple(name for name in ALL if name != "airflow.set_pool_slots")
Settings = Callable[[str], dict[str, Any]]


def context(seconds: float = 50.0) -> SystemContext:
    clock = SystemClock()
    return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds)


async def inspected(settings: dict[str, Any], actions: tuple[str, ...]) -> Any:
    async with AirflowSystem(settings) as system:
        return await system.inspect(context(), actions)


def test_the_smallest_role_follows_from_the_actions() -> None:
    assert simple_role(("airflow.pause_dag",)) == "user"
    assert simple_role(ALL) == "op"
    assert simple_role(()) == "viewer"


async def test_inspect_tells_product_clock_and_the_privileges_of_each_role(
    airflow_settings: Settings,
) -> None:
    def lacking(found: Any) -> set[str]:
        return {one.name for one in found.privileges if one.needed_by and not one.held}

    def surplus(found: Any) -> set[str]:
        return {one.name for one in found.privileges if one.held and not one.needed_by}

    viewer = await inspected(airflow_settings("viewer"), ON_DAGS)
    assert (viewer.version.split(".")[0], viewer.identity, viewer.unsupported) == ("3", "viewer", "")
    assert "scheduler healthy" in viewer.product
    assert abs(viewer.server_time - SystemClock().now()) < 30.0
    assert lacking(viewer) == {
        "can_edit on DAGs",
        "can_edit on DAG Runs",
        "can_create on DAG Runs",
        "can_edit on Task Instances",
    }
    assert not surplus(viewer)
    user = await inspected(airflow_settings("user"), ON_DAGS)
    assert (lacking(user), surplus(user)) == (set(), set())
    assert lacking(await inspected(airflow_settings("user"), ALL)) == {"can_edit on Pools"}
    secrets = {"can_read on Variables", "can_read on Connections"}
    op = await inspected(airflow_settings("op"), ALL)
    assert (lacking(op), surplus(op)) == (set(), secrets)
    admin = await inspected(airflow_settings("admin"), ("airflow.pause_dag",))
    assert surplus(admin) >= {*secrets, "can_edit on Pools"}


async def test_inspecting_changes_nothing(airflow_settings: Settings) -> None:
    async with AirflowClient(airflow_settings("admin")) as client:

        async def world() -> object:
            dags = (await client.call(SOON, "GET", "/dags", query={"limit": 100}))["dags"]
            pools = await client.call(SOON, "GET", "/pools", query={"order_by": "name"})
            roles = await client.call(SOON, "GET", "/dags/oncall_roles/dagRuns")
            return ([dag["dag_id"] for dag in dags], [pool["name"] for pool in pools["pools"]], roles)

        before = await world()
        await inspected(airflow_settings("admin"), ALL)
        assert await world() == before


async def test_the_generated_role_names_what_the_actions_need_and_no_more(airflow_settings: Settings) -> None:
    system = AirflowSystem(airflow_settings("user"))
    found = system.grants(("airflow.pause_dag",))
    assert "-a can_edit -r 'DAGs'" in found.text
    assert "simple_auth_manager_users = user:user" in found.text
    for absent in ("Pools", "-r 'Variables'", "-r 'Connections'", "can_create", "pw-user"):
        assert absent not in found.text
    assert "-a can_edit -r 'DAGs' 'DAG Runs' 'Task Instances' 'Pools'" in system.grants(ALL).text


async def test_the_role_can_do_no_more_than_the_simple_auth_manager_gives_it(
    airflow_settings: Settings,
) -> None:
    async with AirflowClient(airflow_settings("user")) as client:
        for method, path, body in (
            ("GET", "/variables", None),
            ("GET", "/connections", None),
            ("POST", "/pools", {"name": "not_ours", "slots": 1}),
            ("POST", "/variables", {"key": "not_ours", "value": "x"}),
        ):
            with pytest.raises(ForbiddenError):
                await client.call(SOON, method, path, body=body)


async def test_a_wrong_password_is_named_by_inspect(airflow_settings: Settings, monkeypatch) -> None:
    monkeypatch.setenv("TEST_WRONG", "s3cr3t-Zx81")
    with pytest.raises(PermanentError, match="refuses the password of user"):
        await inspected({**airflow_settings("user"), "password": "env:TEST_WRONG"}, ALL)


async def test_a_drill_without_its_sandbox_says_what_to_name(airflow_settings: Settings) -> None:
    settings = airflow_settings("op")
    for kind in DRILLS:
        drill = kind(settings, {})
        with pytest.raises(PermanentError, match="needs a sandbox: name its"):
            await drill.prepare(context())
        await drill.clean_up(context())
        absent = kind(settings, dict.fromkeys(kind.spec.sandbox_keys, "no_such_thing"))
        with pytest.raises(PermanentError, match=r"no sandbox|no such"):
            await absent.prepare(context())
        await absent.clean_up(context())


async def test_a_dag_of_the_wrong_name_is_refused_before_anything_is_asked(
    airflow_settings: Settings,
) -> None:
    from actions.airflow_control import PauseDag

    async with PauseDag(airflow_settings("user")) as executor:
        for name in ("", "a/../b", "x" * 300):
            with pytest.raises(PermanentError, match="the address must have a dag"):
                await executor.precheck(attempt(PauseDag, name))
