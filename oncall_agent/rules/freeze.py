"""Change freezes: the times in which the operator wants nothing to be touched."""

from __future__ import annotations

from collections.abc import Iterable

from oncall_agent.settings.model import FreezeWindow
from oncall_agent.settings.windows import compiled


def is_frozen(windows: Iterable[FreezeWindow], now: float) -> str | None:
    """Give the name of the first window that `now` is inside of, or None."""
    for window in windows:
        if compiled(window).covers(now):
            return window.name
    return None
