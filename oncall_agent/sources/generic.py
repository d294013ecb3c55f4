"""Any JSON body, mapped field by field with JMESPath expressions of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from oncall_agent.errors import ConfigError, PayloadError
from oncall_agent.models import Alert, AlertStatus, Labels
from oncall_agent.settings.model import GenericMapping, ServerSettings
from oncall_agent.sources import bounds, fields

_KEYS = (
    "alerts",
    "name",
    "status",
    "fingerprint",
    "starts_at",
    "ends_at",
    "severity",
    "labels",
    "annotations",
    "link",
)
_SEARCH_ERRORS = (JMESPathError, TypeError, ValueError, ArithmeticError, RecursionError)
"""jmespath's own functions let Python's errors through, such as `contains('text', `1`)`."""


@lru_cache(maxsize=128)
def compiled(mapping: GenericMapping) -> Mapping[str, Any]:
    """Compile every expression of a mapping, once per configuration.

    Raises:
        ConfigError: naming the key.
    """
    expressions = {}
    for key in _KEYS:
        text = getattr(mapping, key)
        if text is None:
            continue
        try:
            expressions[key] = jmespath.compile(text)
        except JMESPathError as error:
            raise ConfigError(
                f"not a JMESPath expression: {str(error).splitlines()[0]}", key=f"mapping.{key}"
            ) from error
    return expressions


@dataclass(frozen=True, slots=True)
class _Reader:
    """One alert of the body with the expressions that find its fields."""

    raw: Any
    place: str
    expressions: Mapping[str, Any]

    def find(self, key: str) -> Any:
        expression = self.expressions.get(key)
        return None if expression is None else _search(expression, self.raw, self.field(key))

    def field(self, key: str) -> str:
        return f"{self.place}.{self.expressions[key].expression}"

    def text(self, key: str) -> str | None:
        value = self.find(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise fields.wrong_type(value, "text", self.field(key))
        if "\0" in value:
            raise PayloadError("a NUL character is not accepted", field=self.field(key))
        return value


def parse(
    mapping: GenericMapping, body: bytes, *, limits: ServerSettings, now: float, source: str
) -> tuple[Alert, ...]:
    """Read the alerts of one body.

    Raises:
        PayloadError: naming the expression that did not find what it must.
    """
    document = bounds.load(body, max_depth=limits.max_depth)
    expressions = compiled(mapping)
    alerts = _search(expressions["alerts"], document, mapping.alerts)
    if not isinstance(alerts, list):
        code = "missing_field" if alerts is None else "wrong_type"
        raise PayloadError(f"must be a list, not {fields.json_type(alerts)}", field=mapping.alerts, code=code)
    if len(alerts) > limits.max_alerts:
        raise PayloadError(
            f"more than {limits.max_alerts} alerts", field=mapping.alerts, code="too_many_alerts"
        )
    readers = (_Reader(raw, f"alerts[{index}]", expressions) for index, raw in enumerate(alerts))
    return tuple(_alert(reader, mapping, limits.max_labels, now, source) for reader in readers)


def _alert(reader: _Reader, mapping: GenericMapping, most: int, now: float, source: str) -> Alert:
    name = _name(reader)
    labels = {**_labels(reader, "labels", most), "alertname": name}
    starts_at = _instant(reader, "starts_at")
    return Alert(
        source=source,
        fingerprint=_fingerprint(reader) or fields.fingerprint(source, name, labels),
        status=_status(reader, mapping),
        name=name,
        labels=labels,
        annotations=_labels(reader, "annotations", most),
        starts_at=now if starts_at is None else starts_at,
        ends_at=_instant(reader, "ends_at"),
        severity=fields.severity(reader.text("severity")),
        link=fields.link(reader.text("link") or ""),
    )


def _search(expression: Any, value: Any, field: str) -> Any:
    try:
        return expression.search(value)
    except _SEARCH_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise PayloadError(f"the expression fails on this body: {reason}", field=field) from error


def _name(reader: _Reader) -> str:
    name = reader.text("name")
    if not name:
        raise PayloadError("is missing", field=reader.field("name"), code="missing_field")
    if len(name) > fields.MAX_LABEL_CHARS:
        raise PayloadError(f"longer than {fields.MAX_LABEL_CHARS} characters", field=reader.field("name"))
    return name


def _status(reader: _Reader, mapping: GenericMapping) -> AlertStatus:
    text = reader.text("status")
    is_over = text is not None and text.strip().lower() in {
        value.lower() for value in mapping.resolved_values
    }
    return AlertStatus.RESOLVED if is_over else AlertStatus.FIRING


def _fingerprint(reader: _Reader) -> str | None:
    text = reader.text("fingerprint")
    if text is not None and len(text) > fields.MAX_FINGERPRINT_CHARS:
        limit = fields.MAX_FINGERPRINT_CHARS
        raise PayloadError(f"longer than {limit} characters", field=reader.field("fingerprint"))
    return text


def _instant(reader: _Reader, key: str) -> float | None:
    value = reader.find(key)
    if (
        value is None
        or value == ""
        or (isinstance(value, str) and key == "ends_at" and fields.is_zero(value))
    ):
        return None
    field = reader.field(key)
    if isinstance(value, str):
        number = _number(value)
        return fields.instant(value, field) if number is None else fields.epoch(number, field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fields.wrong_type(value, "a time", field)
    return fields.epoch(value, field)


def _number(text: str) -> float | None:
    digits = text.replace(".", "", 1)
    return float(text) if digits.isascii() and digits.isdigit() else None


def _labels(reader: _Reader, key: str, most: int) -> Labels:
    value = reader.find(key)
    if value is None:
        return {}
    place = reader.field(key)
    if not isinstance(value, dict):
        raise fields.wrong_type(value, "an object", place)
    if len(value) > most:
        raise PayloadError(f"more than {most} {key}", field=place, code="too_many_labels")
    convert = _label if key == "labels" else _annotation
    return {str(name): convert(str(name), inner, place) for name, inner in value.items() if inner is not None}


def _label(name: str, value: Any, place: str) -> str:
    text = _as_text(value)
    if not isinstance(text, str) or not fields.is_acceptable(name, text):
        raise fields.refuse_label(name, text, place)
    return text


def _annotation(name: str, value: Any, place: str) -> str:
    text = _as_text(value)
    if not isinstance(text, str) or not fields.is_acceptable(name, ""):
        raise fields.refuse_label(name, text, place)
    return fields.cut(text)


def _as_text(value: Any) -> Any:
    """Give the text of a scalar; lists and objects stay what they are and are refused by the caller."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else value
