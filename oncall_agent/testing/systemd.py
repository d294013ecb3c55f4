"""A system bus with systemd on it that can be broken: stands for `dbus_fast.aio.MessageBus`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

from oncall_agent.contract import Clock

_ERROR = "org.freedesktop.DBus.Error."


@dataclass
class FakeUnit:
    """One service unit; its attributes are what systemd says of it."""

    name: str
    active: str = "active"
    sub: str = "running"
    result: str = "success"
    load: str = "loaded"
    invocation: int = 1
    restarts: int = 0
    began_at: float = 0.0
    changed_at: float = 0.0
    names: tuple[str, ...] = ()
    pending: int = 0
    refuses_manual: bool = False
    comes_up: bool = True
    """Whether a start leads to a running unit."""


@dataclass
class FakeSystemd:
    """Call it as the client library's bus; `calls` holds what was asked to be changed.

    Attributes:
        hold: cleared, calls are accepted and not answered.
        denied: methods that polkit refuses.
        wrap: makes the library's message of a reply: (error_name or nothing, body).
    """

    clock: Clock
    wrap: Callable[[str, list[Any]], Any]
    units: dict[str, FakeUnit] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    denied: set[str] = field(default_factory=set)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    is_away: bool = False
    connected: bool = True
    unique_name: str = ":1.42"

    def __post_init__(self) -> None:
        self.hold.set()

    def __call__(self, **_options: Any) -> Self:
        """Stand for the library's class."""
        return self

    def add(self, unit: FakeUnit) -> FakeUnit:
        """Put a unit in."""
        self.units[unit.name] = unit
        return unit

    async def connect(self) -> Self:
        """Connect, unless nobody listens."""
        if self.is_away:
            raise ConnectionRefusedError
        return self

    def disconnect(self) -> None:
        """Nothing is held."""

    async def call(self, message: Any) -> Any:
        """Answer one call."""
        await self.hold.wait()
        if message.member in self.denied:
            return self.wrap(f"{_ERROR}AccessDenied", ["Access denied"])
        return _METHODS[message.member](self, message)


def _load(fake: FakeSystemd, message: Any) -> Any:
    return fake.wrap("", [f"/unit/{message.body[0].encode().hex()}"])


def _get_all(fake: FakeSystemd, message: Any) -> Any:
    if message.path == "/org/freedesktop/systemd1":
        return fake.wrap("", [{"Version": SimpleNamespace(value="252")}])
    name = bytes.fromhex(message.path.removeprefix("/unit/")).decode()
    unit = fake.units.get(name) or FakeUnit(name, load="not-found", active="inactive", sub="dead")
    found = _unit_properties(unit) if message.body[0].endswith(".Unit") else _service_properties(unit)
    return fake.wrap("", [{key: SimpleNamespace(value=value) for key, value in found.items()}])


def _unit_properties(unit: FakeUnit) -> dict[str, Any]:
    return {
        "Id": unit.name,
        "Names": [unit.name, *unit.names],
        "LoadState": unit.load,
        "ActiveState": unit.active,
        "SubState": unit.sub,
        "InvocationID": unit.invocation.to_bytes(16, "big"),
        "InactiveExitTimestamp": int(unit.began_at * 1e6),
        "Job": (unit.pending, "/"),
        "RefuseManualStart": unit.refuses_manual,
        "RefuseManualStop": False,
        "StartLimitBurst": 5,
        "StartLimitIntervalUSec": 10_000_000,
        "StateChangeTimestamp": int((unit.changed_at or unit.began_at) * 1e6),
    }


def _service_properties(unit: FakeUnit) -> dict[str, Any]:
    return {
        "Result": unit.result,
        "NRestarts": unit.restarts,
        "Type": "simple",
        "ExecMainStatus": 0 if unit.result == "success" else 1,
        "MemoryCurrent": 50 * 2**20,
        "MemoryMax": 100 * 2**20,
    }


def _restart(fake: FakeSystemd, message: Any) -> Any:
    unit = fake.units.get(message.body[0])
    if unit is None:
        return fake.wrap("org.freedesktop.systemd1.NoSuchUnit", [f"Unit {message.body[0]} not found."])
    fake.calls.append(("restart", unit.name))
    unit.invocation, unit.restarts = unit.invocation + 1, 0
    unit.began_at = fake.clock.now() + 0.001
    well = ("active", "running", "success")
    unit.active, unit.sub, unit.result = well if unit.comes_up else ("failed", "failed", "exit-code")
    return fake.wrap("", ["/job/1"])


def _reset(fake: FakeSystemd, message: Any) -> Any:
    unit = fake.units[message.body[0]]
    fake.calls.append(("reset", unit.name))
    unit.active, unit.sub, unit.result, unit.restarts = "inactive", "dead", "success", 0
    return fake.wrap("", [])


_METHODS: dict[str, Callable[[FakeSystemd, Any], Any]] = {
    "LoadUnit": _load,
    "GetAll": _get_all,
    "RestartUnit": _restart,
    "ResetFailedUnit": _reset,
    "GetId": lambda fake, _message: fake.wrap("", ["0123456789abcdef"]),
    "GetConnectionUnixUser": lambda fake, _message: fake.wrap("", [64711]),
}
