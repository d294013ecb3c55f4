"""The engine's timestamps."""

from __future__ import annotations

from datetime import datetime


def seconds_of(text: str) -> float:
    """Give an RFC 3339 time with nanoseconds as epoch seconds; 0 for what is none, such as year 1."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    digits = fraction.partition("+")[0]
    try:
        value = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    except ValueError:
        return 0.0
    return max(0.0, value + (float(f"0.{digits}") if digits.isdecimal() else 0.0))
