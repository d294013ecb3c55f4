"""The guard: each limit, the order of their reasons, and what no order of candidates can change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncall_agent.contract import ActionSpec
from oncall_agent.models import (
    Attempt,
    Autonomy,
    Candidate,
    Control,
    History,
    Incident,
    IncidentState,
    Measurement,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Phase,
    Probe,
    RefusalReason,
    RiskClass,
    Severity,
    Silence,
    Target,
)
from oncall_agent.rules import guard
from oncall_agent.rules.guard import Situation
from oncall_agent.settings.model import (
    AutonomyRule,
    AutonomySettings,
    FreezeWindow,
    GuardSettings,
    StormSettings,
)

NOW = 1_000_000.0
RESTART = Candidate("docker.restart_container", "web", prior=0.6)
LIMITS = Candidate("docker.update_limits", "web", {"memory": "512m"})
LOOK = Candidate("http.look", "web")
WIPE = Candidate("docker.wipe", "web")
PAGE = Candidate("escalate.page", "web")
WAIT = Candidate("watch.wait", "web", prior=-0.05)
ACTIONS = (RESTART, LIMITS, LOOK, WIPE)


def _spec(action: str, risk: RiskClass, kind: str = "docker_container") -> ActionSpec:
    return ActionSpec(action, "made up", kind, risk, risk is not RiskClass.R3, 60.0, cooldown_seconds=300.0)


SPECS = {
    spec.id: spec
    for spec in (
        _spec(RESTART.action, RiskClass.R2),
        _spec(LIMITS.action, RiskClass.R1),
        _spec(LOOK.action, RiskClass.R0, "*"),
        _spec(WIPE.action, RiskClass.R3),
    )
}
WEB = Target("web", "docker_container", service="shop", probes=(Probe("http"),))
INCIDENT = Incident(
    id="i1", key="k", alert_class="web-down", target="web", service="shop", severity=Severity.CRITICAL,
    state=IncidentState.RUNNING, phase=Phase.NEW, title="WebDown", labels={"alertname": "WebDown", "service": "shop"},
    opened_at=NOW - 60, updated_at=NOW,
)  # fmt: skip
FREE = Situation(
    incident=INCIDENT, targets={"web": WEB}, specs=SPECS, guard=GuardSettings(),
    autonomy=AutonomySettings(default=Autonomy.AUTO), control=Control(), history=History(),
    measurement=Measurement(NOW, 40.0, healthy=False), open_breakers=frozenset(), now=NOW,
)  # fmt: skip


def _attempt(status: OutcomeStatus | None = OutcomeStatus.FAILED, **changes: Any) -> Attempt:
    attempt = Attempt(
        id="a1", incident_id="another", decision_id="d1", number=1, action=RESTART.action, target="web",
        service="shop", params={}, idempotency_key="x", fence=1, started_at=NOW - 10,
    )  # fmt: skip
    outcome = Outcome(status, OutcomeReason.VERIFY_FAILED) if status else None
    return replace(attempt, outcome=outcome, **changes)


def _with(**changes: Any) -> Situation:
    return replace(FREE, **changes)


def _silence(**changes: Any) -> Silence:
    return replace(Silence("s1", {"service": "shop"}, NOW - 1, NOW + 1, "ann"), **changes)


def _limits(**changes: Any) -> Situation:
    return _with(guard=GuardSettings(**changes))


_STORM = StormSettings(reversible_only_at=5, stop_at=10)
_ALWAYS = FreezeWindow(name="always", starts_at=0.0, ends_at=NOW * 2)

REFUSED: dict[str, tuple[Situation, RefusalReason]] = {
    "action not loaded": (_with(specs={}), RefusalReason.EXECUTOR_OFF),
    "target of another kind": (_with(targets={"web": replace(WEB, kind="http_app")}), RefusalReason.WRONG_TARGET_KIND),
    "target not configured": (_with(targets={}), RefusalReason.WRONG_TARGET_KIND),
    "paused": (_with(control=Control(paused=True)), RefusalReason.KILL_SWITCH),
    "protected": (_with(targets={"web": replace(WEB, protected=True)}), RefusalReason.PROTECTED),
    "frozen by the operator": (_with(control=Control(frozen_until=NOW + 1)), RefusalReason.FREEZE),
    "frozen by a window": (_limits(freeze_windows=(_ALWAYS,)), RefusalReason.FREEZE),
    "silenced": (_with(control=Control(silences=(_silence(),))), RefusalReason.SILENCED),
    "silenced by regex": (_with(control=Control(silences=(_silence(matchers={"service": "~sh.p"}),))), RefusalReason.SILENCED),
    "flapping incident": (_with(incident=replace(INCIDENT, flapping=True)), RefusalReason.FLAPPING),
    "came back too often": (_with(history=History(recurrences=4)), RefusalReason.FLAPPING),
    "storm, reversible only": (replace(_limits(storm=_STORM), history=History(open_incidents=5)), RefusalReason.STORM),
    "storm, nothing": (replace(_limits(storm=_STORM), history=History(open_incidents=10)), RefusalReason.STORM),
    "attempts used up": (_with(incident=replace(INCIDENT, attempt_count=3)), RefusalReason.MAX_ATTEMPTS),
    "failed in this incident": (_with(history=History((_attempt(incident_id="i1", started_at=0.0),))), RefusalReason.TRIED_BEFORE),
    "never ended in this incident": (_with(history=History((_attempt(None, incident_id="i1", started_at=0.0),))), RefusalReason.TRIED_BEFORE),
    "precheck said no in this incident": (_with(history=History((_attempt(OutcomeStatus.REFUSED, incident_id="i1"),))), RefusalReason.TRIED_BEFORE),
    "in cooldown": (_with(history=History((_attempt(),))), RefusalReason.COOLDOWN),
    "in cooldown after success": (_with(history=History((_attempt(OutcomeStatus.SUCCEEDED),))), RefusalReason.COOLDOWN),
    "in cooldown while running": (_with(history=History((_attempt(None),))), RefusalReason.COOLDOWN),
    "in the operator's longer cooldown": (
        replace(_limits(cooldown_seconds={RESTART.action: 900.0}), history=History((_attempt(started_at=NOW - 800),))),
        RefusalReason.COOLDOWN,
    ),
    "too many instances of the target": (_with(targets={"web": replace(WEB, instances=2)}), RefusalReason.BLAST_RADIUS),
    "too many instances of the action": (
        _with(specs={RESTART.action: replace(SPECS[RESTART.action], blast_radius=2)}), RefusalReason.BLAST_RADIUS,
    ),
    "action too often": (_with(history=History(action_counts={RESTART.action: 20})), RefusalReason.RATE_ACTION),
    "service too often": (_with(history=History(service_count=10)), RefusalReason.RATE_SERVICE),
    "breaker open": (_with(open_breakers=frozenset({"docker"})), RefusalReason.BREAKER_OPEN),
    "no measurement": (_with(measurement=None), RefusalReason.BLIND),
    "measurement without score": (_with(measurement=Measurement(NOW, None, None)), RefusalReason.BLIND),
    "observe by default": (_with(autonomy=AutonomySettings(default=Autonomy.OBSERVE)), RefusalReason.AUTONOMY),
    "observe by override": (_with(control=Control(overrides={"*/*/*": Autonomy.OBSERVE})), RefusalReason.AUTONOMY),
}  # fmt: skip


def _reasons(situation: Situation, *candidates: Candidate) -> list[RefusalReason]:
    return [refusal.reason for refusal in guard.screen(candidates, situation).refused]


def _allowed(situation: Situation, *candidates: Candidate) -> list[str]:
    return [permitted.candidate.key for permitted in guard.screen(candidates, situation).allowed]


@pytest.mark.parametrize(("situation", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_limit_refuses_with_its_reason(situation: Situation, reason: RefusalReason) -> None:
    refusal = guard.recheck(RESTART, situation)
    assert refusal is not None
    assert reason is refusal.reason
    assert refusal.detail
    assert [reason] == _reasons(situation, RESTART)
    assert [PAGE.key] == _allowed(situation, RESTART)


@pytest.mark.parametrize(
    "situation",
    [
        _with(control=Control(frozen_until=NOW)),
        _with(control=Control(silences=(_silence(ends_at=NOW),))),
        _with(control=Control(silences=(_silence(starts_at=NOW + 1),))),
        _with(control=Control(silences=(_silence(matchers={"service": "other"}),))),
        _with(control=Control(silences=(_silence(matchers={}),))),
        _with(history=History(recurrences=3)),
        replace(_limits(storm=_STORM), history=History(open_incidents=4)),
        _with(incident=replace(INCIDENT, attempt_count=2)),
        _with(history=History((_attempt(started_at=NOW - 300),))),
        _with(history=History((_attempt(target="db"),))),
        _with(history=History((_attempt(action="docker.update_limits"),))),
        _with(history=History((_attempt(OutcomeStatus.PLANNED),))),
        _with(history=History((_attempt(OutcomeStatus.REFUSED),))),
        _with(history=History((_attempt(incident_id="i1", params={"x": 1}, started_at=0.0),))),
        replace(_limits(cooldown_seconds={RESTART.action: 5.0}), history=History((_attempt(),))),
        replace(_limits(max_instances=2), targets={"web": replace(WEB, instances=2)}),
        _with(history=History(action_counts={RESTART.action: 19}, service_count=9)),
        _with(open_breakers=frozenset({"http"})),
        _with(targets={"web": replace(WEB, probes=())}, measurement=None),
    ],
    ids=[
        "freeze just ended", "silence just ended", "silence not begun", "silence of others", "silence without matchers",
        "few recurrences", "calm enough", "attempts left", "cooldown just over", "attempt on another target",
        "attempt of another action", "dry run", "precheck refused elsewhere", "failed with other parameters",
        "operator's shorter cooldown", "operator's wider radius", "below the rates", "breaker of another system",
        "no probes to be blind with",
    ],
)  # fmt: skip
def test_a_limit_that_is_not_reached_permits(situation: Situation) -> None:
    assert guard.recheck(RESTART, situation) is None
    assert [RESTART.key, PAGE.key] == _allowed(situation, RESTART)


_ORDER: tuple[tuple[RefusalReason, Callable[[Situation], Situation]], ...] = (
    (RefusalReason.EXECUTOR_OFF, lambda s: replace(s, specs={})),
    (RefusalReason.WRONG_TARGET_KIND, lambda s: replace(s, targets={"web": replace(s.targets["web"], kind="x")})),
    (RefusalReason.KILL_SWITCH, lambda s: replace(s, control=replace(s.control, paused=True))),
    (RefusalReason.PROTECTED, lambda s: replace(s, targets={"web": replace(s.targets["web"], protected=True)})),
    (RefusalReason.FREEZE, lambda s: replace(s, control=replace(s.control, frozen_until=NOW + 1))),
    (RefusalReason.SILENCED, lambda s: replace(s, control=replace(s.control, silences=(_silence(),)))),
    (RefusalReason.FLAPPING, lambda s: replace(s, incident=replace(s.incident, flapping=True))),
    (RefusalReason.STORM, lambda s: replace(s, history=replace(s.history, open_incidents=1_000))),
    (RefusalReason.MAX_ATTEMPTS, lambda s: replace(s, incident=replace(s.incident, attempt_count=9))),
    (RefusalReason.TRIED_BEFORE, lambda s: replace(s, history=replace(s.history, attempts=(*s.history.attempts, _attempt(incident_id="i1"))))),
    (RefusalReason.COOLDOWN, lambda s: replace(s, history=replace(s.history, attempts=(*s.history.attempts, _attempt())))),
    (RefusalReason.BLAST_RADIUS, lambda s: replace(s, targets={"web": replace(s.targets["web"], instances=9)})),
    (RefusalReason.RATE_ACTION, lambda s: replace(s, history=replace(s.history, action_counts={RESTART.action: 99}))),
    (RefusalReason.RATE_SERVICE, lambda s: replace(s, history=replace(s.history, service_count=99))),
    (RefusalReason.BREAKER_OPEN, lambda s: replace(s, open_breakers=frozenset({"docker"}))),
    (RefusalReason.BLIND, lambda s: replace(s, measurement=None)),
    (RefusalReason.AUTONOMY, lambda s: replace(s, autonomy=AutonomySettings(default=Autonomy.OBSERVE))),
)  # fmt: skip


@pytest.mark.parametrize("first", range(len(_ORDER)), ids=[reason.value for reason, _ in _ORDER])
def test_the_first_reason_in_the_documented_order_wins(first: int) -> None:
    """With this limit and every later one reached, this one is named."""
    situation = FREE
    for _, reach in _ORDER[first:]:
        situation = reach(situation)
    assert [_ORDER[first][0]] == _reasons(situation, RESTART)


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (_with(control=Control(frozen_until=NOW + 1)), [LOOK.key]),
        (replace(_limits(storm=_STORM), history=History(open_incidents=5)), [LIMITS.key, LOOK.key]),
        (replace(_limits(storm=_STORM), history=History(open_incidents=10)), []),
    ],
    ids=[
        "freeze lets looking pass",
        "first storm threshold lets R1 pass",
        "second storm threshold lets nothing pass",
    ],
)
def test_risk_decides_what_a_freeze_and_a_storm_let_pass(situation: Situation, expected: list[str]) -> None:
    assert [*expected, PAGE.key] == _allowed(situation, *ACTIONS)


@pytest.mark.parametrize("situation", [situation for situation, _ in REFUSED.values()], ids=REFUSED.keys())
def test_asking_a_person_is_always_permitted(situation: Situation) -> None:
    screened = guard.screen((RESTART, PAGE), situation)
    assert [(PAGE.key, Autonomy.AUTO)] == [(p.candidate.key, p.level) for p in screened.allowed]
    assert guard.recheck(PAGE, situation) is None


def test_asking_a_person_is_permitted_even_if_no_one_offered_it() -> None:
    assert [PAGE.key] == _allowed(FREE)


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (FREE, None),
        (_with(control=Control(paused=True), specs={}, targets={}), None),
        (_with(incident=replace(INCIDENT, attempt_count=3)), RefusalReason.MAX_ATTEMPTS),
        (_with(max_age_seconds=61.0), None),
        (_with(max_age_seconds=60.0), RefusalReason.MAX_ATTEMPTS),
    ],
    ids=[
        "usually",
        "with everything switched off",
        "not after the last attempt",
        "young enough",
        "not when too old",
    ],
)
def test_waiting_is_permitted_until_attempts_or_age_run_out(
    situation: Situation, expected: RefusalReason | None
) -> None:
    refusal = guard.recheck(WAIT, situation)
    assert expected == (refusal.reason if refusal else None)


def _rules(**levels: Autonomy) -> Situation:
    rules = tuple(
        AutonomyRule(action=action.replace("__", "."), level=level) for action, level in levels.items()
    )
    return _with(autonomy=AutonomySettings(default=Autonomy.OBSERVE, rules=rules))


LANES: dict[str, tuple[Situation, list[tuple[str, Autonomy]]]] = {
    "auto displaces shadow": (
        _rules(docker__restart_container=Autonomy.AUTO, docker__update_limits=Autonomy.SHADOW),
        [(RESTART.key, Autonomy.AUTO)],
    ),
    "approve displaces suggest": (
        _rules(docker__restart_container=Autonomy.SUGGEST, docker__update_limits=Autonomy.APPROVE),
        [(LIMITS.key, Autonomy.APPROVE)],
    ),
    "approve stands beside auto": (
        _rules(docker__restart_container=Autonomy.AUTO, docker__update_limits=Autonomy.APPROVE),
        [(RESTART.key, Autonomy.AUTO), (LIMITS.key, Autonomy.APPROVE)],
    ),
    "shadow stands beside suggest": (
        _rules(docker__restart_container=Autonomy.SHADOW, docker__update_limits=Autonomy.SUGGEST),
        [(RESTART.key, Autonomy.SHADOW), (LIMITS.key, Autonomy.SUGGEST)],
    ),
    "observe never": (_rules(docker__restart_container=Autonomy.OBSERVE), []),
    "what can't be undone is asked for": (_rules(docker__wipe=Autonomy.AUTO), [(WIPE.key, Autonomy.APPROVE)]),
}


@pytest.mark.parametrize(("situation", "expected"), LANES.values(), ids=LANES.keys())
def test_what_may_be_carried_out_displaces_what_may_only_be_recorded(
    situation: Situation, expected: list[tuple[str, Autonomy]]
) -> None:
    screened = guard.screen((*ACTIONS, PAGE), situation)
    able = [(p.candidate.key, p.level) for p in screened.allowed if p.candidate != PAGE]
    assert expected == able
    assert {RefusalReason.AUTONOMY} == {refusal.reason for refusal in screened.refused}
    assert len(ACTIONS) == len(able) + len(screened.refused)


@pytest.mark.parametrize("level", [Autonomy.SHADOW, Autonomy.SUGGEST])
def test_what_may_only_be_recorded_is_stopped_before_it_begins(level: Autonomy) -> None:
    situation = _with(autonomy=AutonomySettings(default=level))
    assert [RESTART.key, PAGE.key] == _allowed(situation, RESTART)
    refusal = guard.recheck(RESTART, situation)
    assert refusal is not None
    assert RefusalReason.AUTONOMY is refusal.reason


def test_the_shipped_settings_let_nothing_be_carried_out() -> None:
    situation = _with(autonomy=AutonomySettings())
    levels = {p.level for p in guard.screen(ACTIONS, situation).allowed if p.candidate != PAGE}
    assert {Autonomy.SHADOW} == levels


_SITUATIONS = st.sampled_from(
    [FREE, *[situation for situation, _ in REFUSED.values()], *[situation for situation, _ in LANES.values()]]
)
_OFFERED = st.lists(
    st.sampled_from(
        [*ACTIONS, PAGE, WAIT, Candidate("no.such", "web"), Candidate(RESTART.action, "no-such-target")]
    ),
    max_size=12,
    unique_by=lambda candidate: candidate.key,
)
_CARRIED_OUT = (Autonomy.APPROVE, Autonomy.AUTO)


@given(offered=_OFFERED, situation=_SITUATIONS, data=st.data())
def test_no_order_of_candidates_widens_what_is_permitted(
    offered: list[Candidate], situation: Situation, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(offered))
    once, again = guard.screen(offered, situation), guard.screen(shuffled, situation)
    assert {(p.candidate.key, p.level) for p in once.allowed} == {
        (p.candidate.key, p.level) for p in again.allowed
    }
    assert {(r.candidate.key, r.reason) for r in once.refused} == {
        (r.candidate.key, r.reason) for r in again.refused
    }


@given(offered=_OFFERED, situation=_SITUATIONS, data=st.data())
def test_leaving_candidates_out_never_lets_more_be_carried_out(
    offered: list[Candidate], situation: Situation, data: st.DataObject
) -> None:
    fewer = data.draw(
        st.lists(st.sampled_from(offered), unique_by=lambda c: c.key) if offered else st.just([])
    )
    all_of_them = {
        p.candidate.key for p in guard.screen(offered, situation).allowed if p.level in _CARRIED_OUT
    }
    some = {p.candidate.key for p in guard.screen(fewer, situation).allowed if p.level in _CARRIED_OUT}
    assert some - {PAGE.key} <= all_of_them


@given(offered=_OFFERED, situation=_SITUATIONS)
def test_every_candidate_is_either_permitted_or_refused_and_a_person_can_be_asked(
    offered: list[Candidate], situation: Situation
) -> None:
    screened = guard.screen(offered, situation)
    keys = [p.candidate.key for p in screened.allowed] + [r.candidate.key for r in screened.refused]
    assert sorted({*[c.key for c in offered], PAGE.key}) == sorted(keys)
    assert PAGE.key in [p.candidate.key for p in screened.allowed]
    assert all(
        guard.recheck(p.candidate, situation) is None for p in screened.allowed if p.level in _CARRIED_OUT
    )


def test_screening_twelve_candidates_stays_cheap() -> None:
    """A bound an order of magnitude above what it takes, so that only a blunder breaks it."""
    offered = [replace(RESTART, params={"n": n}) for n in range(10)] + [PAGE, WAIT]
    situation = _with(
        history=History(attempts=tuple(_attempt(started_at=0.0) for _ in range(20))),
        control=Control(silences=tuple(_silence(matchers={"service": f"~x{n}"}) for n in range(10))),
    )
    started = time.perf_counter()
    for _ in range(50):
        guard.screen(offered, situation)
    assert (time.perf_counter() - started) / 50 < 0.0015
