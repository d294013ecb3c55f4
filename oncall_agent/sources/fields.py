"""Single fields of an alert, checked and bounded; shared by all senders."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from oncall_agent.errors import PayloadError
from oncall_agent.models import Severity
from oncall_agent.sources.bounds import shown

MAX_NAME_CHARS = 256
"""Of a label's name."""
MAX_LABEL_CHARS = 2_048
"""Of a label's value. Labels are identity, so a longer one is refused and never cut."""
MAX_ANNOTATION_CHARS = 8_192
"""Of an annotation. Annotations are prose, so a longer one is cut and says so."""
MAX_FINGERPRINT_CHARS = 128
MAX_LINK_CHARS = 2_048
MAX_GROUP_KEY_CHARS = 1_024

_MILLISECONDS_FROM = 1e11
"""Epoch seconds reach this in the year 5138; epoch milliseconds passed it in 1973."""
_END_OF_TIME = 253_402_300_800.0
_MIN_TIMESTAMP_CHARS = 20

_SEVERITIES: Mapping[str, Severity] = {
    **dict.fromkeys(
        ("critical", "crit", "fatal", "page", "emergency", "disaster", "p1", "sev1"), Severity.CRITICAL
    ),
    **dict.fromkeys(("error", "err", "high", "major", "p2", "sev2"), Severity.ERROR),
    **dict.fromkeys(("warning", "warn", "medium", "minor", "p3", "sev3"), Severity.WARNING),
    **dict.fromkeys(
        ("info", "information", "informational", "low", "notice", "none", "debug", "p4", "p5"), Severity.INFO
    ),
}


def severity(text: str | None) -> Severity:
    """Give the severity that senders' various words mean; anything else is a warning."""
    if text is None:
        return Severity.WARNING
    found = _SEVERITIES.get(text)
    return found if found is not None else _SEVERITIES.get(text.strip().lower(), Severity.WARNING)


def is_acceptable(name: str, value: Any) -> bool:
    """Whether this is a label as it must be."""
    return value.__class__ is str and len(value) <= MAX_LABEL_CHARS and 0 < len(name) <= MAX_NAME_CHARS


def refuse_label(name: str, value: Any, place: str) -> PayloadError:
    """Give the error that says what is wrong with a label."""
    field = f"{place}.{shown(name)}"
    if not 0 < len(name) <= MAX_NAME_CHARS:
        return PayloadError(f"a name has 1 to {MAX_NAME_CHARS} characters", field=field)
    if not isinstance(value, str):
        return wrong_type(value, "text", field)
    return PayloadError(f"longer than {MAX_LABEL_CHARS} characters", field=field)


def wrong_type(value: Any, wanted: str, field: str) -> PayloadError:
    """Give the error for a value of another JSON type than wanted."""
    return PayloadError(f"must be {wanted}, not {json_type(value)}", field=field, code="wrong_type")


def json_type(value: Any) -> str:
    """Give JSON's own word for the type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return {"str": "text", "list": "a list", "dict": "an object"}.get(type(value).__name__, "something else")


def cut(text: str) -> str:
    """Give an annotation's text, shortened with a note when it is too long."""
    if len(text) <= MAX_ANNOTATION_CHARS:
        return text
    return f"{text[:MAX_ANNOTATION_CHARS]}... ({len(text)} characters)"


def link(value: str) -> str:
    """Give a link that a browser may follow, empty when it is none: no `javascript:` reaches the dashboard."""
    return value if value.startswith(("https://", "http://")) and len(value) <= MAX_LINK_CHARS else ""


def instant(text: str, field: str) -> float:
    """Give epoch seconds of an RFC 3339 text; sub-microseconds are cut off.

    Raises:
        PayloadError: not RFC 3339, without a zone, or outside 1970..9999.
    """
    try:
        moment = datetime.fromisoformat(text if text[-1:] != "z" else text.upper())
    except ValueError:
        raise _not_a_time(field) from None
    if moment.tzinfo is None or len(text) < _MIN_TIMESTAMP_CHARS:
        raise _not_a_time(field)
    seconds = moment.timestamp()
    if not 0.0 <= seconds < _END_OF_TIME:
        raise PayloadError("the time is outside the years 1970 to 9999", field=field)
    return seconds


def is_zero(text: str) -> bool:
    """Whether this is Go's zero time, by which its programs mean "not yet"."""
    return text.startswith("0001-01-01T00:00:00")


def epoch(number: float, field: str) -> float:
    """Give epoch seconds of a number that counts seconds or milliseconds.

    Raises:
        PayloadError: outside 1970..9999.
    """
    seconds = number / 1000.0 if number >= _MILLISECONDS_FROM else float(number)
    if not (math.isfinite(seconds) and 0.0 <= seconds < _END_OF_TIME):
        raise PayloadError("the time is outside the years 1970 to 9999", field=field)
    return seconds


def fingerprint(source: str, name: str, labels: Mapping[str, str]) -> str:
    """Give the stable identity of an alert whose sender gives none."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (source, name, *(text for pair in sorted(labels.items()) for text in pair)):
        encoded = part.encode("utf-8", "surrogatepass")
        # The length in front keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.hexdigest()


def _not_a_time(field: str) -> PayloadError:
    example = datetime.fromtimestamp(0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return PayloadError(f"must be an RFC 3339 time with a zone, such as {example}", field=field)
