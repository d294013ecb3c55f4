"""The contract test of the docker actions that concern more than one container."""

from __future__ import annotations

import pytest

from actions.docker_isolate import IsolateOrStop
from actions.docker_prune import Prune
from oncall_agent.contract import Executor, Target
from oncall_agent.testing import FakeClock, FakeContainer, Harness, check_executor
from oncall_agent.testing.docker_host import FakeDockerHost, FakeImage
from oncall_agent.testing.harness import run_in_thread

SECRET = "s3cr3t-Zx81"
SERVICE = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeDockerHost:
    host = FakeDockerHost(FakeClock())
    monkeypatch.setattr("docker.APIClient", host)
    monkeypatch.setattr("os.statvfs", host.statvfs)
    return host


def harness(engine: FakeDockerHost, kind: type[Executor], params: dict[str, object], counted: str) -> Harness:
    async def make_sick() -> None:
        engine.containers_by_name.clear()
        for name in ("web-1", "web-2"):
            engine.add(FakeContainer(name, labels=dict(SERVICE), env=[f"PASSWORD={SECRET}"]))
        engine.networks = {name: {"back": {"Aliases": ["web"]}} for name in ("web-1", "web-2")}
        engine.containers_by_name["web-1"].health = "unhealthy"
        engine.removed_at = 0.0
        engine.unused = {"old:1": FakeImage("old:1", labels={"token": SECRET})}

    async def effects() -> int:
        return sum(verb == counted for verb, _ in engine.calls)

    async def snapshot() -> object:
        one = engine.containers_by_name["web-1"]
        return (one.status, dict(engine.networks["web-1"]), sorted(engine.unused))

    async def hang() -> None:
        engine.hold.clear()

    async def release() -> None:
        engine.hold.set()

    return Harness(
        factory=lambda: kind({"min_prune_age_seconds": 0}),
        target=Target("web", kind.spec.target_kind, address={"container": "web-1"}),
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        params=params,
        clock=engine.clock,
        run_blocking=run_in_thread,
    )


CASES: list[tuple[type[Executor], dict[str, object], str]] = [
    (IsolateOrStop, {"stable_seconds": 1}, "stop"),
    (IsolateOrStop, {"stable_seconds": 1, "network": "back"}, "disconnect"),
    (Prune, {"images": "unused", "over": 0.85, "target": 0.82}, "remove image"),
]


@pytest.mark.parametrize(
    ("kind", "params", "counted"), CASES, ids=lambda case: getattr(case, "__name__", None)
)
async def test_executor_keeps_the_contract(kind, params, counted, engine: FakeDockerHost) -> None:
    scorecard = await check_executor(harness(engine, kind, params, counted))
    assert not scorecard.failures, str(scorecard)
