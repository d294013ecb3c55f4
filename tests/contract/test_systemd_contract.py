"""The systemd actions through the contract test, and the refusals that need no real systemd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from dbus_fast import MessageType

from actions.systemd import ResetFailed, RestartUnit
from actions.systemd_prober import SystemdProber
from actions.systemd_system import SystemdSystem
from oncall_agent.contract import (
    ActionContext,
    Executor,
    PermanentError,
    SystemContext,
    Target,
    TransientError,
    run_inline,
)
from oncall_agent.testing import FakeClock, Harness, RecordingLog, check_executor, context_for
from oncall_agent.testing.systemd import FakeSystemd, FakeUnit

SETTINGS = {"units": ["shop*.service"], "journal": False}
SHOP = Target("shop", "systemd_unit", address={"unit": "shop.service"})


def reply(name: str, body: list[Any]) -> Any:
    kind = MessageType.ERROR if name else MessageType.METHOD_RETURN
    return SimpleNamespace(message_type=kind, error_name=name, body=body)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def systemd(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    fake = FakeSystemd(clock, reply)
    monkeypatch.setattr("actions.systemd_bus.MessageBus", fake)
    fake.add(FakeUnit("shop.service", active="failed", sub="failed", result="exit-code"))
    return fake


def attempt(kind: type[Executor], clock: FakeClock, target: Target = SHOP, **params: Any) -> ActionContext:
    return context_for(kind.spec.params.model_validate(params), target, clock=clock)


@pytest.mark.parametrize("kind", [RestartUnit, ResetFailed])
async def test_executor_keeps_the_contract(
    kind: type[Executor], systemd: FakeSystemd, clock: FakeClock
) -> None:
    async def make_sick() -> None:
        unit = systemd.units["shop.service"]
        unit.active, unit.sub, unit.result, unit.began_at = "failed", "failed", "exit-code", clock.now() - 60

    async def effects() -> int:
        return len(systemd.calls)

    async def snapshot() -> object:
        unit = systemd.units["shop.service"]
        return (unit.active, unit.result, unit.invocation)

    async def hang() -> None:
        systemd.hold.clear()

    async def release() -> None:
        systemd.hold.set()

    harness = Harness(
        factory=lambda: kind(SETTINGS),
        target=SHOP,
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        clock=clock,
    )
    scorecard = await check_executor(harness)
    assert not scorecard.failures, str(scorecard)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"load": "not-found"}, "not-found"),
        ({"load": "masked"}, "masked"),
        ({"pending": 7}, "just now"),
        ({"refuses_manual": True}, "by hand"),
        ({"names": ("dbus.service",)}, "protected"),
        ({"result": "start-limit-hit", "changed_at": 1_700_000_000.0}, "start limit"),
        ({"restarts": 4, "changed_at": 1_700_000_000.0}, "start limit"),
        ({"restarts": 9, "began_at": 1_700_000_000.0, "active": "active"}, "9 times within an hour"),
    ],
    ids=str,
)
async def test_restart_refuses(
    change: dict[str, Any], reason: str, systemd: FakeSystemd, clock: FakeClock
) -> None:
    for name, value in change.items():
        setattr(systemd.units["shop.service"], name, value)
    check = await RestartUnit(SETTINGS).precheck(attempt(RestartUnit, clock))
    assert not check.ok
    assert reason in check.reason


@pytest.mark.parametrize(
    ("unit", "settings", "reason"),
    [
        ("dbus.service", {"units": ["*"]}, "protected"),
        ("ssh.service", {"units": ["*"]}, "protected"),
        ("systemd-journald.service", {"units": ["*"]}, "protected"),
        ("oncall-agent.service", {"units": ["*"]}, "protected"),
        ("till.service", {"units": ["shop*"]}, "not among"),
        ("till.service", {"units": ["*"], "protected": ["till*"]}, "protected"),
    ],
)
async def test_both_refuse_what_the_operator_did_not_list(
    unit: str, settings: dict[str, Any], reason: str, systemd: FakeSystemd, clock: FakeClock
) -> None:
    systemd.add(FakeUnit(unit, active="failed", sub="failed", result="exit-code"))
    target = Target("x", "systemd_unit", address={"unit": unit})
    for kind in (RestartUnit, ResetFailed):
        executor = kind({**settings, "journal": False})
        check = await executor.precheck(attempt(kind, clock, target))
        assert (check.ok, reason in check.reason) == (False, True), check
        with pytest.raises(PermanentError, match=reason):
            await executor.execute(attempt(kind, clock, target))
    assert systemd.calls == []


async def test_a_protected_target_is_refused_whatever_the_settings_say(
    systemd: FakeSystemd, clock: FakeClock
) -> None:
    target = Target("shop", "systemd_unit", address={"unit": "shop.service"}, protected=True)
    check = await RestartUnit(SETTINGS).precheck(attempt(RestartUnit, clock, target))
    assert (check.ok, check.reason) == (False, "the target is protected")


async def test_the_own_unit_is_protected(
    systemd: FakeSystemd, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actions.systemd.own_unit", lambda: "shop.service")
    check = await RestartUnit(SETTINGS).precheck(attempt(RestartUnit, clock))
    assert (check.ok, check.reason) == (False, "the unit is protected")


@pytest.mark.parametrize("unit", ["shop", "shop.socket", "../shop.service", "-shop.service", 7, None])
async def test_an_address_that_is_no_service_is_refused(unit: object, clock: FakeClock) -> None:
    target = Target("x", "systemd_unit", address={"unit": unit})
    with pytest.raises(PermanentError, match="must have a unit"):
        await RestartUnit(SETTINGS).precheck(attempt(RestartUnit, clock, target))


async def test_units_have_to_be_listed() -> None:
    with pytest.raises(ValueError, match="units"):
        RestartUnit({})


async def test_reset_refuses_a_unit_that_has_not_failed(systemd: FakeSystemd, clock: FakeClock) -> None:
    systemd.units["shop.service"].active = "active"
    check = await ResetFailed(SETTINGS).precheck(attempt(ResetFailed, clock))
    assert (check.ok, check.reason) == (False, "the unit is active, not failed")


async def test_restart_clears_a_start_limit_only_when_asked(systemd: FakeSystemd, clock: FakeClock) -> None:
    systemd.units["shop.service"].result = "start-limit-hit"
    ctx, executor = attempt(RestartUnit, clock, reset=True), RestartUnit(SETTINGS)
    assert (await executor.precheck(ctx)).ok
    await executor.execute(ctx)
    assert [("reset", "shop.service"), ("restart", "shop.service")] == systemd.calls


async def test_verify_sees_a_unit_that_keeps_crashing(systemd: FakeSystemd, clock: FakeClock) -> None:
    ctx, executor = attempt(RestartUnit, clock, stable_seconds=3.0), RestartUnit(SETTINGS)
    receipt = await executor.execute(ctx)
    unit, sleep = systemd.units["shop.service"], clock.sleep

    async def crashing(seconds: float) -> None:
        unit.invocation += 1
        await sleep(seconds)

    clock.sleep = crashing  # type: ignore[method-assign]
    check = await executor.verify(ctx, receipt)
    assert (check.ok, check.reason) == (False, "the unit keeps crashing")


async def test_a_denied_restart_is_permanent(systemd: FakeSystemd, clock: FakeClock) -> None:
    systemd.denied.add("RestartUnit")
    with pytest.raises(PermanentError, match="does not permit"):
        await RestartUnit(SETTINGS).execute(attempt(RestartUnit, clock))


async def test_an_absent_bus_is_transient(systemd: FakeSystemd, clock: FakeClock) -> None:
    systemd.is_away = systemd.connected = True
    executor = RestartUnit(SETTINGS)
    with pytest.raises(TransientError, match="can't be reached"):
        await executor.execute(attempt(RestartUnit, clock))
    assert not (await executor.ping(attempt(RestartUnit, clock))).ok


@pytest.mark.parametrize(
    ("change", "up"),
    [
        ({"active": "active", "sub": "running", "result": "success"}, True),
        ({}, False),
        ({"active": "activating", "sub": "auto-restart"}, False),
    ],
)
async def test_prober_reads_state_and_memory(
    change: dict[str, Any], up: bool, systemd: FakeSystemd, clock: FakeClock
) -> None:
    for name, value in change.items():
        setattr(systemd.units["shop.service"], name, value)
    prober = SystemdProber(SETTINGS)
    reading = await prober.read(
        SHOP, prober.params(), timeout_seconds=1.0, clock=clock, run_blocking=run_inline
    )
    assert (reading.signals.up, reading.signals.memory) == (up, 0.5 if up else None)


@pytest.mark.parametrize(
    ("denied", "held"),
    [(set(), [True, True]), ({"RestartUnit"}, [False, False])],
    ids=["root", "nobody"],
)
async def test_inspect_tells_what_polkit_permits(
    denied: set[str], held: list[bool], systemd: FakeSystemd, clock: FakeClock
) -> None:
    systemd.denied |= denied
    ctx = SystemContext(clock, RecordingLog(), clock.monotonic() + 5)
    found = await SystemdSystem(SETTINGS).inspect(ctx, ["systemd.restart_unit"])
    assert (found.product, found.version, found.unsupported) == ("systemd", "252", "")
    assert held == [one.held for one in found.privileges]


def test_grants_name_only_the_verbs_that_the_actions_need() -> None:
    system = SystemdSystem({"units": ["shop-*.service", "a?b.service"]})
    both = system.grants(["systemd.restart_unit", "systemd.reset_failed"]).text
    assert 'var verbs = ["reset-failed", "restart"];' in both
    assert r"/^shop\-.*\.service$/, /^a.b\.service$/, /^oncall\-agent\-probe\.service$/" in both
    one = system.grants(["systemd.reset_failed"]).text
    assert 'var verbs = ["reset-failed"];' in one
    assert "probe" not in one
