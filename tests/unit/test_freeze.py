"""Freeze windows: weekly, over midnight, over clock changes, and once."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from oncall_agent.rules.freeze import is_frozen
from oncall_agent.settings.model import FreezeWindow
from oncall_agent.settings.windows import instant, problems

NIGHT = FreezeWindow(name="friday-night", days=("fri",), start="17:00", end="09:00", timezone="Europe/Berlin")
NOON = FreezeWindow(name="noon", days=("mon", "tue"), start="12:00", end="13:00")
WHOLE = FreezeWindow(name="sunday", days=("sun",), start="00:00", end="00:00", timezone="Europe/Berlin")
SPRING = FreezeWindow(name="spring", days=("sun",), start="01:30", end="02:30", timezone="Europe/Berlin")
AUTUMN = FreezeWindow(name="autumn", days=("sun",), start="02:15", end="02:45", timezone="Europe/Berlin")
XMAS = FreezeWindow(name="xmas", starts_at="2026-12-24T12:00:00+01:00", ends_at="2026-12-27T00:00:00Z")
NUMBERS = FreezeWindow(name="numbers", starts_at=1_000, ends_at=2_000)


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("window", "now", "expected"),
    [
        (NIGHT, "2026-03-06T16:59:59+01:00", False),
        (NIGHT, "2026-03-06T17:00:00+01:00", True),
        (NIGHT, "2026-03-07T08:59:59+01:00", True),
        (NIGHT, "2026-03-07T09:00:00+01:00", False),
        (NIGHT, "2026-03-07T17:30:00+01:00", False),
        (NIGHT, "2026-07-03T17:00:00+02:00", True),
        (NIGHT, "2026-07-03T16:00:00+01:00", True),
        (NOON, "2026-03-02T12:30:00Z", True),
        (NOON, "2026-03-03T12:30:00Z", True),
        (NOON, "2026-03-04T12:30:00Z", False),
        (NOON, "2026-03-02T13:00:00Z", False),
        (WHOLE, "2026-03-08T00:00:00+01:00", True),
        (WHOLE, "2026-03-08T23:59:59+01:00", True),
        (WHOLE, "2026-03-09T00:00:00+01:00", False),
        (SPRING, "2026-03-29T01:45:00+01:00", True),
        (SPRING, "2026-03-29T03:15:00+02:00", True),
        (SPRING, "2026-03-29T03:30:00+02:00", False),
        (AUTUMN, "2026-10-25T02:20:00+02:00", True),
        (AUTUMN, "2026-10-25T02:50:00+02:00", True),
        (AUTUMN, "2026-10-25T02:20:00+01:00", True),
        (AUTUMN, "2026-10-25T02:45:00+01:00", False),
        (XMAS, "2026-12-24T10:59:59Z", False),
        (XMAS, "2026-12-24T11:00:00Z", True),
        (XMAS, "2026-12-27T00:00:00Z", False),
        (NUMBERS, "1970-01-01T00:16:40Z", True),
        (NUMBERS, "1970-01-01T00:33:20Z", False),
    ],
)
def test_a_window_covers_its_times_and_the_end_is_outside(
    window: FreezeWindow, now: str, expected: bool
) -> None:
    """Where a clock change makes a time ambiguous the freeze is the longer one."""
    assert (window.name if expected else None) == is_frozen((window,), _at(now))


def test_the_first_standing_window_is_named() -> None:
    assert is_frozen((NIGHT, NUMBERS, XMAS), 1_500.0) == "numbers"
    assert is_frozen((), 1_500.0) is None


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"days": ("mon",), "start": "12:00"}, "", "end missing"),
        ({"start": "12:00", "end": "13:00"}, "", "days missing"),
        ({"days": ("mon",)}, "", "start, end missing"),
        ({}, "", "days, start, end missing"),
        ({"starts_at": 1.0}, "ends_at", "needs both"),
        ({"ends_at": 1.0}, "starts_at", "needs both"),
        ({"starts_at": 2.0, "ends_at": 2.0}, "ends_at", "not after"),
        ({"starts_at": 1.0, "ends_at": 2.0, "days": ("mon",)}, "", "not both"),
        ({"starts_at": "24.12.2026", "ends_at": 2.0}, "starts_at", "not RFC 3339"),
        ({"starts_at": "2026-12-24", "ends_at": 2.0}, "starts_at", "offset is needed"),
        ({"starts_at": "2026-12-24T10:00:00", "ends_at": 2.0}, "starts_at", "offset is needed"),
        ({"starts_at": float("nan"), "ends_at": 2.0}, "starts_at", "not a point in time"),
        (
            {"starts_at": 1.0, "ends_at": 2.0, "timezone": "Mars/Base"},
            "timezone",
            "unknown timezone 'Mars/Base'",
        ),
        ({"starts_at": 1.0, "ends_at": 2.0, "timezone": "../../etc/passwd"}, "timezone", "unknown timezone"),
        ({"starts_at": 1.0, "ends_at": 2.0, "timezone": ""}, "timezone", "unknown timezone"),
        ({"starts_at": 1.0, "ends_at": 2.0, "timezone": "Europe"}, "timezone", "unknown timezone"),
        ({"starts_at": 1.0, "ends_at": 2.0, "timezone": "x\x00y"}, "timezone", "unknown timezone"),
    ],
)
def test_a_half_written_window_is_named_with_its_field(
    fields: dict[str, Any], field: str, reason: str
) -> None:
    window = FreezeWindow(name="w", **fields)
    ((found_field, found_reason),) = problems(window)
    assert field == found_field
    assert reason in found_reason
    with pytest.raises(ValueError, match=re.escape(reason)):
        is_frozen((window,), 0.0)


def test_utc_needs_no_time_zone_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oncall_agent.settings.windows.ZoneInfo", _no_database)
    assert is_frozen((FreezeWindow(name="utc", days=("thu",), start="00:00", end="01:00"),), 60.0) == "utc"


def _no_database(name: str) -> ZoneInfo:
    raise OSError(name)


def test_instants_are_epoch_seconds_whatever_the_offset() -> None:
    assert instant("1970-01-01T01:00:00+01:00") == instant("1970-01-01T00:00:00Z") == instant(0) == 0.0
