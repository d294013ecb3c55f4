"""Alertmanager's webhook, version 4.

Checked by hand and not by a model: this is the path that a storm takes, and the order of the checks is the
order in which real bodies are right.

Source: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

from typing import Any

from oncall_agent.errors import PayloadError
from oncall_agent.models import Alert, AlertStatus, Labels
from oncall_agent.settings.model import ServerSettings
from oncall_agent.sources import bounds, fields

_STATUS = {"firing": AlertStatus.FIRING, "resolved": AlertStatus.RESOLVED}


def parse(body: bytes, *, limits: ServerSettings, source: str) -> tuple[Alert, ...]:
    """Read the alerts of one notification; an empty list is understood and gives none.

    Raises:
        PayloadError: naming the field.
    """
    document = bounds.load(body, max_depth=limits.max_depth)
    if document.__class__ is not dict:
        raise fields.wrong_type(document, "an object", "")
    alerts = document.get("alerts")
    if alerts.__class__ is not list:
        raise _absent("alerts") if alerts is None else fields.wrong_type(alerts, "a list", "alerts")
    if len(alerts) > limits.max_alerts:
        raise PayloadError(f"more than {limits.max_alerts} alerts", field="alerts", code="too_many_alerts")
    group_key = _text(document, "groupKey", "")[: fields.MAX_GROUP_KEY_CHARS]
    most = limits.max_labels
    return tuple(_alert(alert, index, most, source, group_key) for index, alert in enumerate(alerts))


def _alert(raw: Any, index: int, most: int, source: str, group_key: str) -> Alert:
    place = f"alerts[{index}]"
    if raw.__class__ is not dict:
        raise fields.wrong_type(raw, "an object", place)
    labels = _labels(raw.get("labels"), f"{place}.labels", most)
    name = labels.get("alertname")
    if not name:
        raise _absent(f"{place}.labels.alertname")
    return Alert(
        source,
        _fingerprint(raw, place, source, name, labels),
        _status(raw.get("status"), place),
        name,
        labels,
        _annotations(raw.get("annotations"), f"{place}.annotations", most),
        _starts_at(raw.get("startsAt"), f"{place}.startsAt"),
        _ends_at(raw.get("endsAt"), f"{place}.endsAt"),
        fields.severity(labels.get("severity")),
        fields.link(_text(raw, "generatorURL", place)),
        group_key,
    )


def _labels(value: Any, place: str, most: int) -> Labels:
    if value.__class__ is not dict:
        raise _absent(place) if value is None else fields.wrong_type(value, "an object", place)
    if len(value) > most:
        raise PayloadError(f"more than {most} labels", field=place, code="too_many_labels")
    for name, text in value.items():
        if not fields.is_acceptable(name, text):
            raise fields.refuse_label(name, text, place)
    labels: Labels = value
    return labels


def _annotations(value: Any, place: str, most: int) -> Labels:
    if value is None:
        return {}
    if value.__class__ is not dict:
        raise fields.wrong_type(value, "an object", place)
    if len(value) > most:
        raise PayloadError(f"more than {most} annotations", field=place, code="too_many_labels")
    for name, text in value.items():
        if not fields.is_acceptable(name, text):
            return _long_annotations(value, place)
    annotations: Labels = value
    return annotations


def _long_annotations(value: dict[str, Any], place: str) -> Labels:
    kept: dict[str, str] = {}
    for name, text in value.items():
        if text.__class__ is not str or not fields.is_acceptable(name, ""):
            raise fields.refuse_label(name, text, place)
        kept[name] = fields.cut(text)
    return kept


def _status(value: Any, place: str) -> AlertStatus:
    status = _STATUS.get(value) if value.__class__ is str else None
    if status is not None:
        return status
    if value is None:
        raise _absent(f"{place}.status")
    if value.__class__ is not str:
        raise fields.wrong_type(value, "text", f"{place}.status")
    raise PayloadError("must be firing or resolved", field=f"{place}.status")


def _starts_at(value: Any, place: str) -> float:
    if value.__class__ is not str:
        raise _absent(place) if value is None else fields.wrong_type(value, "text", place)
    return fields.instant(value, place)


def _ends_at(value: Any, place: str) -> float | None:
    if value is None:
        return None
    if value.__class__ is not str:
        raise fields.wrong_type(value, "text", place)
    return None if not value or fields.is_zero(value) else fields.instant(value, place)


def _fingerprint(raw: dict[str, Any], place: str, source: str, name: str, labels: Labels) -> str:
    value = _text(raw, "fingerprint", place)
    if len(value) > fields.MAX_FINGERPRINT_CHARS:
        limit = fields.MAX_FINGERPRINT_CHARS
        raise PayloadError(f"longer than {limit} characters", field=f"{place}.fingerprint")
    # Alertmanager before 0.19 sent none.
    return value or fields.fingerprint(source, name, labels)


def _text(raw: dict[str, Any], key: str, place: str) -> str:
    value = raw.get(key)
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise fields.wrong_type(value, "text", f"{place}.{key}" if place else key)


def _absent(field: str) -> PayloadError:
    return PayloadError("is missing", field=field, code="missing_field")
