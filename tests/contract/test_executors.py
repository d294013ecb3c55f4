"""Every entry point of the project goes through the contract test that third parties run."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from actions.app import Restart, RollbackDeploy, ScaleUp
from actions.app_deploy import Deploy
from actions.docker import RestartContainer, StartOrUnpause
from actions.docker_image import RecreateWithImage
from actions.docker_limits import UpdateLimits
from actions.escalate import Page
from actions.filesystem import Purge
from actions.http import CallEndpoint
from actions.watch import Wait
from oncall_agent.contract import Executor, SystemClock, Target
from oncall_agent.testing import (
    FakeApprise,
    FakeClock,
    FakeContainer,
    FakeDocker,
    FakePatient,
    Harness,
    check_executor,
)
from oncall_agent.testing.harness import run_in_thread

SECRET = "s3cr3t-Zx81"


@dataclass
class Worlds:
    patient: FakePatient
    engine: FakeDocker
    apprise: FakeApprise
    clock: FakeClock
    folder: Path


@pytest.fixture
async def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worlds]:
    clock = FakeClock()
    engine, apprise = FakeDocker(clock), FakeApprise()
    monkeypatch.setattr("docker.APIClient", engine)
    monkeypatch.setitem(sys.modules, "apprise", apprise)
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    monkeypatch.setenv("TEST_CHANNEL", f"json://user:{SECRET}@127.0.0.1/")
    async with FakePatient(clock, token=SECRET) as patient:
        yield Worlds(patient, engine, apprise, clock, tmp_path)


def app(
    worlds: Worlds, kind: type[Executor], sickness: str, params: dict[str, object] | None = None
) -> Harness:
    patient = worlds.patient

    async def make_sick() -> None:
        patient.is_down, patient.error_rate, patient.memory = sickness == "down", 0.0, 0.5
        if sickness == "overload":
            patient.error_rate = 0.5
        if sickness == "bad version":
            patient.old, patient.state = (
                {"version": "1.0.0", "replicas": 1},
                {"version": "1.1.0", "replicas": 1},
            )
            patient.deployed_at, patient.key = patient.clock.now(), ""

    async def hang() -> None:
        patient.hangs = True

    async def release() -> None:
        patient.hangs = False

    async def effects() -> int:
        return patient.effects

    async def snapshot() -> object:
        return patient.state

    return Harness(
        factory=lambda: kind({"token": "env:TEST_TOKEN"}),
        target=Target("checkout", "http_app", address={"url": patient.url}),
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        params=params or {},
        clock=worlds.clock,
    )


def http_call(worlds: Worlds) -> Harness:
    patient = worlds.patient
    base = app(worlds, Restart, "")
    endpoint = {
        "url": "/flush",
        "secret_headers": {"Authorization": "env:TEST_HEADER"},
        "idempotent": True,
        "verify": {"url": "/api/v1/status", "assertion": "flushes > `0`"},
        "undo": {"url": "/deploy", "body": {"flushed": False}},
    }

    async def make_sick() -> None:
        patient.flushes = 0
        patient.state.pop("flushed", None)

    async def snapshot() -> object:
        # The undo is an effect of its own: what it restores is what it declares.
        undone = patient.state.get("flushed") is False
        return 0 if undone else patient.flushes

    return Harness(
        factory=lambda: CallEndpoint({"endpoints": {"flush": endpoint}}),
        target=base.target,
        make_sick=make_sick,
        count_effects=base.count_effects,
        snapshot=snapshot,
        hang=base.hang,
        release=base.release,
        secret=SECRET,
        params={"endpoint": "flush"},
        clock=worlds.clock,
    )


def docker(worlds: Worlds, kind: type[Executor], sickness: str, params: dict[str, object]) -> Harness:
    engine = worlds.engine
    new_image = "sha256:" + "2" * 64
    names = {"restart": ("restart", "start"), "create": ("create",), "update": ("update",)}
    counted = names[
        {"unhealthy": "restart", "exited": "restart", "oom": "update", "image": "create"}[sickness]
    ]

    async def make_sick() -> None:
        engine.containers_by_name.clear()
        engine.images["shop:2"] = engine.images[new_image] = new_image
        one = engine.add(
            FakeContainer("shop", env=[f"PASSWORD={SECRET}"], started_at=worlds.clock.now() - 60)
        )
        if sickness in ("exited", "oom"):
            one.status, one.exit_code = "exited", 137
        one.oom_killed = sickness == "oom"
        one.health = "unhealthy" if sickness in ("unhealthy", "image") else "healthy"

    async def effects() -> int:
        return sum(verb in counted for verb, _ in engine.calls)

    async def snapshot() -> object:
        one = engine.containers_by_name["shop"]
        return (one.id, one.status, one.memory, one.swap, one.image, sorted(engine.containers_by_name))

    async def hang() -> None:
        engine.hold.clear()

    async def release() -> None:
        engine.hold.set()

    return Harness(
        factory=lambda: kind({}),
        target=Target("shop", "docker_container", address={"container": "shop"}),
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        params=params,
        clock=worlds.clock,
        run_blocking=run_in_thread,
    )


def purge(worlds: Worlds) -> Harness:
    root = worlds.folder / "cache"
    root.mkdir()
    clock = SystemClock()

    async def make_sick() -> None:
        for number in range(3):
            path = root / f"part-{number}.tmp"
            path.write_bytes(b"x" * 10_000)
            os.utime(path, (1_600_000_000, 1_600_000_000))

    async def snapshot() -> object:
        return sorted(path.name for path in root.iterdir() if path.is_file())

    async def effects() -> int:
        return len(list(root.glob(".oncall-quarantine/*")))

    return Harness(
        factory=lambda: Purge({"roots": [str(root)], "min_age_seconds": 0}),
        target=Target("cache", "directory", address={"root": str(root)}),
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        params={"glob": "*.tmp", "older_than_seconds": 0},
        clock=clock,
        run_blocking=run_in_thread,
    )


def page(worlds: Worlds) -> Harness:
    apprise = worlds.apprise

    async def make_sick() -> None:
        worlds.folder.joinpath("pages.jsonl").unlink(missing_ok=True)

    async def hang() -> None:
        apprise.hold.clear()

    async def release() -> None:
        apprise.hold.set()

    async def effects() -> int:
        return len(apprise.sent)

    settings = {"urls": ["env:TEST_CHANNEL"], "file": str(worlds.folder / "pages.jsonl")}
    return Harness(
        factory=lambda: Page(settings),
        target=Target("shop", "docker_container"),
        make_sick=make_sick,
        count_effects=effects,
        snapshot=effects,
        hang=hang,
        release=release,
        secret=SECRET,
        incident={"id": "i1", "title": "shop is down", "severity": "critical"},
        clock=worlds.clock,
        run_blocking=run_in_thread,
    )


def wait(_worlds: Worlds) -> Harness:
    async def nothing() -> None:
        return None

    async def zero() -> int:
        return 0

    return Harness(
        factory=lambda: Wait({}),
        target=Target("any", "*"),
        make_sick=nothing,
        count_effects=zero,
        snapshot=zero,
    )


HARNESSES = {
    "app.deploy": lambda worlds: app(worlds, Deploy, "bad version", {"version": "1.0.0", "quiet_seconds": 0}),
    "app.restart": lambda worlds: app(worlds, Restart, "down"),
    "app.rollback_deploy": lambda worlds: app(worlds, RollbackDeploy, "bad version"),
    "app.scale_up": lambda worlds: app(worlds, ScaleUp, "overload"),
    "docker.recreate_with_image": lambda worlds: docker(
        worlds, RecreateWithImage, "image", {"image": "shop:2"}
    ),
    "docker.restart_container": lambda worlds: docker(worlds, RestartContainer, "unhealthy", {}),
    "docker.start_or_unpause": lambda worlds: docker(worlds, StartOrUnpause, "exited", {}),
    "docker.update_limits": lambda worlds: docker(worlds, UpdateLimits, "oom", {"memory_factor": 1.5}),
    "escalate.page": page,
    "filesystem.purge": purge,
    "http.call": http_call,
    "watch.wait": wait,
}
"""Action -> the world that its contract test runs in."""


@pytest.mark.parametrize("action", HARNESSES)
async def test_executor_keeps_the_contract(
    action: str, worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_HEADER", f"Bearer {SECRET}")
    scorecard = await check_executor(HARNESSES[action](worlds))
    assert not scorecard.failures, str(scorecard)


def checked_executors(path: Path) -> set[str]:
    """`module:Class` of each executor that a file imports, if it runs the contract test."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    if not any(isinstance(node, ast.Call) and ast.unparse(node.func) == "check_executor" for node in nodes):
        return set()
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}:{one.name}" for node in imports for one in node.names}


def test_every_entry_point_of_the_project_has_a_contract_test() -> None:
    files = Path(__file__).parent.glob("test_*.py")
    checked = set().union(*(checked_executors(path) for path in files))
    without = {
        point.name
        for point in entry_points(group="oncall_agent.actions")
        if point.value.startswith("actions.") and point.value not in checked
    }
    assert without == set()


@pytest.mark.parametrize(
    "point",
    [p for p in entry_points(group="oncall_agent.actions") if p.value.startswith("actions.")],
    ids=str,
)
def test_entry_point_is_named_like_its_action(point) -> None:
    assert point.name == point.load().spec.id


@pytest.mark.parametrize(
    "point",
    [p for p in entry_points(group="oncall_agent.probers") if p.value.startswith("actions.")],
    ids=str,
)
def test_entry_point_is_named_like_its_prober(point) -> None:
    assert point.name == point.load().kind
