"""Runbooks: what they offer for an incident, in which order, and what always stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oncall_agent.models import UNKNOWN_TARGET, Incident, IncidentState, Phase, Severity, Target
from oncall_agent.rules import runbooks as rules
from oncall_agent.settings.model import Runbook

TARGETS = {
    "web": Target("web", "docker_container", service="shop", settle_seconds=30.0),
    "front": Target("front", "http_app", service="shop"),
}
INCIDENT = Incident(
    id="i1", key="k", alert_class="down", target="web", service="shop", severity=Severity.CRITICAL,
    state=IncidentState.RUNNING, phase=Phase.NEW, title="Down", labels={"alertname": "Down", "service": "shop"},
    opened_at=0.0, updated_at=0.0,
)  # fmt: skip
STANDING = [("escalate.page", 0.0), ("watch.wait", -0.05)]


def _runbook(name: str, *candidates: dict[str, Any], **more: Any) -> Runbook:
    return Runbook.model_validate(
        {"name": name, "class": "down", "match": {"alertname": "Down"}, "candidates": candidates, **more}
    )


RESTART = {"action": "docker.restart_container", "prior": 0.6}
STRETCH = {"action": "docker.update_limits", "params": {"memory": "1g"}, "prior": 0.3}


def _offered(runbooks: tuple[Runbook, ...], incident: Incident = INCIDENT) -> list[tuple[str, float]]:
    return [(c.action, c.prior) for c in rules.candidates(incident, runbooks, TARGETS)]


@pytest.mark.parametrize(
    ("runbooks", "expected"),
    [
        ((), []),
        ((_runbook("a", RESTART, STRETCH),), [("docker.restart_container", 0.6), ("docker.update_limits", 0.3)]),
        (
            (_runbook("a", STRETCH), _runbook("b", RESTART, {**STRETCH, "prior": 0.9})),
            [("docker.update_limits", 0.3), ("docker.restart_container", 0.6)],
        ),
        (
            (_runbook("a", STRETCH, {**STRETCH, "params": {"memory": "2g"}}),),
            [("docker.update_limits", 0.3), ("docker.update_limits", 0.3)],
        ),
        ((_runbook("a", RESTART, match={"alertname": "Other"}),), []),
        ((_runbook("a", RESTART, target_kind="http_app"),), []),
        ((_runbook("a", RESTART, target_kind="docker_container"),), [("docker.restart_container", 0.6)]),
        ((_runbook("a", RESTART, match={"service": "~sh.*", "alertname": "Down"}),), [("docker.restart_container", 0.6)]),
    ],
    ids=[
        "none matches", "in its order", "all that match, each thing once, first wins", "other parameters are another thing",
        "other alert", "other kind", "same kind", "regex",
    ],
)  # fmt: skip
def test_all_matching_runbooks_offer_in_order_and_the_standing_two_come_last(
    runbooks: tuple[Runbook, ...], expected: list[tuple[str, float]]
) -> None:
    assert expected + STANDING == _offered(runbooks)


@pytest.mark.parametrize("target", [UNKNOWN_TARGET, "removed-from-the-configuration"])
def test_an_unknown_target_gets_only_the_standing_two(target: str) -> None:
    anywhere = _runbook("a", RESTART, {**RESTART, "target": "web"})
    assert _offered((anywhere,), replace(INCIDENT, target=target)) == STANDING


def test_a_candidate_can_name_another_target_of_the_configuration() -> None:
    found = rules.candidates(
        INCIDENT, (_runbook("a", RESTART, {"action": "app.restart", "target": "front"}),), TARGETS
    )
    assert [candidate.target for candidate in found] == ["web", "front", "web", "web"]
    assert [candidate.runbook for candidate in found] == ["a", "a", "", ""]


def test_a_runbook_can_rank_waiting_itself() -> None:
    assert _offered((_runbook("a", {"action": "watch.wait", "prior": 0.2}),)) == [
        ("watch.wait", 0.2),
        ("escalate.page", 0.0),
    ]


def test_an_incident_without_alert_name_is_matched_by_its_title() -> None:
    nameless = replace(INCIDENT, labels={"service": "shop"})
    assert ("docker.restart_container", 0.6) in _offered((_runbook("a", RESTART),), nameless)


@pytest.mark.parametrize(
    ("incident", "runbooks", "expected"),
    [
        (INCIDENT, (), 30.0),
        (
            INCIDENT,
            (_runbook("a"), _runbook("b", settle_seconds=600), _runbook("c", settle_seconds=5)),
            600.0,
        ),
        (INCIDENT, (_runbook("a", settle_seconds=0),), 0.0),
        (INCIDENT, (_runbook("a", settle_seconds=600, match={"alertname": "x"}),), 30.0),
        (replace(INCIDENT, target=UNKNOWN_TARGET), (), 0.0),
    ],
    ids=[
        "the target's",
        "the first runbook that says so",
        "zero is said too",
        "not another's",
        "unknown target",
    ],
)
def test_settle_time_is_the_runbooks_then_the_targets(
    incident: Incident, runbooks: tuple[Runbook, ...], expected: float
) -> None:
    assert expected == rules.settle_seconds(incident, runbooks, TARGETS)
