"""Placement: which class, target, service and incident an alert belongs to."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncall_agent.models import UNCLASSIFIED, UNKNOWN_TARGET, Alert, AlertStatus, PlacedAlert, Silence
from oncall_agent.rules.matching import MAX_VALUE_LENGTH, matches
from oncall_agent.rules.placement import Placement, incident_key
from oncall_agent.settings.model import GroupingSettings, Runbook, Settings, TargetSettings

TARGETS = (
    TargetSettings(name="web", kind="docker_container", service="shop"),
    TargetSettings(name="db", kind="postgres", match={"instance": "db:5432", "env": "prod"}, service="shop"),
    TargetSettings(name="second-web", kind="http_app", service="shop"),
    TargetSettings(name="lonely", kind="http_app"),
    TargetSettings(name="narrow", kind="http_app", match={"service": "pay", "zone": "a"}, service="pay"),
    TargetSettings(name="wide", kind="http_app", match={"service": "pay"}, service="pay"),
)


def _runbook(name: str, alert_class: str, match: dict[str, str], **more: Any) -> Runbook:
    return Runbook.model_validate({"name": name, "class": alert_class, "match": match, **more})


RUNBOOKS = (
    _runbook("apps", "app-down", {"alertname": "Down"}, target_kind="http_app"),
    _runbook("any", "down", {"alertname": "Down"}),
    _runbook("memory", "memory", {"alertname": "~.*Memory.*", "severity": "critical"}),
    _runbook("memory-low", "memory-low", {"alertname": "~.*Memory.*"}),
)
PLACEMENT = Placement(Settings(targets=TARGETS), RUNBOOKS)


def _alert(**labels: str) -> Alert:
    named = {"alertname": "Down", **labels}
    return Alert("am", "f", AlertStatus.FIRING, named["alertname"], named, {}, 1.0)


def _place(alert: Alert, placement: Placement = PLACEMENT) -> PlacedAlert:
    return placement.place(alert, (), 100.0)


@pytest.mark.parametrize(
    ("labels", "target", "service"),
    [
        ({"service": "shop"}, "web", "shop"),
        ({"instance": "db:5432", "env": "prod"}, "db", "shop"),
        ({"instance": "db:5432", "env": "prod", "service": "shop"}, "web", "shop"),
        ({"instance": "db:5432"}, UNKNOWN_TARGET, ""),
        ({"target": "lonely"}, "lonely", "lonely"),
        ({"service": "pay", "zone": "a"}, "narrow", "pay"),
        ({"service": "pay", "zone": "b"}, "wide", "pay"),
        ({"service": "elsewhere"}, UNKNOWN_TARGET, "elsewhere"),
        ({"service": "SHOP"}, UNKNOWN_TARGET, "SHOP"),
        ({}, UNKNOWN_TARGET, ""),
    ],
    ids=[
        "by service", "by its own labels", "the first in the configuration wins", "all labels are needed", "by name",
        "narrow before wide", "wide if narrow does not fit", "unknown keeps its service label", "case counts", "no label",
    ],
)  # fmt: skip
def test_the_target_is_the_first_whose_labels_all_equal(
    labels: dict[str, str], target: str, service: str
) -> None:
    placed = _place(_alert(**labels))
    assert (target, service) == (placed.target, placed.service)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"target": "lonely"}, "app-down"),
        ({"service": "shop"}, "down"),
        ({"service": "elsewhere"}, "app-down"),
        ({"alertname": "HighMemoryUse", "severity": "critical"}, "memory"),
        ({"alertname": "HighMemoryUse"}, "memory-low"),
        ({"alertname": "Other"}, UNCLASSIFIED),
        ({"alertname": "down"}, UNCLASSIFIED),
    ],
    ids=[
        "kind fits",
        "kind does not fit",
        "kind unknown",
        "all matchers",
        "some matchers",
        "none",
        "case counts",
    ],
)
def test_the_class_is_that_of_the_first_matching_runbook(labels: dict[str, str], expected: str) -> None:
    placement = Placement(Settings(targets=TARGETS), RUNBOOKS)
    assert expected == _place(_alert(**labels), placement).alert_class
    assert expected == _place(_alert(**labels), placement).alert_class  # now from memory


def _keys(*alerts: Alert, **grouping: Any) -> list[str]:
    placement = Placement(Settings(targets=TARGETS, grouping=GroupingSettings(**grouping)), RUNBOOKS)
    return [_place(alert, placement).incident_key for alert in alerts]


SAME = {
    "same class and target": (_alert(service="shop"), _alert(service="shop", instance="b")),
    "another alert name of the class": (
        _alert(service="shop", alertname="aMemory"), _alert(service="shop", alertname="bMemory"),
    ),
    "another status": (_alert(service="shop"), replace(_alert(service="shop"), status=AlertStatus.RESOLVED)),
}  # fmt: skip
DIFFERENT = {
    "another class": (_alert(service="shop"), _alert(service="shop", alertname="Memory")),
    "another target": (_alert(service="shop"), _alert(target="lonely")),
    "unclassified by name": (_alert(service="shop", alertname="x"), _alert(service="shop", alertname="y")),
    "unknown by name": (_alert(alertname="aMemory"), _alert(alertname="bMemory")),
    "unknown by service": (_alert(service="s1"), _alert(service="s2")),
    "unknown by instance": (_alert(instance="h1"), _alert(instance="h2")),
}


@pytest.mark.parametrize("alerts", SAME.values(), ids=SAME.keys())
def test_alerts_of_one_trouble_share_an_incident(alerts: tuple[Alert, Alert]) -> None:
    first, second = _keys(*alerts)
    assert first == second
    assert len(first) == 32


@pytest.mark.parametrize("alerts", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_alerts_of_different_trouble_do_not_share_an_incident(alerts: tuple[Alert, Alert]) -> None:
    first, second = _keys(*alerts)
    assert first != second


def test_grouping_labels_tell_incidents_apart() -> None:
    alerts = (_alert(service="shop", zone="a"), _alert(service="shop", zone="b"))
    assert len(set(_keys(*alerts))) == 1
    assert len(set(_keys(*alerts, labels=("zone",)))) == 2


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_different_parts_give_different_incident_keys(first: list[str], second: list[str]) -> None:
    assert (first == second) == (incident_key(first) == incident_key(second))


def test_a_label_with_broken_text_still_has_a_key() -> None:
    assert len(_place(_alert(service="\ud800")).incident_key) == 32


@pytest.mark.parametrize(
    ("silence", "now", "expected"),
    [
        (Silence("s", {"service": "shop"}, 50, 150, "ann"), 100.0, "s"),
        (Silence("s", {"service": "~sh.*"}, 50, 150, "ann"), 100.0, "s"),
        (Silence("s", {"service": "~sh"}, 50, 150, "ann"), 100.0, ""),
        (Silence("s", {"service": "shop", "zone": "a"}, 50, 150, "ann"), 100.0, ""),
        (Silence("s", {"service": "shop"}, 50, 150, "ann"), 150.0, ""),
        (Silence("s", {"service": "shop"}, 50, 150, "ann"), 49.0, ""),
        (Silence("s", {"service": "~["}, 50, 150, "ann"), 100.0, ""),
        (Silence("s", {}, 50, 150, "ann"), 100.0, ""),
    ],
    ids=[
        "equal",
        "regex",
        "regex is over the whole value",
        "all matchers",
        "over",
        "not begun",
        "broken",
        "empty",
    ],
)
def test_a_standing_silence_that_matches_is_named(silence: Silence, now: float, expected: str) -> None:
    other = Silence("other", {"service": "nothing"}, 0, 1_000, "ann")
    assert expected == PLACEMENT.place(_alert(service="shop"), (other, silence), now).silence_id


@pytest.mark.parametrize(
    ("labels", "matchers", "expected"),
    [
        ({"a": "1"}, {"a": "1"}, True),
        ({"a": "1"}, {"a": "2"}, False),
        ({}, {"a": ""}, True),
        ({}, {"a": "~.*"}, True),
        ({}, {"a": "~.+"}, False),
        ({"a": "~x"}, {"a": "~x"}, True),
        ({"a": "x" * (MAX_VALUE_LENGTH + 1)}, {"a": "~x*"}, False),
        ({"a": "x" * MAX_VALUE_LENGTH}, {"a": "~x*"}, True),
        ({"a": "x"}, {"a": "~" + "x?" * 300}, False),
        ({"a": "x"}, {}, False),
    ],
    ids=[
        "equal", "not equal", "absent is empty", "absent fits a pattern", "absent does not fit", "the text itself",
        "value too long for patterns", "value just short enough", "pattern too long", "no matcher",
    ],
)  # fmt: skip
def test_matchers_compare_whole_values(
    labels: dict[str, str], matchers: dict[str, str], expected: bool
) -> None:
    assert expected is matches(labels, matchers)


def test_what_is_remembered_stays_bounded() -> None:
    placement = Placement(Settings(targets=TARGETS), RUNBOOKS)
    for number in range(5_000):
        _place(_alert(alertname=f"n{number}"), placement)
    _place(_alert(alertname="long" * 1_000), placement)
    remembered = placement._class_index._remembered
    assert 0 < len(remembered) <= 4_096
    assert all(len(str(key)) < 2_000 for key in remembered)


def test_placing_stays_cheap_with_many_targets_and_runbooks() -> None:
    """A bound an order of magnitude above what it takes, so that only a blunder breaks it."""
    targets = tuple(TargetSettings(name=f"t{n}", kind="http_app", service=f"s{n}") for n in range(500))
    runbooks = tuple(_runbook(f"r{n}", f"c{n}", {"alertname": f"~Alert{n}x.*"}) for n in range(50))
    placement = Placement(Settings(targets=targets), runbooks)
    alerts = [_alert(service=f"s{n % 500}", alertname=f"Alert{n % 60}x") for n in range(2_000)]
    started = time.perf_counter()
    for alert in alerts:
        _place(alert, placement)
    assert (time.perf_counter() - started) / len(alerts) < 100e-6
