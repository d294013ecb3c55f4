"""The switches over HTTP: pause, resume, drain, freeze, overrides, silences."""

from __future__ import annotations

from oncall_agent.errors import AuthError, ConflictError
from oncall_agent.models import Control, Silence
from oncall_agent.store import ControlChange, new_id
from oncall_agent.telemetry.log import logger
from oncall_agent.web.auth import Identity
from oncall_agent.web.routes import Call
from oncall_agent.web.schemas import ControlBody, SilenceBody

MAX_SILENCES = 500
MAX_OVERRIDES = 500
"""Standing at once: both are looked at for every alert or candidate."""
_NOTHING: tuple[object, ...] = (None, {}, [])


async def show_control(call: Call) -> Control:
    """Give the switches as they stand."""
    return call.parts.store.control


async def change_control(call: Call) -> Control:
    """Change what the body names, and nothing else."""
    body: ControlBody = call.body
    need_role(body, call.caller, call.parts.store.control, call.now)
    named = sorted(key for key in body.model_fields_set - {"reason"} if getattr(body, key) not in _NOTHING)
    if not named:
        return call.parts.store.control
    change = change_of(body, call.caller.name, call.now)
    need_room(change, call.parts.store.control, call.now)
    control = await call.parts.store.set_control(change, call.caller.name, call.now)
    logger().info("control.changed", change=",".join(named), identity=call.caller.name, reason=body.reason)
    return control


def need_role(body: ControlBody, caller: Identity, control: Control, now: float) -> None:
    """Raise `AuthError` 403 when the change takes away a limit and the caller is no admin."""
    standing = control.frozen_until or 0.0
    shortens = body.freeze_seconds is not None and (
        body.freeze_seconds == 0 or now + body.freeze_seconds < standing
    )
    if (body.overrides or shortens) and not caller.may("admin"):
        raise AuthError("overrides and lifting a freeze need the role admin", status=403, code="forbidden")


def need_room(change: ControlChange, control: Control, now: float) -> None:
    """Raise `ConflictError` when more would stand than is looked at in time."""
    standing = [silence for silence in control.silences if silence.ends_at > now]
    if change.add_silences and len(standing) + len(change.add_silences) > MAX_SILENCES:
        raise ConflictError(f"more than {MAX_SILENCES} silences", code="too_many_silences")
    added = [
        key for key, level in change.overrides.items() if level is not None and key not in control.overrides
    ]
    if added and len(control.overrides) + len(added) > MAX_OVERRIDES:
        raise ConflictError(f"more than {MAX_OVERRIDES} overrides", code="too_many_overrides")


def change_of(body: ControlBody, identity: str, now: float) -> ControlChange:
    """Give the change that a body asks for."""
    frozen_until = None
    if body.freeze_seconds is not None:
        frozen_until = now + body.freeze_seconds if body.freeze_seconds > 0 else 0.0
    return ControlChange(
        paused=body.paused,
        draining=body.draining,
        frozen_until=frozen_until,
        reason=body.reason,
        overrides=body.overrides,
        add_silences=tuple(_silence(silence, identity, now) for silence in body.add_silences),
        remove_silences=tuple(body.remove_silences),
    )


def _silence(body: SilenceBody, identity: str, now: float) -> Silence:
    return Silence(
        id=new_id(),
        matchers=body.matchers,
        starts_at=now,
        ends_at=now + body.seconds,
        created_by=identity,
        comment=body.comment,
    )
