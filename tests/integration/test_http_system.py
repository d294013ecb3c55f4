"""The HTTP system on real servers: what it finds, the least that is enough, and every drill to its end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from backends.nginx_server import Haproxy, Nginx
from backends.processes import free_port
from scenes.traffic import Member, declared_drills, haproxy_site, nginx_site

from actions.http import CallEndpoint
from actions.http_cdn import PurgeCdn
from actions.http_flags import ToggleFlag
from actions.http_pipeline import RollbackDeploy
from actions.http_system import HttpSystem
from actions.http_traffic import DrainBackend, ShiftTraffic
from oncall_agent.contract import Drill, Executor, PermanentError, SystemClock, SystemContext, Target
from oncall_agent.testing import FakeEdge, RecordingLog, context_for
from oncall_agent.testing.harness import run_in_thread
from oncall_agent.validation.drilling import carry_out
from oncall_agent.validation.results import Verdict

clock = SystemClock()
NOBODY = 64_712
ACTIONS = ["http.drain_backend", "http.shift_traffic"]
EXECUTORS: dict[str, type[Executor]] = {
    kind.spec.id: kind
    for kind in (CallEndpoint, DrainBackend, PurgeCdn, RollbackDeploy, ShiftTraffic, ToggleFlag)
}


@pytest.fixture
async def members() -> AsyncIterator[dict[str, Member]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Member(name)) for name in ("blue", "green")}


def context(seconds: float = 30.0) -> SystemContext:
    return SystemContext(clock, Log(), clock.monotonic() + seconds, run_in_thread)


class Log(RecordingLog):
    """A log that can be bound, as the suite's."""


# --- least privilege ---------------------------------------------------------------------------------------------


@contextmanager
def as_user(number: int) -> Iterator[None]:
    """Be another user; the saved id brings root back."""
    os.setresuid(number, number, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def own_nginx(nginx_binary: str) -> Iterator[Nginx]:
    """An nginx that runs as a user of its own, in a folder that this user may enter."""
    with tempfile.TemporaryDirectory(prefix="oncall-nginx-") as folder:
        Path(folder).chmod(0o755)
        instance = Nginx(nginx_binary, Path(folder) / "nginx", user=NOBODY)
        yield instance
        instance.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.backend("nginx")
async def test_on_nginx_a_user_with_the_pool_alone_is_enough_and_can_do_no_more(
    own_nginx: Nginx, members: dict[str, Member]
) -> None:
    site = nginx_site(own_nginx, members)
    own_nginx.folder.chmod(0o755)
    os.chown(own_nginx.config_path, 0, 0)
    other = {**site.settings, "pools": {"app": {**site.pool, "include": "/etc/hostname"}}}
    params = DrainBackend.spec.params.model_validate({"pool": "app", "member": "blue"})
    with as_user(NOBODY):
        ctx = context_for(params, Target("shop", "http_app"), clock=clock, seconds=20)
        async with DrainBackend(site.settings) as executor:
            assert (await executor.precheck(ctx)).ok
            receipt = await executor.execute(ctx)
            assert (await executor.verify(ctx, receipt)).ok
            assert (await executor.rollback(ctx, receipt)).ok
        async with HttpSystem(site.settings) as system:
            found = await system.inspect(context(), ACTIONS)
        with pytest.raises(PermissionError):
            own_nginx.config_path.write_text("# not ours")
        async with HttpSystem(other) as system:
            elsewhere = await system.inspect(context(), ACTIONS)
    assert found is not None
    assert elsewhere is not None
    assert (found.product, found.version, found.identity) == ("nginx", "1.22.1", f"uid {NOBODY}")
    assert [(one.held, bool(one.needed_by)) for one in found.privileges] == [
        (True, True),
        (True, True),
        (False, False),
    ]
    assert elsewhere.privileges[0].held is False


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.backend("haproxy")
async def test_on_haproxy_the_socket_of_level_admin_is_enough_and_its_user_alone_may_use_it(
    haproxy: Haproxy, members: dict[str, Member]
) -> None:
    site = await haproxy_site(haproxy, members, free_port())
    haproxy.socket_path.parent.chmod(0o755)
    os.chown(haproxy.socket_path, NOBODY, NOBODY)
    params = DrainBackend.spec.params.model_validate({"pool": "app", "member": "blue"})
    ctx = context_for(params, Target("shop", "http_app"), clock=clock, seconds=20)
    with as_user(NOBODY):
        async with DrainBackend(site.settings) as executor, HttpSystem(site.settings) as system:
            receipt = await executor.execute(ctx)
            assert (await executor.verify(ctx, receipt)).ok
            assert (await executor.rollback(ctx, receipt)).ok
            found = await system.inspect(context(), ACTIONS)
    assert found is not None
    assert (found.product, [one.held for one in found.privileges]) == ("HAProxy", [True])
    with as_user(NOBODY + 1):
        async with DrainBackend(site.settings) as executor:
            with pytest.raises(PermanentError, match="may not be used"):
                await executor.execute(ctx)


@pytest.mark.backend("haproxy")
async def test_inspect_finds_what_is_lacking_and_what_is_too_much(
    haproxy: Haproxy, nginx: Nginx, members: dict[str, Member]
) -> None:
    site = await haproxy_site(haproxy, members, free_port())
    web = nginx_site(nginx, members)
    lower = {**site.pool, "socket": f"{site.pool['socket']}.operator"}
    async with HttpSystem({"pools": {"app": lower, "web": web.pool}}) as system:
        found = await system.inspect(context(), ACTIONS)
    assert found is not None
    lacking = [one.name for one in found.privileges if one.needed_by and not one.held]
    assert lacking == ["change the servers of app"]
    too_much = [one.name for one in found.privileges if one.held and not one.needed_by]
    assert too_much == (["act as root"] if os.geteuid() == 0 else [])


# --- drills ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def edge() -> AsyncIterator[FakeEdge]:
    async with FakeEdge() as edge:
        edge.cached = dict(edge.origin)
        yield edge


@pytest.mark.backend("nginx")
@pytest.mark.parametrize("kind", HttpSystem.drills, ids=lambda kind: kind.spec.id)
async def test_drill_breaks_its_sandbox_and_its_action_heals_it(
    kind: type[Drill], edge: FakeEdge, nginx: Nginx, members: dict[str, Member]
) -> None:
    site = nginx_site(nginx, members)
    settings, sandbox = declared_drills(edge, site)
    drill = kind(settings, sandbox)
    async with EXECUTORS[kind.spec.action](settings) as executor:
        drilled = await carry_out(drill, executor, context(), check_id="c1")
    assert drilled.verdict is Verdict.PASSED, drilled
    assert (edge.flags["new-checkout"], edge.pipeline["version"]) == (True, "1.1.0")
    assert set(await site.visits(6)) == {"blue", "green"}
    assert edge.cached["/a.css"] == edge.origin["/a.css"]


async def test_a_drill_names_what_is_not_declared() -> None:
    for kind in HttpSystem.drills:
        drill = kind({}, {})
        with pytest.raises(PermanentError, match="no endpoint is named"):
            await drill.prepare(context())
        await drill.clean_up(context())
