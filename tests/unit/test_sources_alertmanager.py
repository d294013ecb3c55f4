"""Alertmanager's bodies: every captured one is understood, every broken one is refused by name."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oncall_agent.errors import PayloadError
from oncall_agent.models import Alert, AlertStatus, Severity
from oncall_agent.settings.model import AlertmanagerSource, ServerSettings
from oncall_agent.sources import parse

PAYLOADS = Path(__file__).parents[1] / "payloads"
BODIES = sorted(path for path in PAYLOADS.glob("*.json") if not path.name.endswith("http-headers.json"))
LIMITS = ServerSettings(max_depth=8, max_labels=4, max_alerts=3)


def alerts_of(body: bytes, limits: ServerSettings | None = None) -> tuple[Alert, ...]:
    return parse(AlertmanagerSource(), body, limits=limits or ServerSettings(), now=5.0, source="am")


def alert(**changed: Any) -> dict[str, Any]:
    whole = {
        "status": "firing",
        "labels": {"alertname": "Down"},
        "annotations": {"summary": "it is down"},
        "startsAt": "2026-11-21T07:15:42.883Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "d193cb0daacd09c7",
        **changed,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def body_of(*alerts: Any, **changed: Any) -> bytes:
    return orjson.dumps({"alerts": list(alerts), "groupKey": "{}", **changed})


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
def test_every_captured_body_is_understood(path: Path) -> None:
    raw = orjson.loads(path.read_bytes())["alerts"]
    read = alerts_of(path.read_bytes())
    assert [entry["fingerprint"] for entry in raw] == [entry.fingerprint for entry in read]
    assert [entry["status"] for entry in raw] == [entry.status.value for entry in read]
    assert [entry["labels"] for entry in raw] == [entry.labels for entry in read]
    assert [entry["annotations"] for entry in raw] == [entry.annotations for entry in read]
    assert [entry["endsAt"].startswith("0001") for entry in raw] == [entry.ends_at is None for entry in read]


def test_a_captured_alert_is_read_whole() -> None:
    read = alerts_of((PAYLOADS / "alertmanager-mixed-one-resolved.json").read_bytes())[1]
    assert AlertStatus.RESOLVED is read.status
    assert ("am", "HighErrorRate", "d193cb0daacd09c7") == (read.source, read.name, read.fingerprint)
    assert (1795245342.883, 1795245351.883) == (read.starts_at, read.ends_at)
    assert Severity.CRITICAL is read.severity
    assert "http://vm:18590/graph?g0.expr=app_error_ratio+%3E+0.05&g0.tab=1" == read.link
    assert read.group_key.startswith("{}/{alertname=")


def test_no_alerts_are_no_error() -> None:
    assert () == alerts_of(b'{"alerts": []}')


def test_a_sender_without_fingerprints_gets_a_stable_one() -> None:
    labels = {"alertname": "Down", "a": "1"}
    turned = dict(reversed(labels.items()))
    other = {"alertname": "Down", "a": "2"}
    marks = [
        alerts_of(body_of(alert(fingerprint=..., labels=each)))[0].fingerprint
        for each in (labels, turned, other)
    ]
    assert marks[0] == marks[1]
    assert marks[0] != marks[2]


def test_the_last_of_two_equal_keys_counts() -> None:
    body = body_of(alert()).replace(b'"alertname":"Down"', b'"alertname":"Down","alertname":"Up"')
    assert "Up" == alerts_of(body)[0].name


def test_unknown_keys_are_ignored() -> None:
    assert 1 == len(
        alerts_of(body_of(alert(silenceURL=[{"a": 1}]), notification_reason={"b": []}, version=4))
    )


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    body = body_of(alert(annotations={"path": "C:\\u0000"}))
    assert {"path": "C:\\u0000"} == alerts_of(body)[0].annotations


def test_a_long_annotation_is_cut_and_says_so() -> None:
    text = alerts_of(body_of(alert(annotations={"d": "x" * 9000})))[0].annotations["d"]
    assert 8192 + len("... (9000 characters)") == len(text)


@pytest.mark.parametrize(
    "scheme", ["javascript:alert(1)", "data:text/html,x", "//evil", "http://x/" + "a" * 2048]
)
def test_a_link_that_a_browser_must_not_follow_is_dropped(scheme: str) -> None:
    assert not alerts_of(body_of(alert(generatorURL=scheme)))[0].link


MALFORMED = {
    "empty": (b"", "malformed_json", ""),
    "not-json": (b"alerts", "malformed_json", ""),
    "cut-off": (body_of(alert())[:-9], "malformed_json", ""),
    "two-documents": (b"{}{}", "malformed_json", ""),
    "not-utf8": (b'{"alerts": ["\xff"]}', "malformed_json", ""),
    "utf8-surrogate": (b'{"alerts": ["\xed\xa0\x80"]}', "malformed_json", ""),
    "escaped-lone-surrogate": (b'{"alerts": ["\\ud800"]}', "malformed_json", ""),
    "raw-nul": (b'{"alerts": ["\x00"]}', "malformed_json", ""),
    "nan": (b'{"alerts": [NaN]}', "malformed_json", ""),
    "infinity": (b'{"alerts": [-Infinity]}', "malformed_json", ""),
    "beyond-double": (b'{"alerts": [1e999]}', "malformed_json", ""),
    "number-of-5000-digits": (b'{"alerts": [' + b"9" * 5000 + b"]}", "malformed_json", ""),
    "deeper-than-the-parser": (b"[" * 5000 + b"]" * 5000, "too_deep", ""),
    "deeper-than-the-limit": (body_of(alert(x=[[[[[[[]]]]]]])), "too_deep", ""),
    "body-null": (b"null", "wrong_type", ""),
    "body-list": (b"[]", "wrong_type", ""),
    "body-text": (b'"alerts"', "wrong_type", ""),
    "no-alerts": (b"{}", "missing_field", "alerts"),
    "alerts-object": (b'{"alerts": {}}', "wrong_type", "alerts"),
    "group-key-number": (body_of(alert(), groupKey=1), "wrong_type", "groupKey"),
    "too-many-alerts": (body_of(*[alert()] * 4), "too_many_alerts", "alerts"),
    "alert-null": (body_of(alert(), None), "wrong_type", "alerts[1]"),
    "alert-text": (body_of("x"), "wrong_type", "alerts[0]"),
    "no-labels": (body_of(alert(labels=...)), "missing_field", "alerts[0].labels"),
    "labels-list": (body_of(alert(labels=[])), "wrong_type", "alerts[0].labels"),
    "no-alertname": (body_of(alert(labels={"a": "b"})), "missing_field", "alerts[0].labels.alertname"),
    "empty-alertname": (
        body_of(alert(labels={"alertname": ""})),
        "missing_field",
        "alerts[0].labels.alertname",
    ),
    "label-number": (body_of(alert(labels={"alertname": 1})), "wrong_type", "alerts[0].labels.alertname"),
    "label-null": (body_of(alert(labels={"alertname": "A", "b": None})), "wrong_type", "alerts[0].labels.b"),
    "label-object": (body_of(alert(labels={"alertname": "A", "b": {}})), "wrong_type", "alerts[0].labels.b"),
    "label-long": (
        body_of(alert(labels={"alertname": "A" * 2049})),
        "bad_value",
        "alerts[0].labels.alertname",
    ),
    "label-unnamed": (body_of(alert(labels={"alertname": "A", "": "b"})), "bad_value", "alerts[0].labels."),
    "label-name-long": (
        body_of(alert(labels={"alertname": "A", "n" * 257: "b"})),
        "bad_value",
        f"alerts[0].labels.{'n' * 120}...",
    ),
    "label-name-unprintable": (
        body_of(alert(labels={"alertname": "A", "n\n\x1b": 1})),
        "wrong_type",
        "alerts[0].labels.n\\n\\x1b",
    ),
    "too-many-labels": (
        body_of(alert(labels={"alertname": "A", **{str(n): "" for n in range(4)}})),
        "too_many_labels",
        "alerts[0].labels",
    ),
    "too-many-annotations": (
        body_of(alert(annotations={str(n): "" for n in range(5)})),
        "too_many_labels",
        "alerts[0].annotations",
    ),
    "annotations-text": (body_of(alert(annotations="x")), "wrong_type", "alerts[0].annotations"),
    "annotation-number": (body_of(alert(annotations={"a": 1})), "wrong_type", "alerts[0].annotations.a"),
    "nul-in-label": (body_of(alert(labels={"alertname": "A\0"})), "bad_value", "alerts[0].labels.alertname"),
    "nul-in-label-name": (
        body_of(alert(labels={"alertname": "A", "b\0": ""})),
        "bad_value",
        "alerts[0].labels",
    ),
    "no-status": (body_of(alert(status=...)), "missing_field", "alerts[0].status"),
    "status-unknown": (body_of(alert(status="burning")), "bad_value", "alerts[0].status"),
    "status-boolean": (body_of(alert(status=True)), "wrong_type", "alerts[0].status"),
    "status-list": (body_of(alert(status=["firing"])), "wrong_type", "alerts[0].status"),
    "no-start": (body_of(alert(startsAt=...)), "missing_field", "alerts[0].startsAt"),
    "start-number": (body_of(alert(startsAt=1)), "wrong_type", "alerts[0].startsAt"),
    "start-word": (body_of(alert(startsAt="yesterday")), "bad_value", "alerts[0].startsAt"),
    "start-empty": (body_of(alert(startsAt="")), "bad_value", "alerts[0].startsAt"),
    "start-without-zone": (
        body_of(alert(startsAt="2026-11-21T07:15:42.883")),
        "bad_value",
        "alerts[0].startsAt",
    ),
    "start-date-only": (body_of(alert(startsAt="2026-11-21")), "bad_value", "alerts[0].startsAt"),
    "start-zero": (body_of(alert(startsAt="0001-01-01T00:00:00Z")), "bad_value", "alerts[0].startsAt"),
    "start-impossible-day": (
        body_of(alert(startsAt="2026-02-30T00:00:00Z")),
        "bad_value",
        "alerts[0].startsAt",
    ),
    "end-number": (body_of(alert(endsAt=0)), "wrong_type", "alerts[0].endsAt"),
    "end-word": (body_of(alert(endsAt="never")), "bad_value", "alerts[0].endsAt"),
    "fingerprint-number": (body_of(alert(fingerprint=1)), "wrong_type", "alerts[0].fingerprint"),
    "fingerprint-long": (body_of(alert(fingerprint="a" * 129)), "bad_value", "alerts[0].fingerprint"),
    "link-number": (body_of(alert(generatorURL=1)), "wrong_type", "alerts[0].generatorURL"),
}


@pytest.mark.parametrize(("body", "code", "field"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_body_is_refused_by_name(body: bytes, code: str, field: str) -> None:
    with pytest.raises(PayloadError) as caught:
        alerts_of(body, LIMITS)
    assert (code, field) == (caught.value.code, caught.value.field)
    assert caught.value.message.isprintable()
    assert 500 > len(caught.value.message)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("critical", Severity.CRITICAL),
        ("PAGE", Severity.CRITICAL),
        (" error ", Severity.ERROR),
        ("warning", Severity.WARNING),
        ("info", Severity.INFO),
        ("shrug", Severity.WARNING),
        ("", Severity.WARNING),
    ],
)
def test_the_senders_words_for_severity_are_understood(word: str, expected: Severity) -> None:
    assert expected is alerts_of(body_of(alert(labels={"alertname": "A", "severity": word})))[0].severity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21T07:15:42Z", 1795245342.0),
        ("2026-11-21T07:15:42.5Z", 1795245342.5),
        ("2026-11-21T07:15:42.883123456Z", 1795245342.883123),
        ("2026-11-21T09:15:42.000+02:00", 1795245342.0),
        ("2026-11-21T07:15:42z", 1795245342.0),
    ],
)
def test_every_form_of_go_time_is_read(text: str, expected: float) -> None:
    assert expected == alerts_of(body_of(alert(startsAt=text)))[0].starts_at


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["status", "labels", "annotations", "startsAt", "endsAt", "fingerprint", "generatorURL"]
)
NEARLY = st.builds(
    lambda changes: {"alerts": [alert(**changes)]},
    st.dictionaries(KEYS, JSON | st.dictionaries(st.sampled_from(["alertname", "b"]), JSON), max_size=3),
)


def _dumped(value: object) -> bytes:
    import json

    return json.dumps(value).encode()


@settings(max_examples=200, deadline=None)
@given(value=JSON | NEARLY | st.builds(lambda alerts: {"alerts": alerts}, JSON))
def test_arbitrary_json_is_alerts_or_a_payload_error(value: object) -> None:
    try:
        read = alerts_of(_dumped(value))
    except PayloadError as error:
        assert error.code
        return
    for entry in read:
        assert "\0" not in repr((entry.labels, entry.annotations, entry.fingerprint))
        orjson.dumps(entry)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200))
def test_arbitrary_bytes_are_alerts_or_a_payload_error(body: bytes) -> None:
    try:
        alerts_of(body)
    except PayloadError as error:
        assert error.code
