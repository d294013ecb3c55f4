"""Keeps a storm from paging people a thousand times: pages beyond the rate wait and travel in the next one.

What waits is parked in the store, so nothing depends on this memory: after a restart an incident is at worst
paged on its own. Plain state, no I/O.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
_MOST_WAITING = 10_000
_MOST_LISTED = 50


@dataclass(frozen=True, slots=True)
class PageNow:
    """Send a page; it also tells of these others, which then need none of their own."""

    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """The rate is used up: come again after so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Covered:
    """Another page has told of it."""


class Bundling:
    """Admits at most `per_minute` pages within a minute."""

    def __init__(self, per_minute: int) -> None:
        self._sent: deque[float] = deque(maxlen=per_minute)
        self._waiting: dict[str, str] = {}
        self._covered: dict[str, None] = {}

    def admit(self, incident_id: str, title: str, now: float) -> PageNow | Wait | Covered:
        """Say what to do about the page of one incident now."""
        if incident_id in self._covered:
            del self._covered[incident_id]
            return Covered()
        is_full = len(self._sent) == self._sent.maxlen
        if is_full and (left := self._sent[0] + WINDOW_SECONDS - now) > 0:
            if len(self._waiting) < _MOST_WAITING:
                self._waiting[incident_id] = title
            return Wait(left)
        self._sent.append(now)
        self._waiting.pop(incident_id, None)
        others, self._waiting = self._waiting, {}
        self._covered.update(dict.fromkeys(others))
        while len(self._covered) > _MOST_WAITING:
            del self._covered[next(iter(self._covered))]
        lines = [f"{title} ({other})" for other, title in list(others.items())[:_MOST_LISTED]]
        if len(others) > _MOST_LISTED:
            lines.append(f"and {len(others) - _MOST_LISTED} more")
        return PageNow(tuple(lines))

    def failed(self, now: float) -> None:
        """Forget what the last page should have told: it did not go out, so nobody was told."""
        self._covered.clear()
        while self._sent and self._sent[-1] >= now:
            self._sent.pop()
