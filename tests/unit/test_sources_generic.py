"""Generic bodies: mapped by expressions, refused by name."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oncall_agent.errors import ConfigError, PayloadError
from oncall_agent.models import Alert, AlertStatus, Severity
from oncall_agent.settings.model import GenericMapping, GenericSource, ServerSettings
from oncall_agent.sources import check, parse

NOW = 1_800_000_000.0
LIMITS = ServerSettings(max_depth=8, max_labels=5, max_alerts=3)


def alerts_of(value: Any, **mapping: Any) -> tuple[Alert, ...]:
    source = GenericSource(mapping=GenericMapping(**mapping))
    return parse(source, json.dumps(value).encode(), limits=LIMITS, now=NOW, source="gen")


def test_the_default_mapping_takes_the_body_as_one_alert() -> None:
    body = {
        "name": "DiskFull",
        "status": "Resolved",
        "fingerprint": "abc",
        "starts_at": "2026-11-21T07:15:42Z",
        "severity": "crit",
        "labels": {"host": "db1", "used": 0.97, "count": 3, "root": True, "none": None},
        "annotations": {"summary": "full"},
    }
    expected = Alert(
        source="gen",
        fingerprint="abc",
        status=AlertStatus.RESOLVED,
        name="DiskFull",
        labels={"host": "db1", "used": "0.97", "count": "3", "root": "true", "alertname": "DiskFull"},
        annotations={"summary": "full"},
        starts_at=1795245342.0,
        severity=Severity.CRITICAL,
    )
    assert (expected,) == alerts_of(body)


def test_only_a_name_is_needed() -> None:
    read = alerts_of({"name": "X"})[0]
    assert (AlertStatus.FIRING, NOW, None) == (read.status, read.starts_at, read.ends_at)
    assert read.fingerprint == alerts_of({"name": "X"})[0].fingerprint
    assert read.fingerprint != alerts_of({"name": "Y"})[0].fingerprint


def test_expressions_reach_into_any_shape() -> None:
    body = {
        "items": [{"meta": {"title": "A", "tags": {"env": "prod"}}, "when": 1_795_245_342_000, "state": "ok"}]
    }
    read = alerts_of(
        body,
        alerts="items",
        name="meta.title",
        labels="meta.tags",
        starts_at="when",
        status="state",
        link="join('', ['https://x/', meta.title])",
    )[0]
    assert ("A", {"env": "prod", "alertname": "A"}, 1_795_245_342.0) == (
        read.name,
        read.labels,
        read.starts_at,
    )
    assert (AlertStatus.RESOLVED, "https://x/A") == (read.status, read.link)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_795_245_342, 1_795_245_342.0),
        (1_795_245_342.5, 1_795_245_342.5),
        (1_795_245_342_500, 1_795_245_342.5),
        ("1795245342", 1_795_245_342.0),
        ("1795245342.25", 1_795_245_342.25),
        ("2026-11-21T07:15:42Z", 1_795_245_342.0),
        (None, NOW),
        ("", NOW),
    ],
)
def test_a_start_is_text_or_epoch_seconds_or_milliseconds(value: Any, expected: float) -> None:
    assert expected == alerts_of({"name": "X", "starts_at": value})[0].starts_at


MALFORMED: dict[str, tuple[Any, dict[str, str], str, str]] = {
    "no-name": ({}, {}, "missing_field", "alerts[0].name"),
    "empty-name": ({"name": ""}, {}, "missing_field", "alerts[0].name"),
    "name-number": ({"name": 1}, {}, "wrong_type", "alerts[0].name"),
    "name-long": ({"name": "x" * 2049}, {}, "bad_value", "alerts[0].name"),
    "nul": ({"name": "x\0"}, {}, "bad_value", "name"),
    "body-number": (7, {}, "missing_field", "alerts[0].name"),
    "alerts-missing": ({}, {"alerts": "alerts"}, "missing_field", "alerts"),
    "alerts-text": ({"alerts": "x"}, {"alerts": "alerts"}, "wrong_type", "alerts"),
    "too-many": ({"a": [1, 2, 3, 4]}, {"alerts": "a"}, "too_many_alerts", "a"),
    "too-deep": ([[[[[[[[[]]]]]]]]], {}, "too_deep", ""),
    "status-number": ({"name": "x", "status": 1}, {}, "wrong_type", "alerts[0].status"),
    "labels-list": ({"name": "x", "labels": []}, {}, "wrong_type", "alerts[0].labels"),
    "label-object": ({"name": "x", "labels": {"a": {}}}, {}, "wrong_type", "alerts[0].labels.a"),
    "label-long": ({"name": "x", "labels": {"a": "x" * 2049}}, {}, "bad_value", "alerts[0].labels.a"),
    "label-unnamed": ({"name": "x", "labels": {"": "x"}}, {}, "bad_value", "alerts[0].labels."),
    "many-labels": (
        {"name": "x", "labels": dict.fromkeys("abcdef", "")},
        {},
        "too_many_labels",
        "alerts[0].labels",
    ),
    "annotation-list": ({"name": "x", "annotations": {"a": []}}, {}, "wrong_type", "alerts[0].annotations.a"),
    "start-boolean": ({"name": "x", "starts_at": True}, {}, "wrong_type", "alerts[0].starts_at"),
    "start-negative": ({"name": "x", "starts_at": -1}, {}, "bad_value", "alerts[0].starts_at"),
    "start-huge": ({"name": "x", "starts_at": 1e300}, {}, "bad_value", "alerts[0].starts_at"),
    "start-word": ({"name": "x", "starts_at": "soon"}, {}, "bad_value", "alerts[0].starts_at"),
    "fingerprint-long": ({"name": "x", "fingerprint": "x" * 129}, {}, "bad_value", "alerts[0].fingerprint"),
    "function-on-wrong-type": ({"name": 1}, {"name": "to_number(name).length(@)"}, "bad_value", ""),
    "python-error-in-function": ({"name": "x"}, {"name": "contains(name, `1`)"}, "bad_value", ""),
}


@pytest.mark.parametrize(("body", "mapping", "code", "field"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_body_is_refused_by_name(
    body: Any, mapping: dict[str, str], code: str, field: str
) -> None:
    with pytest.raises(PayloadError) as caught:
        alerts_of(body, **mapping)
    assert code == caught.value.code
    assert field in caught.value.field


def test_an_expression_that_does_not_compile_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"mapping\.name"):
        check(GenericSource(mapping=GenericMapping(name="a..b[")))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["name", "status", "fingerprint", "starts_at", "severity", "labels", "annotations"])


@settings(max_examples=200, deadline=None)
@given(value=JSON | st.dictionaries(FIELDS, JSON | st.dictionaries(st.text(), JSON)))
def test_arbitrary_json_is_alerts_or_a_payload_error(value: Any) -> None:
    try:
        read = alerts_of(value)
    except PayloadError as error:
        assert error.code
        return
    for entry in read:
        orjson.dumps(entry)
