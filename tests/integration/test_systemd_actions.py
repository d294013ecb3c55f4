"""The systemd actions on a booted systemd: real faults, the fix proven, every refusal, outages, least privilege."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from backends.systemd_archive import USER_ID
from backends.systemd_fixtures import systemctl
from backends.systemd_server import bus_address
from docker.models.containers import Container

from actions.systemd import ResetFailed, RestartUnit, read_unit
from actions.systemd_bus import Bus
from actions.systemd_drills import SandboxDrill
from actions.systemd_prober import SystemdProber
from actions.systemd_system import SystemdSystem
from actions.systemd_units import Unit
from oncall_agent.contract import (
    ActionContext,
    Executor,
    PermanentError,
    Receipt,
    SystemClock,
    SystemContext,
    Target,
    TransientError,
    run_inline,
)
from oncall_agent.testing import Fault, FaultyProxy, RecordingLog, Upstream, check_outages, context_for
from oncall_agent.testing.harness import run_in_thread

pytestmark = [pytest.mark.backend("systemd"), pytest.mark.slow]

UNITS = ["oncall-test-*.service"]
STEADY = "[Service]\nExecStart=/bin/sleep 600\n"
GATED = "[Service]\nExecStart=/bin/sh -c 'test -e {gate} || exit 3; exec sleep 600'\n"
SANDBOX = Path(__file__).parents[2] / "config" / "systemd" / "oncall-agent-sandbox.service"
Make = Callable[..., str]
Open = Callable[..., Awaitable[Any]]


@pytest.fixture
def settings(systemd_folder: Path) -> dict[str, Any]:
    journal = str(systemd_folder / "journal")
    return {"bus": bus_address(systemd_folder), "units": UNITS, "journal_directory": journal}


@pytest.fixture
async def opened(settings: dict[str, Any]) -> AsyncIterator[Open]:
    executors: list[Any] = []

    async def open_one(kind: type[Any], **more: Any) -> Any:
        executors.append(await kind({**settings, **more}).__aenter__())
        return executors[-1]

    yield open_one
    for executor in executors:
        await executor.__aexit__(None, None, None)


@pytest.fixture
async def state(settings: dict[str, Any]) -> AsyncIterator[Callable[[str], Awaitable[Unit]]]:
    bus = Bus(settings)
    yield lambda name: read_unit(bus, name, 5.0)
    bus.close()


@pytest.fixture
def shared(systemd_folder: Path, tmp_path: Path) -> Path:
    """A folder of this test that the units see as /srv/shared/<name>."""
    folder = systemd_folder / "shared" / f"{tmp_path.name}-{os.getpid()}"
    folder.mkdir()
    return folder


def attempt(
    kind: type[Executor],
    unit: str,
    *,
    seconds: float = 20.0,
    key: str = "",
    dry_run: bool = False,
    **params: Any,
) -> ActionContext:
    return context_for(
        kind.spec.params.model_validate({"stable_seconds": 0.5, **params}),
        Target("shop", "systemd_unit", address={"unit": unit}),
        clock=SystemClock(),
        seconds=seconds,
        key=key,
        dry_run=dry_run,
    )


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def failed(make_unit: Make, state: Any, shared: Path) -> tuple[str, Path]:
    gate = shared / "gate"
    name = make_unit(GATED.format(gate=f"/srv/shared/{shared.name}/gate"))

    async def has_failed() -> bool:
        return (await state(name)).active == "failed"

    await until(has_failed)
    return name, gate


async def running(make_unit: Make, state: Any, text: str = STEADY) -> str:
    """A unit that has come up before the attempt begins: else its own start would count as the attempt's."""
    name = make_unit(text)

    async def runs() -> bool:
        return (await state(name)).sub == "running"

    await until(runs)
    return name


# --- restart -----------------------------------------------------------------------------------------------


async def test_restart_heals_a_failed_unit_and_proves_it(
    make_unit: Make, opened: Open, state: Any, shared: Path
) -> None:
    name, gate = await failed(make_unit, state, shared)
    executor, ctx = await opened(RestartUnit), attempt(RestartUnit, name)
    check = await executor.precheck(ctx)
    assert (check.ok, check.facts["result"], check.facts["exit_status"]) == (True, "exit-code", 3), check
    assert "status=3" in (await executor.diagnose(ctx))["journal"]
    gate.touch()
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    assert (await state(name)).sub == "running"


async def test_restart_verify_fails_while_the_unit_fails(
    make_unit: Make, opened: Open, state: Any, shared: Path
) -> None:
    name, _ = await failed(make_unit, state, shared)
    executor, ctx = await opened(RestartUnit), attempt(RestartUnit, name, seconds=2.0)
    check = await executor.verify(ctx, await executor.execute(ctx))
    assert not check.ok
    assert "failed" in check.reason


async def test_restart_acts_once_per_key_also_in_another_process(
    make_unit: Make, opened: Open, state: Any
) -> None:
    name = await running(make_unit, state)
    ctx = attempt(RestartUnit, name)
    first, second = await opened(RestartUnit), await opened(RestartUnit)
    old = (await state(name)).invocation
    receipt = await first.execute(ctx)
    assert (await first.verify(ctx, receipt)).ok
    new = (await state(name)).invocation
    assert old != new
    for executor in (first, second):
        replayed = await executor.execute(ctx)
        assert replayed.facts["already"]
        assert (await executor.verify(ctx, replayed)).ok
    assert new == (await state(name)).invocation


async def test_after_a_crash_the_precheck_facts_tell_whether_it_was_restarted(
    make_unit: Make, opened: Open, state: Any
) -> None:
    name = await running(make_unit, state)
    executor, ctx = await opened(RestartUnit), attempt(RestartUnit, name)
    facts = (await executor.precheck(ctx)).facts
    receipt = Receipt("systemd.restart_unit", 0.0, facts, partial=True)
    not_yet = await executor.verify(attempt(RestartUnit, name, seconds=0.3), receipt)
    assert (not_yet.ok, not_yet.reason) == (False, "the unit was not started anew")
    await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok


@pytest.mark.parametrize("kind", [RestartUnit, ResetFailed])
async def test_a_dry_run_changes_nothing(
    kind: type[Executor], make_unit: Make, opened: Open, state: Any, shared: Path
) -> None:
    name, _ = await failed(make_unit, state, shared)
    before = await state(name)
    receipt = await (await opened(kind)).execute(attempt(kind, name, dry_run=True))
    assert receipt.planned
    assert before == await state(name)


async def test_restart_refuses_a_masked_and_an_absent_unit(
    make_unit: Make, opened: Open, systemd_container: Container
) -> None:
    name, executor = make_unit(STEADY, start=False), await opened(RestartUnit)
    systemctl(systemd_container, "mask", "--runtime", name)
    try:
        assert "masked" in (await executor.precheck(attempt(RestartUnit, name))).reason
    finally:
        systemctl(systemd_container, "unmask", "--runtime", name)
    absent = await executor.precheck(attempt(RestartUnit, "oncall-test-none.service"))
    assert "not-found" in absent.reason


async def test_restart_refuses_an_alias_of_a_protected_unit(make_unit: Make, opened: Open) -> None:
    executor = await opened(RestartUnit, units=["*"])
    check = await executor.precheck(attempt(RestartUnit, "dbus-org.freedesktop.login1.service"))
    assert (check.ok, check.reason) == (False, "the unit is protected")


async def test_restart_refuses_a_unit_that_is_being_stopped(
    make_unit: Make, opened: Open, state: Any
) -> None:
    name = await running(make_unit, state, f"{STEADY}ExecStop=/bin/sleep 2\n")
    executor = await opened(RestartUnit)
    await executor.execute(attempt(RestartUnit, name))
    check = await executor.precheck(attempt(RestartUnit, name))
    assert (check.ok, check.reason) == (False, "systemd is starting or stopping it just now")


async def test_restart_refuses_what_the_journal_says_was_started_too_often(
    make_unit: Make, opened: Open, systemd_container: Container
) -> None:
    name = make_unit(STEADY)
    for _ in range(3):
        systemctl(systemd_container, "restart", name)
    executor = await opened(RestartUnit, max_restarts_per_hour=3)

    async def is_written() -> bool:
        check = await executor.precheck(attempt(RestartUnit, name))
        return check.facts["starts_within_an_hour"] >= 4 and "4 times within an hour" in check.reason

    await until(is_written)


# --- reset-failed, and the faults of the drills --------------------------------------------------------------


async def test_reset_clears_the_failed_state_once(
    make_unit: Make, opened: Open, state: Any, shared: Path
) -> None:
    name, _ = await failed(make_unit, state, shared)
    executor, ctx = await opened(ResetFailed), attempt(ResetFailed, name)
    assert (await executor.precheck(ctx)).ok
    receipt = await executor.execute(ctx)
    assert (await executor.verify(ctx, receipt)).ok
    assert (await state(name)).active == "inactive"
    assert (await executor.execute(ctx)).facts["result_before"] == "success"
    refused = await executor.precheck(ctx)
    assert (refused.ok, refused.reason) == (False, "the unit is inactive, not failed")


@pytest.fixture
def sandbox(make_unit: Make, shared: Path) -> dict[str, str]:
    gate = f"/srv/shared/{shared.name}/gate"
    text = SANDBOX.read_text().replace("/var/lib/oncall-agent-sandbox/gate", gate)
    (shared / "gate").write_text("ok\n")
    return {"unit": make_unit(text), "gate": str(shared / "gate")}


@pytest.mark.parametrize("kind", SystemdSystem.drills, ids=lambda kind: kind.spec.id)
async def test_drill_breaks_the_sandbox_and_its_action_heals_it(
    kind: type[SandboxDrill], sandbox: dict[str, str], settings: dict[str, Any], opened: Open
) -> None:
    drill, clock = kind(settings, sandbox), SystemClock()
    ctx = SystemContext(clock, RecordingLog(), clock.monotonic() + 30, run_in_thread)
    trial = await drill.prepare(ctx)
    assert (await drill.symptom(ctx, trial)).ok
    await drill.inject(ctx, trial)
    assert not (await drill.symptom(ctx, trial)).ok
    action = RestartUnit if kind.spec.action == "systemd.restart_unit" else ResetFailed
    executor = await opened(action)
    attempted = attempt(action, trial.target.address["unit"], **trial.params)
    check = await executor.precheck(attempted)
    assert check.ok, check
    assert (await executor.verify(attempted, await executor.execute(attempted))).ok
    assert (await drill.symptom(ctx, trial)).ok
    for _ in range(2):
        await drill.clean_up(ctx)
    assert (await drill.prepare(ctx)).target == trial.target
    await drill.clean_up(ctx)


async def test_a_drill_without_a_sandbox_says_what_to_name(settings: dict[str, Any]) -> None:
    drill, clock = SystemdSystem.drills[0](settings, {}), SystemClock()
    ctx = SystemContext(clock, RecordingLog(), clock.monotonic() + 5)
    with pytest.raises(PermanentError, match="unit, gate"):
        await drill.prepare(ctx)
    await drill.clean_up(ctx)


async def test_a_unit_at_its_start_limit_is_restarted_only_when_its_state_may_be_cleared(
    make_unit: Make, opened: Open, state: Any, shared: Path
) -> None:
    limit = "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=60\n"
    text = (
        limit + GATED.format(gate=f"/srv/shared/{shared.name}/gate") + "Restart=on-failure\nRestartSec=50ms\n"
    )
    name = make_unit(text)

    async def is_given_up() -> bool:
        unit = await state(name)
        return unit.active == "failed" and not unit.is_busy

    await until(is_given_up)
    (shared / "gate").touch()
    executor = await opened(RestartUnit)
    refused = await executor.precheck(attempt(RestartUnit, name))
    assert (refused.ok, "start limit" in refused.reason) == (False, True), refused
    plain = await executor.execute(attempt(RestartUnit, name))
    assert not (await executor.verify(attempt(RestartUnit, name, seconds=1.0), plain)).ok
    ctx = attempt(RestartUnit, name, reset=True)
    assert (await executor.precheck(ctx)).ok
    verified = await executor.verify(ctx, await executor.execute(ctx))
    assert verified.ok, verified


# --- outages, and what we may do -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RestartUnit, ResetFailed])
async def test_the_bus_may_go_away_at_any_time(
    kind: type[Executor], make_unit: Make, state: Any, shared: Path, systemd_folder: Path, opened: Open
) -> None:
    name, _ = await failed(make_unit, state, shared)
    upstream = Upstream(path=str(systemd_folder / "bus" / "system_bus_socket"))
    async with FaultyProxy(upstream, slow_seconds=0.02) as proxy:
        executor = await opened(kind, bus=f"tcp:host=127.0.0.1,port={proxy.port}", journal=False)
        before = await state(name)
        receipt = Receipt(kind.spec.id, 0.0, {"invocation_before": before.invocation})
        ended = await check_outages(
            executor, proxy, lambda seconds: attempt(kind, name, seconds=seconds), receipt=receipt
        )
        assert {one.method for one in ended} >= {"ping", "precheck", "execute", "verify"}
        await proxy.become(Fault.SLOW)
        assert (await executor.precheck(attempt(kind, name))).ok


async def test_an_absent_bus_is_named_and_blinds_the_prober(settings: dict[str, Any], opened: Open) -> None:
    bus = "unix:path=/run/no-such-bus"
    executor = await opened(RestartUnit, bus=bus)
    with pytest.raises(TransientError, match="can't be reached"):
        await executor.precheck(attempt(RestartUnit, "oncall-test-x.service"))
    prober = SystemdProber({**settings, "bus": bus})
    with pytest.raises(TransientError):
        await read(prober, "oncall-test-x.service")


async def read(prober: SystemdProber, unit: str) -> Any:
    target = Target("shop", "systemd_unit", address={"unit": unit})
    return await prober.read(
        target, prober.params(), timeout_seconds=5.0, clock=SystemClock(), run_blocking=run_inline
    )


async def test_prober_tells_well_from_failed(make_unit: Make, state: Any, shared: Path, opened: Open) -> None:
    prober = await opened(SystemdProber)
    steady = make_unit(STEADY)

    async def is_up() -> bool:
        return bool((await read(prober, steady)).signals.up)

    await until(is_up)
    sick, _ = await failed(make_unit, state, shared)
    assert (await read(prober, sick)).signals.up is False


@contextmanager
def as_user(number: int) -> Iterator[None]:
    """Be another user for the bus; the saved id brings root back."""
    os.setresuid(number, number, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_the_generated_rule_is_enough_and_no_more(
    make_unit: Make, settings: dict[str, Any], state: Any, shared: Path, systemd_container: Container
) -> None:
    name, gate = await failed(make_unit, state, shared)
    foreign = make_unit(STEADY, name="foreign-" + name)
    own = {**settings, "units": [name], "journal": False}
    actions = ["systemd.restart_unit", "systemd.reset_failed"]
    with as_user(USER_ID):
        async with RestartUnit(own) as without:
            with pytest.raises(PermanentError, match="does not permit"):
                await without.execute(attempt(RestartUnit, name))
    rule = SystemdSystem(own).grants(actions).text
    path = f"/etc/polkit-1/rules.d/{name}.rules"
    systemd_container.exec_run(["python3", "-c", f"open({path!r}, 'w').write({rule!r})"])
    gate.touch()
    try:
        with as_user(USER_ID):
            await _works_and_no_more(own, name, foreign)
    finally:
        systemd_container.exec_run(["rm", path])


async def _works_and_no_more(own: dict[str, Any], name: str, foreign: str) -> None:
    clock = SystemClock()
    bus = Bus(own)

    async def is_read() -> bool:
        # polkit reads a new rule when it is told of it by the kernel.
        try:
            await bus.manager(5.0, "ResetFailedUnit", "s", name)
        except PermanentError:
            return False
        return True

    await until(is_read)
    async with RestartUnit(own) as restart, ResetFailed(own) as reset, SystemdSystem(own) as system:
        ctx = attempt(RestartUnit, name)
        assert (await restart.precheck(ctx)).ok
        assert (await restart.verify(ctx, await restart.execute(ctx))).ok
        assert (await reset.verify(ctx, await reset.execute(attempt(ResetFailed, name)))).ok
        ctx = SystemContext(clock, RecordingLog(), clock.monotonic() + 5)
        found = await system.inspect(ctx, ["systemd.restart_unit"])
        assert [True, False] == [one.held for one in found.privileges]
        assert str(USER_ID) in found.identity
    for verb, arguments in (("RestartUnit", (foreign, "fail")), ("StopUnit", (name, "fail"))):
        with pytest.raises(PermanentError, match="does not permit"):
            await bus.manager(5.0, verb, "ss", *arguments)
    bus.close()


async def test_inspect_finds_too_much_privilege_for_root(settings: dict[str, Any]) -> None:
    clock = SystemClock()
    async with SystemdSystem(settings) as system:
        ctx = SystemContext(clock, RecordingLog(), clock.monotonic() + 5)
        found = await system.inspect(ctx, ["systemd.restart_unit"])
    assert (found.product, found.version[:2].isdecimal(), found.unsupported) == ("systemd", True, "")
    too_much = [one.name for one in found.privileges if one.held and not one.needed_by]
    assert ["restart any unit"] == too_much
