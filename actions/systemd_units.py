"""What systemd says of a unit, whether it is well, and whether it may be touched. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from oncall_agent.contract import Check, PermanentError, Target
from oncall_agent.models import JsonObject

KIND = "systemd_unit"
DENIED = (
    "dbus*",
    "ssh.service",
    "ssh@*",
    "sshd*",
    "systemd-*",
    "polkit*",
    "user@*",
    "user-runtime-dir@*",
    "init.scope",
    "oncall-agent.service",
    "oncall-agent@*",
)
"""Never touched, whatever the settings list: without them nobody comes back in."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9:_.\\@-]{0,240}\.service")
_USEC = 1e6
_UNSET = 2**64 - 1
START_LIMIT = "start-limit-hit"


@dataclass(frozen=True, slots=True)
class Unit:
    """A service unit, as far as it tells sick from well.

    Attributes:
        result: of the last run: success, exit-code, signal, watchdog, start-limit-hit, ...
        invocation: id of the present or last run; every start has another.
        restarts: how often systemd itself started it since somebody did.
        began_at: wall clock when the present run began to start, epoch seconds.
    """

    id: str
    names: tuple[str, ...]
    load: str
    active: str
    sub: str
    result: str
    invocation: str
    restarts: int
    began_at: float
    kind: str
    is_busy: bool
    is_manual: bool
    exit_status: int
    memory_bytes: int | None
    memory_limit_bytes: int | None
    limit_burst: int
    limit_seconds: float
    changed_at: float

    def as_facts(self) -> dict[str, Any]:
        """Give it as JSON-safe evidence."""
        return {**asdict(self), "names": list(self.names[:10])}


def unit_of(properties: JsonObject, service: JsonObject) -> Unit:
    """Give the unit from the properties of its two interfaces."""
    return Unit(
        id=str(properties["Id"]),
        names=tuple(str(name) for name in properties.get("Names", ())),
        load=str(properties.get("LoadState", "")),
        active=str(properties.get("ActiveState", "")),
        sub=str(properties.get("SubState", "")),
        result=str(service.get("Result", "")),
        invocation=bytes(properties.get("InvocationID") or b"").hex(),
        restarts=int(service.get("NRestarts") or 0),
        began_at=int(properties.get("InactiveExitTimestamp") or 0) / _USEC,
        kind=str(service.get("Type", "")),
        is_busy=int((properties.get("Job") or (0, ""))[0]) != 0,
        is_manual=not (properties.get("RefuseManualStart") or properties.get("RefuseManualStop")),
        exit_status=int(service.get("ExecMainStatus") or 0),
        memory_bytes=_bounded(service.get("MemoryCurrent")),
        memory_limit_bytes=_bounded(service.get("MemoryMax")),
        limit_burst=int(properties.get("StartLimitBurst") or 0),
        limit_seconds=int(properties.get("StartLimitIntervalUSec") or 0) / _USEC,
        changed_at=int(properties.get("StateChangeTimestamp") or 0) / _USEC,
    )


def _bounded(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and 0 < value < _UNSET else None


def judge(unit: Unit, *, invocation_before: str | None = None) -> Check:
    """Say whether a unit is well; it must have been started anew when the invocation before is given."""
    reason = _complaint(unit)
    if not reason and invocation_before is not None and unit.invocation == invocation_before:
        reason = "the unit was not started anew"
    return Check(ok=not reason, reason=reason, facts=unit.as_facts())


def _complaint(unit: Unit) -> str:
    if unit.load != "loaded":
        return f"the unit is {unit.load or 'not loaded'}"
    if unit.active == "active" and unit.sub in ("running", "exited"):
        return ""
    # A oneshot that has done its work is inactive and well.
    if unit.kind == "oneshot" and unit.active == "inactive" and unit.result == "success":
        return ""
    return f"the unit is {unit.active} ({unit.sub}, {unit.result})"


def is_given_up(unit: Unit, now: float) -> bool:
    """Say whether a start would run into the unit's start limit.

    A unit that failed before keeps that as its result when the limit is hit: then its restarts tell.
    """
    if unit.active != "failed" or now - unit.changed_at > max(unit.limit_seconds, 1.0):
        return False
    has_spent = 0 < unit.limit_burst <= unit.restarts + 1
    return unit.result == START_LIMIT or has_spent


def objection(unit: Unit, allowed: Sequence[str], denied: Sequence[str]) -> str:
    """Give the reason why this unit may not be touched at all, under any of its names, or an empty text."""
    names = {unit.id, *unit.names}
    if any(fnmatchcase(name, pattern) for name in names for pattern in denied):
        return "the unit is protected"
    if not any(fnmatchcase(unit.id, pattern) for pattern in allowed):
        return f"the unit {unit.id} is not among those that may be touched"
    if unit.load != "loaded":
        return f"the unit is {unit.load}"
    if not unit.is_manual:
        return "the unit refuses to be started or stopped by hand"
    if unit.is_busy:
        return "systemd is starting or stopping it just now"
    return ""


def name_of(target: Target) -> str:
    """Give the unit's name from the target's address.

    Raises:
        PermanentError: the address has none, or it is no service.
    """
    name = target.address.get("unit")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PermanentError(f"target {target.name}: the address must have a unit, such as shop.service")
    return name


def own_unit() -> str:
    """Give the unit that this process runs in, empty when it runs in none."""
    try:
        text = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.findall(r"/([^/\n]+\.service)(?=/|\n|$)", text)
    return found[-1] if found else ""
