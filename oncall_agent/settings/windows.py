"""Freeze windows in a form that can be asked: used by the loader to refuse bad ones and by `rules.freeze`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from oncall_agent.settings.model import FreezeWindow

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Once:
    """A window that stands once; both ends in epoch seconds, the end exclusive."""

    starts_at: float
    ends_at: float

    def covers(self, now: float) -> bool:
        """Whether `now` is inside."""
        return self.starts_at <= now < self.ends_at


@dataclass(frozen=True, slots=True)
class Weekly:
    """A window that returns every week, in the wall-clock time of its zone."""

    weekdays: frozenset[int]
    start: time
    end: time
    zone: tzinfo

    def covers(self, now: float) -> bool:
        """Whether `now` is inside a window that began on this day or on the day before."""
        today = datetime.fromtimestamp(now, self.zone).date()
        return any(self._covers_from(today - timedelta(days=back), now) for back in (0, 1))

    def _covers_from(self, day: date, now: float) -> bool:
        if day.weekday() not in self.weekdays:
            return False
        last = day + timedelta(days=0 if self.end > self.start else 1)
        return min(self._instants(day, self.start)) <= now < max(self._instants(last, self.end))

    def _instants(self, day: date, at: time) -> tuple[float, float]:
        # When clocks change, a wall-clock time can mean two instants: the longer freeze is the safe one.
        first = datetime.combine(day, at, self.zone)
        return first.timestamp(), first.replace(fold=1).timestamp()


def instant(value: float | str) -> float:
    """Give epoch seconds from RFC 3339 text (with offset) or from epoch seconds.

    Raises:
        ValueError: neither, or a date without a time and an offset, which would mean another instant elsewhere.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("not RFC 3339, write it as 2026-12-24T18:00:00Z") from None
        if moment.tzinfo is None:
            raise ValueError("an offset is needed, such as the Z in 2026-12-24T18:00:00Z")
        value = moment.timestamp()
    if not math.isfinite(value):
        raise ValueError("not a point in time")
    return float(value)


def zone(name: str) -> tzinfo:
    """Give the IANA time zone.

    Raises:
        ValueError: there is none of that name on this machine.
    """
    if name == "UTC":
        return UTC  # also where the system has no time zone database
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"unknown timezone {name[:64]!r}, an IANA name such as Europe/Berlin is needed"
        ) from None


def problems(window: FreezeWindow) -> tuple[tuple[str, str], ...]:
    """Say what is wrong with a window, as (field, reason); empty when it can be used."""
    found = []
    weekly = (window.days, window.start, window.end)
    once = (window.starts_at, window.ends_at)
    if any(weekly) and any(value is not None for value in once):
        found.append(("", "either days, start and end, or starts_at and ends_at, not both"))
    elif any(value is not None for value in once):
        found += _once_problems(window)
    elif not all(weekly):
        missing = [name for name, value in zip(("days", "start", "end"), weekly, strict=True) if not value]
        found.append(("", f"a weekly window needs days, start and end: {', '.join(missing)} missing"))
    try:
        zone(window.timezone)
    except ValueError as error:
        found.append(("timezone", str(error)))
    return tuple(found)


def _once_problems(window: FreezeWindow) -> list[tuple[str, str]]:
    found, instants = [], []
    for name, value in (("starts_at", window.starts_at), ("ends_at", window.ends_at)):
        try:
            if value is None:
                raise ValueError("a window that stands once needs both starts_at and ends_at")  # noqa: TRY301
            instants.append(instant(value))
        except ValueError as error:
            found.append((name, str(error)))
    if not found and instants[0] >= instants[1]:
        found.append(("ends_at", "not after starts_at"))
    return found


@lru_cache(maxsize=512)
def compiled(window: FreezeWindow) -> Once | Weekly:
    """Give the window in a form that can be asked.

    Raises:
        ValueError: the window is not complete; the loader refuses such windows beforehand.
    """
    for field, reason in problems(window):
        raise ValueError(f"{field}: {reason}" if field else reason)
    if window.starts_at is not None and window.ends_at is not None:
        return Once(instant(window.starts_at), instant(window.ends_at))
    return Weekly(
        frozenset(_DAYS.index(day) for day in window.days),
        time.fromisoformat(window.start or ""),
        time.fromisoformat(window.end or ""),
        zone(window.timezone),
    )
