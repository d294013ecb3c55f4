"""The switches: kill switch with a confirming page that needs no script, resume, drain, freeze."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiohttp import web

from oncall_agent.errors import AuthError, ConflictError
from oncall_agent.store.values import ControlChange
from oncall_agent.telemetry.log import logger
from oncall_agent.web.auth import Identity, Role, require, require_form
from oncall_agent.web.pages.shell import render, see
from oncall_agent.web.parts import PARTS, Parts

MAX_FREEZE_MINUTES = 7 * 24 * 60
_MAX_REASON_CHARS = 200
_AUDIT_ROWS = 15
_DIGITS = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Question:
    """What the confirming page says before a switch is turned."""

    title: str
    lines: tuple[str, ...]
    button: str
    action: str
    tone: str
    frame: str = ""


PAUSE = Question(
    "Stop all actions?",
    (
        "No action is begun from now on, on any target; it holds over restarts until somebody permits actions again.",
        "A running action stops before its next step. What it has changed already is not undone.",
        "Alerts are still taken in, and people are still paged.",
    ),
    "Stop everything now",
    "/control/pause",
    "danger kill",
    "alarm",
)
RESUME = Question(
    "Permit actions again?",
    (
        "Open incidents are taken up where they stand, within the limits of the guard.",
        "Look at the open incidents first: their targets may have changed while everything was stopped.",
    ),
    "Permit actions",
    "/control/resume",
    "go",
)


async def control(request: web.Request) -> web.StreamResponse:
    """Answer `GET /control`."""
    require(request, "viewer")
    parts = request.app[PARTS]
    now, switches = parts.clock.now(), parts.store.control
    values = {
        "is_frozen": switches.frozen_until is not None and switches.frozen_until > now,
        "silences": [silence for silence in switches.silences if silence.ends_at > now],
        "rules": parts.settings.autonomy.rules,
        "default_level": parts.settings.autonomy.default,
        "max_freeze_minutes": MAX_FREEZE_MINUTES,
        "audit": await parts.store.audit(limit=_AUDIT_ROWS),
    }
    return await render(request, "control.html", values)


async def ask_pause(request: web.Request) -> web.StreamResponse:
    """Answer `GET /control/pause`: the question before the kill switch."""
    require(request, "operator")
    return await render(request, "confirm.html", {"ask": PAUSE})


async def ask_resume(request: web.Request) -> web.StreamResponse:
    """Answer `GET /control/resume`."""
    require(request, "operator")
    return await render(request, "confirm.html", {"ask": RESUME})


async def pause(request: web.Request) -> web.StreamResponse:
    """Answer `POST /control/pause`."""
    caller, reason = await _posted(request)
    return await _turn(request, caller, ControlChange(paused=True, reason=reason), "paused")


async def resume(request: web.Request) -> web.StreamResponse:
    """Answer `POST /control/resume`."""
    caller, reason = await _posted(request)
    return await _turn(request, caller, ControlChange(paused=False, reason=reason), "resumed")


async def drain(request: web.Request) -> web.StreamResponse:
    """Answer `POST /control/drain`."""
    caller, _ = await _posted(request)
    return await _turn(request, caller, ControlChange(draining=True), "draining")


async def undrain(request: web.Request) -> web.StreamResponse:
    """Answer `POST /control/undrain`."""
    caller, _ = await _posted(request)
    return await _turn(request, caller, ControlChange(draining=False), "undrained")


async def freeze(request: web.Request) -> web.StreamResponse:
    """Answer `POST /control/freeze`."""
    caller, reason = await _posted(request)
    until = request.app[PARTS].clock.now() + 60.0 * minutes_of(str((await request.post()).get("minutes", "")))
    if until < (request.app[PARTS].store.control.frozen_until or 0.0) and not caller.may("admin"):
        # A shorter freeze lifts the one that is on, and only an admin may do that.
        raise AuthError(
            "an earlier end than the freeze has needs the role admin", status=403, code="forbidden"
        )
    return await _turn(request, caller, ControlChange(frozen_until=until, reason=reason), "frozen")


async def thaw(request: web.Request) -> web.StreamResponse:
    """Answer `POST /control/thaw`."""
    caller, reason = await _posted(request, "admin")
    return await _turn(request, caller, ControlChange(frozen_until=0.0, reason=reason), "thawed")


def minutes_of(text: str) -> int:
    """Give the length of a freeze; `ConflictError` for what is not 1 to `MAX_FREEZE_MINUTES`."""
    minutes = int(text) if _DIGITS.fullmatch(text) else 0
    if not 1 <= minutes <= MAX_FREEZE_MINUTES:
        raise ConflictError(f"a freeze lasts 1 to {MAX_FREEZE_MINUTES} minutes", code="bad_minutes")
    return minutes


async def _posted(request: web.Request, role: Role = "operator") -> tuple[Identity, str]:
    caller = await require_form(request, role)
    reason = str((await request.post()).get("reason", ""))
    return caller, " ".join(reason.split())[:_MAX_REASON_CHARS]


async def _turn(
    request: web.Request, caller: Identity, change: ControlChange, notice: str
) -> web.StreamResponse:
    parts: Parts = request.app[PARTS]
    await parts.store.set_control(change, caller.name, parts.clock.now())
    logger().info("control.changed", change=notice, identity=caller.name, reason=change.reason)
    raise see("/control", notice)
