"""`http.shift_traffic` and `http.drain_backend` on a real nginx and a real HAProxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from backends.nginx_server import Haproxy, Nginx
from backends.processes import free_port
from scenes.traffic import Member, Site, haproxy_site, nginx_site

from actions.http_traffic import DrainBackend, ShiftTraffic
from oncall_agent.contract import (
    ActionContext,
    Executor,
    PermanentError,
    Receipt,
    SystemClock,
    Target,
    TransientError,
)
from oncall_agent.testing import Fault, FaultyProxy, Upstream, check_outages, context_for
from oncall_agent.testing.harness import run_in_thread

clock = SystemClock()
TARGET = Target("shop", "http_app")
BOTH = ["nginx", "haproxy"]
Open = Callable[[str], Awaitable[Site]]


@pytest.fixture
async def members() -> AsyncIterator[dict[str, Member]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Member(name)) for name in ("blue", "green", "red")}


@pytest.fixture
async def site(request: pytest.FixtureRequest, members: dict[str, Member]) -> Site:
    """The balancer that the test's parameter names."""
    if request.param == "nginx":
        return nginx_site(request.getfixturevalue("nginx"), members)
    return await haproxy_site(request.getfixturevalue("haproxy"), members, free_port())


both = pytest.mark.parametrize(
    "site", [pytest.param(name, marks=pytest.mark.backend(name)) for name in BOTH], indirect=True
)
on_nginx = pytest.mark.parametrize(
    "site", [pytest.param("nginx", marks=pytest.mark.backend("nginx"))], indirect=True
)
on_haproxy = pytest.mark.parametrize(
    "site", [pytest.param("haproxy", marks=pytest.mark.backend("haproxy"))], indirect=True
)


def attempt(
    kind: type[Executor] = DrainBackend,
    *,
    seconds: float = 10.0,
    key: str = "",
    dry_run: bool = False,
    **params: Any,
) -> ActionContext:
    return context_for(
        kind.spec.params.model_validate({"pool": "app", "member": "blue", **params}),
        TARGET,
        clock=clock,
        seconds=seconds,
        key=key,
        dry_run=dry_run,
        run_blocking=run_in_thread,
    )


async def until_seen(executor: Executor, reason: str) -> None:
    """Wait until the balancer itself has noticed: its health checks take a moment."""
    async with asyncio.timeout(10):
        while reason not in (await executor.precheck(attempt())).reason:
            await asyncio.sleep(0.01)


@both
async def test_draining_a_sick_member_ends_the_errors_and_is_undone(site: Site) -> None:
    site.members["blue"].is_sick = True
    if isinstance(site.balancer, Nginx):  # HAProxy's own checks have taken it out already
        assert (await site.visits())["error"] > 0
    symptom = {"url": site.balancer.url + "/", "hold_seconds": 0.2, "interval_seconds": 0.02}
    settings = {**site.settings, "pools": {"app": {**site.pool, "symptom": symptom}}}
    async with DrainBackend(settings) as executor:
        ctx = attempt()
        check = await executor.precheck(ctx)
        assert check.ok, check
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
        assert set(await site.visits()) == {"green", "red"}
        site.members["blue"].is_sick = False
        for _ in range(2):
            assert (await executor.rollback(ctx, receipt)).ok
    async with asyncio.timeout(10):
        while "blue" not in await site.visits(6):
            await asyncio.sleep(0.01)


@both
async def test_a_shifted_weight_is_what_visitors_see(site: Site) -> None:
    async with ShiftTraffic(site.settings) as executor:
        ctx = attempt(ShiftTraffic, weight=80)
        async with asyncio.timeout(10):
            while not (check := await executor.precheck(ctx)).ok:
                await asyncio.sleep(0.01)
        assert check.facts["up"] == ["blue", "green", "red"]
        receipt = await executor.execute(ctx)
        assert (await executor.verify(ctx, receipt)).ok
        others = sum(weight for name, weight in check.facts["weights"].items() if name != "blue")
        seen = await site.visits(2 * (80 + others) if others == 2 else 100)
        assert seen["blue"] == pytest.approx(sum(seen.values()) * 80 / (80 + others), abs=1)
        assert (await executor.rollback(ctx, receipt)).ok
        assert (await executor.diagnose(ctx))["weights"] == check.facts["weights"]


@both
async def test_the_last_healthy_member_is_never_drained(site: Site) -> None:
    async with DrainBackend(site.settings) as executor:
        site.members["green"].is_sick = True
        await site.members["red"].close()
        await until_seen(executor, "only 0 other members are healthy")
        with pytest.raises(PermanentError, match="only 0 other members"):
            await executor.execute(attempt())


@both
async def test_a_member_that_is_down_gets_no_more_traffic(site: Site) -> None:
    site.members["blue"].is_sick = True
    async with ShiftTraffic(site.settings) as executor, asyncio.timeout(10):
        while True:
            check = await executor.precheck(attempt(ShiftTraffic, weight=100))
            if "may not get more traffic" in check.reason:
                break
            await asyncio.sleep(0.01)


@both
async def test_a_repeat_and_a_dry_run_change_nothing(site: Site) -> None:
    async with DrainBackend(site.settings) as executor, DrainBackend(site.settings) as other:
        planned = await executor.execute(attempt(dry_run=True))
        before = (await executor.diagnose(attempt()))["weights"]
        assert (planned.planned, before["blue"] > 0) == (True, True)
        ctx = attempt()
        await executor.execute(ctx)
        state = await world(site)
        await executor.execute(ctx)
        await other.execute(ctx)
        assert state == await world(site)


async def world(site: Site) -> object:
    if isinstance(site.balancer, Nginx):
        # Every change makes a new file.
        found = Path(site.pool["include"]).stat()
        return found.st_ino, found.st_mtime_ns
    # Of each server its name, administrative state and weight; the rest is what its health checks count.
    lines = (await asyncio.to_thread(site.balancer.ask, "show servers state app")).splitlines()
    return [[line.split()[column] for column in (3, 6, 7)] for line in lines[2:] if line]


@both
async def test_an_unknown_member_is_refused(site: Site) -> None:
    async with DrainBackend(site.settings) as executor:
        check = await executor.precheck(attempt(member="purple"))
        assert (check.ok, "no member" in check.reason) == (False, True)
        with pytest.raises(PermanentError, match="no member"):
            await executor.execute(attempt(member="purple"))


# --- nginx: the file and the reload ------------------------------------------------------------------------------


@on_nginx
async def test_what_nginx_refuses_is_put_back(site: Site) -> None:
    include = Path(site.pool["include"])
    include.write_text(include.read_text() + "no_such_directive on;\n")
    before = include.read_text()
    async with DrainBackend(site.settings) as executor:
        with pytest.raises(PermanentError, match="no_such_directive"):
            await executor.execute(attempt())
    assert before == include.read_text()
    assert set(await site.visits()) == {"blue", "green", "red"}


@on_nginx
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"test": ["/bin/sleep", "60"]}, TransientError),
        ({"reload": ["/no/such/program"]}, PermanentError),
    ],
    ids=["hangs", "absent"],
)
async def test_a_program_that_hangs_or_is_absent_is_named_and_the_file_put_back(
    change: dict[str, Any], error: type[Exception], site: Site
) -> None:
    before = Path(site.pool["include"]).read_text()
    settings = {"timeout_seconds": 0.2, "pools": {"app": {**site.pool, **change}}}
    async with DrainBackend(settings) as executor:
        with pytest.raises(error):
            await executor.execute(attempt(seconds=2.0))
    assert before == Path(site.pool["include"]).read_text()


@on_nginx
async def test_a_file_that_nginx_does_not_use_yet_is_no_success(site: Site) -> None:
    old_enough = clock.monotonic() + 0.1  # the kernel tells a process's start in hundredths of a second only
    while clock.monotonic() < old_enough:
        await asyncio.sleep(0.01)
    settings = {"pools": {"app": {**site.pool, "reload": ["/bin/true"]}}}
    async with DrainBackend(settings) as executor:
        ctx = attempt(seconds=1.0)
        with pytest.raises(TransientError, match="into use"):
            await executor.execute(ctx)
        check = await executor.verify(attempt(seconds=0.5), Receipt("http.drain_backend", 0.0))
        assert (check.ok, check.reason) == (False, "nginx still uses the former weights")
    async with DrainBackend(site.settings) as executor:
        repeated = attempt(key=ctx.idempotency_key)
        assert (await executor.verify(repeated, await executor.execute(repeated))).ok


@on_nginx
async def test_an_nginx_that_is_gone_is_no_success(site: Site) -> None:
    async with DrainBackend(site.settings) as executor:
        ctx = attempt()
        receipt = await executor.execute(ctx)
        await asyncio.to_thread(site.balancer.stop)
        check = await executor.verify(attempt(seconds=0.3), receipt)
    assert (check.ok, check.reason) == (False, "nginx does not run")


@on_nginx
@pytest.mark.parametrize("kind", [DrainBackend, ShiftTraffic])
async def test_an_absent_include_file_is_named(kind: type[Executor], site: Site) -> None:
    Path(site.pool["include"]).unlink()
    async with kind(site.settings) as executor:
        params = {"weight": 5} if kind is ShiftTraffic else {}
        check = await executor.precheck(attempt(kind, **params))
        assert (check.ok, "include file" in check.reason) == (False, True), check


# --- HAProxy: the socket -----------------------------------------------------------------------------------------


@on_haproxy
async def test_a_socket_of_a_lower_level_is_refused_by_name(site: Site) -> None:
    settings = {"pools": {"app": {**site.pool, "socket": f"{site.pool['socket']}.operator"}}}
    async with DrainBackend(settings) as executor:
        with pytest.raises(PermanentError, match="Permission denied"):
            await executor.execute(attempt())


@pytest.mark.backend("haproxy")
@pytest.mark.parametrize("kind", [DrainBackend, ShiftTraffic])
async def test_haproxy_may_go_away_at_any_time(
    kind: type[Executor], haproxy: Haproxy, members: dict[str, Member]
) -> None:
    port = free_port()
    site = await haproxy_site(haproxy, members, port)
    params = {"weight": 5} if kind is ShiftTraffic else {}
    async with FaultyProxy(Upstream(port=port), slow_seconds=0.02) as proxy:
        pool = {**site.pool, "socket": f"127.0.0.1:{proxy.port}"}
        async with kind({"pools": {"app": pool}}) as executor:
            receipt = Receipt(kind.spec.id, 0.0, {"before": {"weight": 3, "drained": False}})
            await check_outages(
                executor,
                proxy,
                lambda seconds: attempt(kind, seconds=seconds, **params),
                receipt=receipt,
                deadline_seconds=0.4,
            )
            await proxy.become(Fault.SLOW)
            assert (await executor.ping(attempt(kind, **params))).ok


@pytest.mark.backend("haproxy")
async def test_something_else_than_haproxy_is_named(members: dict[str, Member]) -> None:
    pool = {"provider": "haproxy", "socket": members["blue"].address, "backend": "app"}
    async with DrainBackend({"pools": {"app": pool}}) as executor:
        check = await executor.precheck(attempt())
    assert not check.ok
