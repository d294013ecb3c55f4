"""What stands above every page: whether the daemon acts at all just now. A plain function of the switches."""

from __future__ import annotations

from dataclasses import dataclass

from oncall_agent.models import Autonomy, Control
from oncall_agent.rules.freeze import is_frozen
from oncall_agent.settings.model import Settings


@dataclass(frozen=True, slots=True)
class Banner:
    """One line above the page.

    Attributes:
        weight: `stop` (nothing is done), `hold` (less is done) or `note`.
        until: epoch seconds, None when it does not end by itself.
    """

    weight: str
    title: str
    text: str
    until: float | None = None


def banners(settings: Settings, control: Control, now: float) -> tuple[Banner, ...]:
    """Give the lines above every page, the gravest first; none when the daemon acts without reserve."""
    found = (_pause(control), _drain(control), _freeze(settings, control, now), _posture(settings, control))
    return tuple(banner for banner in found if banner is not None)


def highest_level(settings: Settings, control: Control) -> Autonomy:
    """Give the most that any rule, override or the default grants."""
    levels = [settings.autonomy.default, *(rule.level for rule in settings.autonomy.rules)]
    levels += control.overrides.values()
    return max(levels, key=lambda level: level.rank)


def _pause(control: Control) -> Banner | None:
    if not control.paused:
        return None
    by = f" by {control.paused_by}" if control.paused_by else ""
    reason = f": {control.paused_reason}" if control.paused_reason else ""
    return Banner("stop", "Stopped", f"No action is begun. The kill switch was pressed{by}{reason}.")


def _drain(control: Control) -> Banner | None:
    if not control.draining:
        return None
    return Banner("hold", "Draining", "Running attempts are finished; no incident is taken up.")


def _freeze(settings: Settings, control: Control, now: float) -> Banner | None:
    if control.frozen_until is not None and control.frozen_until > now:
        reason = f" ({control.freeze_reason})" if control.freeze_reason else ""
        return Banner("hold", "Change freeze", f"Nothing is changed{reason}.", control.frozen_until)
    window = is_frozen(settings.guard.freeze_windows, now)
    if window is None:
        return None
    return Banner("hold", "Change freeze", f"Nothing is changed in the window {window}.")


def _posture(settings: Settings, control: Control) -> Banner | None:
    level = highest_level(settings, control)
    if level is Autonomy.OBSERVE:
        return Banner("note", "Observe", "Incidents are recorded and handed to people; nothing is touched.")
    if level is Autonomy.SHADOW:
        return Banner("note", "Shadow", "Every decision is made and recorded; nothing is touched.")
    if level is Autonomy.SUGGEST:
        return Banner("note", "Suggest", "Decisions are suggested to people; nothing is touched.")
    return None
