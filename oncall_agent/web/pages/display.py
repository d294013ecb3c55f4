"""How values are written for people: plain functions, used as filters by the templates. No markup here."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from urllib.parse import urlsplit

import orjson

NONE = "\N{EN DASH}"
_MINUTE = 60
_HOUR = 3600
_DAY = 86_400
_TWO_DAYS = 2 * _DAY
_MAX_JSON_CHARS = 8_000
_MAX_SHORT_CHARS = 160

TONES = {
    "queued": "",
    "running": "blue",
    "blocked": "",
    "parked": "violet",
    "awaiting_approval": "amber",
    "resolved": "green",
    "escalated": "orange",
    "dead_lettered": "red",
    "critical": "red",
    "error": "orange",
    "warning": "amber",
    "info": "",
    "firing": "red",
    "succeeded": "green",
    "failed": "red",
    "refused": "amber",
    "planned": "violet",
    "interrupted": "orange",
    "pending": "amber",
    "approved": "green",
    "denied": "red",
    "expired": "orange",
    "R0": "",
    "R1": "green",
    "R2": "amber",
    "R3": "red",
    "closed": "green",
    "half_open": "amber",
    "open": "red",
}
"""Closed vocabularies of the domain -> tone of their badge; anything else is neutral."""


def tone(word: object) -> str:
    """Give the badge's tone for a word of the domain: never the only carrier of the meaning."""
    return TONES.get(str(word), "")


def words(text: object) -> str:
    """Write an enum value as words: `awaiting_approval` becomes `awaiting approval`."""
    return str(text).replace("_", " ")


def iso(at: float) -> str:
    """Write epoch seconds as RFC 3339 in UTC, to the second; for `<time datetime>`."""
    return _utc(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(at: float) -> str:
    """Write epoch seconds for people, in UTC."""
    return _utc(at).strftime("%Y-%m-%d %H:%M:%S")


def clock(at: float) -> str:
    """Write only the time of day, in UTC."""
    return _utc(at).strftime("%H:%M:%S")


def span(seconds: float) -> str:
    """Write a duration in the one or two units that matter."""
    if seconds < 1:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - one digit below ten
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min"
    if seconds < _TWO_DAYS:
        return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE)} min"
    return f"{int(seconds // _DAY)} d"


def ago(at: float, now: float) -> str:
    """Write how long ago something was."""
    seconds = now - at
    return "now" if seconds < 1 else f"{_whole(seconds)} ago"


def left(at: float, now: float) -> str:
    """Write how long it is until something happens."""
    return "now" if at <= now else f"in {_whole(at - now)}"


def number(value: float | None, digits: int = 1) -> str:
    """Write a number, or a dash for none and for what is not finite."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.{digits}f}"


def signed(value: float | None) -> str:
    """Write a reward or an expectation with its sign."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def percent(value: float | None) -> str:
    """Write a fraction as percent, small ones not as zero."""
    if value is None or not math.isfinite(value):
        return NONE
    return "<0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"  # noqa: PLR2004 - the last digit shown


def pretty(value: object) -> str:
    """Write a JSON-safe value over several lines, bounded."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode()
    return text if len(text) <= _MAX_JSON_CHARS else f"{text[:_MAX_JSON_CHARS]}\n… cut here"


def short(value: object) -> str:
    """Write any JSON-safe value on one bounded line."""
    if isinstance(value, float):
        value = round(value, 3)
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    return text if len(text) <= _MAX_SHORT_CHARS else f"{text[: _MAX_SHORT_CHARS - 1]}…"


def web_link(text: str) -> str:
    """Give the address if a browser may follow it, else nothing: an alert's link is not ours to trust."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    return text if parts.scheme in {"http", "https"} and parts.netloc else ""


def interval(mean: float, std: float) -> dict[str, float]:
    """Place mean and spread of an expected reward (-1..1) on an axis that is 100 wide."""

    def place(value: float) -> float:
        bounded = min(max(value, -1.25), 1.25) if math.isfinite(value) else 0.0
        return round((bounded + 1.25) * 40, 1)

    return {"low": place(mean - std), "mean": place(mean), "high": place(mean + std), "zero": place(0.0)}


def _whole(seconds: float) -> str:
    """Write like `span`, but whole seconds: the page's script goes on counting in the same form."""
    return f"{int(seconds)} s" if seconds < _MINUTE else span(seconds)


def _utc(at: float) -> datetime:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


FILTERS = {
    "tone": tone,
    "words": words,
    "iso": iso,
    "moment": moment,
    "clock": clock,
    "span": span,
    "ago": ago,
    "left": left,
    "number": number,
    "signed": signed,
    "percent": percent,
    "pretty": pretty,
    "short": short,
    "web_link": web_link,
    "interval": interval,
}
"""Names in the templates -> functions."""
