"""The context vector: what each column says, and that nothing unreadable gets into it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncall_agent.errors import PolicyError
from oncall_agent.models import (
    UNKNOWN_TARGET,
    Attempt,
    History,
    Incident,
    IncidentState,
    Measurement,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Phase,
    Severity,
    Signals,
    Target,
)
from oncall_agent.policy.features import COLUMNS, LAYOUT, SCHEMA, Context, context, encode
from oncall_agent.policy.layout import Group, Layout

MONDAY_NOON = 345_600.0 + 43_200.0  # 1970-01-05T12:00Z
INCIDENT = Incident(
    id="i1", key="k", alert_class="web-down", target="web", service="shop", severity=Severity.CRITICAL,
    state=IncidentState.RUNNING, phase=Phase.NEW, title="t", labels={}, opened_at=0.0, updated_at=0.0,
    attempt_count=1,
)  # fmt: skip
WEB = Target("web", "http_app", tier=2)
CALM = Context("disk-full", "warning", 3.5, 0, 1, 1, 0, flapping=False, last_failed=False)


def _attempt(incident_id: str, action: str, status: OutcomeStatus | None = None) -> Attempt:
    outcome = Outcome(status, OutcomeReason.VERIFY_FAILED) if status else None
    return Attempt("a", incident_id, "d", 1, action, "web", "shop", {}, "k", 1, 0.0, outcome=outcome)


def _columns(given_context: Context) -> dict[str, float]:
    return dict(zip(COLUMNS, encode(given_context).tolist(), strict=True))


def test_every_column_has_one_name_one_group_and_one_scale() -> None:
    assert len(COLUMNS) == len(set(COLUMNS)) == len(encode(CALM)) == len(LAYOUT.scale)
    assert len(LAYOUT.labels) == len(LAYOUT.starts)


def test_schema_is_known_so_that_a_change_of_columns_is_a_decision() -> None:
    assert SCHEMA == "v1:43db47df8da25ddd"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Layout(2, (Group("a", ("x",), 1.0),)), id="version"),
        pytest.param(Layout(1, (Group("a", ("y",), 1.0),)), id="column"),
        pytest.param(Layout(1, (Group("a", ("x",), 0.5),)), id="scale"),
        pytest.param(Layout(1, (Group("a", ("x",), 1.0), Group("b", ("y",), 1.0))), id="more-columns"),
    ],
)
def test_schema_differs_when_the_vector_means_something_else(other: Layout) -> None:
    assert Layout(1, (Group("a", ("x",), 1.0),)).schema != other.schema


@pytest.mark.parametrize(
    ("field", "value", "column", "expected"),
    [
        pytest.param("score", 50.0, "health", 0.5, id="health"),
        pytest.param("score", None, "health_missing", 1.0, id="health-missing"),
        pytest.param("up", False, "down", 1.0, id="down"),
        pytest.param("up", True, "down", 0.0, id="up"),
        pytest.param("up", None, "down_missing", 1.0, id="up-missing"),
        pytest.param("cpu", 0.9, "cpu", 0.9, id="cpu"),
        pytest.param("cpu", 7.0, "cpu", 1.0, id="cpu-bounded"),
        pytest.param("memory", 0.25, "memory", 0.25, id="memory"),
        pytest.param("error_rate", 0.1, "error_rate", 0.1, id="error-rate"),
        pytest.param("response_seconds", 60.0, "response_time", 1.0, id="response"),
        pytest.param("response_seconds", 1e9, "response_time", 1.0, id="response-bounded"),
        pytest.param("error_lines", 1000, "error_lines", 1.0, id="error-lines"),
        pytest.param("open_incidents", 1000, "open_incidents", 1.0, id="storm"),
        pytest.param("attempt", 1, "attempt", 0.0, id="first-attempt"),
        pytest.param("attempt", 6, "attempt", 1.0, id="sixth-attempt"),
        pytest.param("flapping", True, "flapping", 1.0, id="flapping"),
        pytest.param("last_failed", True, "last_failed", 1.0, id="last-failed"),
        pytest.param("tier", 5, "tier", 1.0, id="tier"),
        pytest.param("tier", None, "tier_missing", 1.0, id="tier-missing"),
        pytest.param("recurrences", 100, "recurrences", 1.0, id="recurrences"),
        pytest.param("severity", "critical", "severity_critical", 1.0, id="severity"),
        pytest.param("hour", 6.0, "hour_sin", 1.0, id="hour"),
        pytest.param("weekday", 0, "weekday_cos", 1.0, id="weekday"),
    ],
)
def test_a_column_says_what_its_name_says(field: str, value: Any, column: str, expected: float) -> None:
    assert expected == pytest.approx(_columns(replace(CALM, **{field: value}))[column])


@pytest.mark.parametrize("field", ["score", "cpu", "memory", "error_rate", "response_seconds", "error_lines"])
def test_a_missing_reading_is_not_a_zero(field: str) -> None:
    assert encode(replace(CALM, **{field: 0})).tolist() != encode(CALM).tolist()


def test_the_minute_before_midnight_is_next_to_midnight() -> None:
    late, midnight, noon = (encode(replace(CALM, hour=hour)) for hour in (23.99, 0.0, 12.0))
    assert np.linalg.norm(late - midnight) < 0.01
    assert np.linalg.norm(noon - midnight) > 1.0


def test_classes_hardly_ever_share_a_code() -> None:
    codes = {tuple(encode(replace(CALM, alert_class=f"class-{n}")).tolist()) for n in range(40)}
    assert len(codes) >= 39


def test_codes_of_classes_are_the_same_in_every_process() -> None:
    lit = [name for name, value in _columns(CALM).items() if name.startswith("class_") and value]
    assert lit == ["class_0", "class_9", "class_10"]


def test_an_action_tried_before_lights_its_flag() -> None:
    tried = _columns(replace(CALM, tried=("docker.restart_container",)))
    assert sum(value for name, value in tried.items() if name.startswith("tried_")) == 1.0


OPTIONAL_FLOAT = st.none() | st.floats(allow_nan=False, allow_infinity=False)
CONTEXTS = st.builds(
    Context,
    alert_class=st.text(),
    severity=st.sampled_from([severity.value for severity in Severity]),
    hour=st.floats(0, 24), weekday=st.integers(0, 6), open_incidents=st.integers(0), attempt=st.integers(1),
    recurrences=st.integers(0), flapping=st.booleans(), last_failed=st.booleans(),
    tried=st.lists(st.text(), max_size=4).map(tuple), tier=st.none() | st.integers(0, 5),
    score=OPTIONAL_FLOAT, up=st.none() | st.booleans(), cpu=OPTIONAL_FLOAT, memory=OPTIONAL_FLOAT,
    response_seconds=OPTIONAL_FLOAT, error_rate=OPTIONAL_FLOAT, error_lines=st.none() | st.integers(),
)  # fmt: skip


@given(CONTEXTS)
def test_every_value_is_bounded_and_survives_json(given_context: Context) -> None:
    again = Context.from_json(json.loads(json.dumps(given_context.to_json())))
    x = encode(given_context)
    assert np.abs(x).max() <= 1.0
    assert x.tolist() == encode(again).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["hour", "score", "cpu", "response_seconds", "open_incidents"])
def test_a_number_that_is_not_finite_is_refused(field: str, bad: float) -> None:
    with pytest.raises(PolicyError, match="finite"):
        encode(replace(CALM, **{field: bad}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"cpu": math.nan}, "cpu", id="nan"),
        pytest.param({"cpu": "high"}, "cpu", id="text-for-number"),
        pytest.param({"hour": None}, "hour", id="null-where-required"),
        pytest.param({"severity": "loud"}, "severity", id="severity"),
        pytest.param({"alert_class": 7}, "alert_class", id="number-for-text"),
        pytest.param({"tried": "docker.restart"}, "tried", id="text-for-list"),
        pytest.param({"tried": [1]}, "tried", id="numbers-tried"),
        pytest.param({"colour": "red"}, "colour", id="unknown-field"),
    ],
)
def test_a_stored_context_that_can_not_be_one_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        Context.from_json({**CALM.to_json(), **change})


def test_a_stored_context_without_a_field_is_refused() -> None:
    stored = {name: value for name, value in CALM.to_json().items() if name != "cpu"}
    with pytest.raises(PolicyError, match="cpu"):
        Context.from_json(stored)


def test_context_takes_what_the_incident_its_target_and_its_history_say() -> None:
    history = History(
        attempts=(
            _attempt("i1", "docker.restart_container", OutcomeStatus.FAILED),
            _attempt("other", "docker.update_limits", OutcomeStatus.SUCCEEDED),
        ),
        open_incidents=7,
        recurrences=2,
    )
    measurement = Measurement(0.0, 40.0, healthy=False, signals=Signals(up=True, cpu=0.5, error_lines=3))
    expected = Context(
        "web-down", "critical", 12.0, 0, 7, 2, 2, flapping=False, last_failed=True,
        tried=("docker.restart_container",), tier=2, score=40.0, up=True, cpu=0.5, error_lines=3,
    )  # fmt: skip
    assert expected == context(INCIDENT, WEB, measurement, history, MONDAY_NOON)


@pytest.mark.parametrize(
    "target",
    [pytest.param(None, id="none"), pytest.param(Target(UNKNOWN_TARGET, "unknown"), id="unknown-entry")],
)
def test_an_unknown_target_has_no_tier(target: Target | None) -> None:
    assert context(INCIDENT, target, None, History(), MONDAY_NOON).tier is None


def test_a_reading_that_is_not_finite_counts_as_not_read() -> None:
    measurement = Measurement(0.0, math.nan, None, Signals(cpu=math.inf))
    seen = context(INCIDENT, WEB, measurement, History(), MONDAY_NOON)
    assert (seen.score, seen.cpu) == (None, None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(OutcomeStatus.FAILED, True, id="failed"),
        pytest.param(OutcomeStatus.REFUSED, False, id="refused"),
        pytest.param(None, False, id="not-over"),
    ],
)
def test_only_the_newest_attempt_tells_whether_the_last_failed(
    status: OutcomeStatus | None, expected: bool
) -> None:
    older = _attempt("i1", "app.restart", OutcomeStatus.FAILED)
    history = History(attempts=(_attempt("i1", "app.scale_up", status), older))
    assert expected is context(INCIDENT, WEB, None, history, MONDAY_NOON).last_failed
