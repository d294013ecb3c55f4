"""When the API server goes away, refuses us, is slow, or is none: a named outcome in time, and recovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from backends.kubernetes_control import Access
from backends.kubernetes_scenes import attempt_on, node_target, system_context
from backends.kubernetes_world import World

from actions.kubernetes_drain import Drain
from actions.kubernetes_nodes import Cordon, Uncordon
from actions.kubernetes_pods import DeletePod
from actions.kubernetes_resources import SetResources
from actions.kubernetes_rollout import RolloutRestart, RolloutUndo
from actions.kubernetes_scale import RaiseHpa, Scale
from actions.kubernetes_stuck import DeleteStuck
from actions.kubernetes_system import KubernetesSystem, unsupported
from oncall_agent.contract import Executor, PermanentError, Receipt, Target
from oncall_agent.testing import Fault, FaultyProxy, Upstream, check_outages

pytestmark = pytest.mark.slow
KINDS: dict[type[Executor], dict[str, Any]] = {
    RolloutRestart: {},
    RolloutUndo: {},
    DeletePod: {},
    DeleteStuck: {},
    SetResources: {"memory_factor": 2.0},
    Scale: {"replicas": 2},
    RaiseHpa: {"max_step": 1},
    Cordon: {},
    Uncordon: {},
    Drain: {},
}
FACTS = {
    "before": {"replicas": 1},
    "wanted": {"replicas": 2},
    "restarted_at": "2026-01-01T00:00:00Z",
    "container": "app",
}


def target_of(kind: type[Executor]) -> Target:
    if kind.spec.target_kind == "kubernetes_node":
        return node_target("node1")
    address = {"namespace": "shop", "kind": "Deployment", "name": "web"}
    return Target("web", "kubernetes_workload", address=address)


@pytest.fixture
async def proxy(kubernetes_access: Access) -> AsyncIterator[FaultyProxy]:
    port = int(kubernetes_access.url.rpartition(":")[2])
    async with FaultyProxy(Upstream(port=port)) as found:
        yield found


@pytest.fixture
def through(proxy: FaultyProxy, kubernetes_access: Access, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("KUBERNETES_ADMIN_TOKEN", kubernetes_access.token)
    host = f"https://127.0.0.1:{proxy.port}"
    return {"host": host, "ca_file": str(kubernetes_access.ca), "token": "env:KUBERNETES_ADMIN_TOKEN"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.spec.id)
async def test_outage_ends_every_method_in_time(
    kind: type[Executor], proxy: FaultyProxy, through: dict[str, Any], kubernetes_access: Access
) -> None:
    async with kind(through) as executor:
        await check_outages(
            executor,
            proxy,
            lambda seconds: attempt_on(kind, target_of(kind), seconds=seconds, **KINDS[kind]),
            receipt=Receipt(kind.spec.id, 0.0, FACTS),
            deadline_seconds=0.4,
            secret=kubernetes_access.token,
        )


async def test_slow_server_is_waited_for(proxy: FaultyProxy, through: dict[str, Any], world: World) -> None:
    world.workload(replicas=0)
    address = {"namespace": world.namespace, "name": "web"}
    on = Target("web", "kubernetes_workload", address=address)
    await proxy.become(Fault.SLOW)
    async with Scale(through) as executor:
        check = await executor.precheck(attempt_on(Scale, on, replicas=1))
    assert check.ok, check


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token": "env:WRONG_TOKEN"}, "401.*not accepted"),
        ({"token": "env:NO_SUCH_TOKEN"}, "NO_SUCH_TOKEN"),
        ({"token": "env:KUBERNETES_NOBODY_TOKEN"}, "403"),
        ({"ca_file": ""}, "not signed by the CA"),
        (
            {"host": "", "ca_file": "", "token": None, "kubeconfig": "/nonexistent"},
            "kubeconfig is not usable",
        ),
    ],
    ids=["wrong token", "no token", "no rights", "wrong CA", "no kubeconfig"],
)
async def test_wrong_credentials_are_named(
    change: dict[str, Any],
    said: str,
    through: dict[str, Any],
    kubernetes_nobody: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WRONG_TOKEN", "s3cr3t-0815")
    monkeypatch.setenv("KUBERNETES_NOBODY_TOKEN", kubernetes_nobody)
    async with Cordon({**through, **change}) as executor:
        with pytest.raises(PermanentError, match=said) as error:
            await executor.precheck(attempt_on(Cordon, node_target("node1"), seconds=5))
    assert "s3cr3t" not in str(error.value)


async def test_what_is_no_api_server_is_named() -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with Cordon({"host": host}) as executor, KubernetesSystem({"host": host}) as system:
        ctx = attempt_on(Cordon, node_target("node1"), seconds=5)
        assert "no Kubernetes API server" in (await executor.ping(ctx)).reason
        with pytest.raises(PermanentError, match="no Kubernetes API server"):
            await system.inspect(system_context(5), [])
    await runner.cleanup()


def test_old_version_is_named() -> None:
    assert unsupported("v1.34.4") == ""
    assert unsupported("v1.20.7-gke") == "1.20 is older than 1.27"
    assert "not understood" in unsupported("nightly")


async def test_hung_server_delays_nobody_else(
    proxy: FaultyProxy, through: dict[str, Any], kubernetes_settings: dict[str, Any]
) -> None:
    await proxy.become(Fault.BLACK_HOLE)
    async with Cordon(through) as hung, Cordon(kubernetes_settings) as other:
        waiting = asyncio.create_task(hung.ping(attempt_on(Cordon, node_target("node1"), seconds=3)))
        async with asyncio.timeout(2):
            assert (await other.ping(attempt_on(Cordon, node_target("node1")))).ok
        assert not waiting.done()
        assert "in time" in (await waiting).reason
