"""The reward: its terms, what counts as seen, and where its zero is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncall_agent.contract import ActionSpec
from oncall_agent.models import (
    Check,
    Measurement,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Reward,
    RiskClass,
    RollbackStatus,
)
from oncall_agent.rules import reward
from oncall_agent.settings.model import RewardSettings

WEIGHTS = RewardSettings(time_budget_seconds=600.0, worse_penalty=0.5, closed_bonus=0.1)
RESTART = ActionSpec(
    "app.restart",
    "made up",
    "http_app",
    RiskClass.R2,
    reversible=True,
    deadline_seconds=60.0,
    cost=0.05,
    family="restart",
)
PAGE = replace(RESTART, id="escalate.page", family="escalate", cost=0.45)
WAIT = replace(RESTART, id="watch.wait", family="wait", cost=0.0)
FIXED = Outcome(OutcomeStatus.SUCCEEDED, OutcomeReason.VERIFIED, verification=Check(ok=True))
UNSEEN = Outcome(OutcomeStatus.SUCCEEDED, OutcomeReason.VERIFIED)
FAILED = Outcome(OutcomeStatus.FAILED, OutcomeReason.VERIFY_FAILED, verification=Check(ok=False))
REFUSED = Outcome(OutcomeStatus.REFUSED, OutcomeReason.PRECHECK_REFUSED, precheck=Check(ok=False))
ERROR = Outcome(OutcomeStatus.FAILED, OutcomeReason.PERMANENT_ERROR)
LATE = Outcome(OutcomeStatus.FAILED, OutcomeReason.DEADLINE)
WORSE = Outcome(OutcomeStatus.FAILED, OutcomeReason.SYMPTOM_WORSE, rollback=RollbackStatus.DONE)
UNDONE = replace(FAILED, rollback=RollbackStatus.DONE)
STUCK = replace(FAILED, rollback=RollbackStatus.FAILED)
PLANNED = Outcome(OutcomeStatus.PLANNED, OutcomeReason.DRY_RUN)
KILLED = Outcome(OutcomeStatus.REFUSED, OutcomeReason.KILL_SWITCH)
CRASHED = Outcome(OutcomeStatus.INTERRUPTED, OutcomeReason.CRASH_UNVERIFIED)
RECOVERED = Outcome(OutcomeStatus.SUCCEEDED, OutcomeReason.CRASH_RECOVERED, verification=Check(ok=True))


def _health(score: float | None) -> Measurement:
    return Measurement(0.0, score, None)


def _score(
    outcome: Outcome,
    before: float | None = None,
    after: float | None = None,
    *,
    spec: ActionSpec = RESTART,
    seconds: float = 60.0,
    closed: bool = False,
) -> Reward:
    return reward.score(
        outcome, _health(before), _health(after), spec=spec, seconds=seconds, closed=closed, weights=WEIGHTS
    )


@pytest.mark.parametrize(
    ("outcome", "before", "after", "closed", "expected"),
    [
        pytest.param(
            FIXED, 20.0, 100.0, True,
            {"health": 80 / 81, "time": -0.1, "cost": -0.05, "closed": 0.1}, id="healed-and-closed",
        ),
        pytest.param(FIXED, 20.0, 60.5, False, {"health": 0.5, "time": -0.1, "cost": -0.05}, id="half-healed"),
        pytest.param(FAILED, 20.0, 20.0, False, {"health": 0.0, "time": -0.1, "cost": -0.05}, id="no-change"),
        pytest.param(FIXED, 20.0, 20.0, False, {"health": 0.0, "time": -0.1, "cost": -0.05}, id="health-beats-verification"),
        pytest.param(
            WORSE, 50.0, 24.5, False,
            {"health": -0.5, "time": -0.1, "cost": -0.05, "worse": -0.5}, id="made-worse",
        ),
        pytest.param(
            UNDONE, 20.0, 20.0, False,
            {"health": 0.0, "time": -0.1, "cost": -0.05, "worse": -0.5}, id="rolled-back",
        ),
        pytest.param(
            STUCK, 20.0, 20.0, False,
            {"health": 0.0, "time": -0.1, "cost": -0.05, "worse": -0.5}, id="rollback-failed",
        ),
        pytest.param(FIXED, None, None, True, {"success": 1.0, "time": -0.1, "cost": -0.05, "closed": 0.1}, id="verified-blind"),
        pytest.param(FIXED, None, 100.0, False, {"success": 1.0, "time": -0.1, "cost": -0.05}, id="only-after"),
        pytest.param(FIXED, 20.0, None, False, {"success": 1.0, "time": -0.1, "cost": -0.05}, id="only-before"),
        pytest.param(FIXED, math.nan, 100.0, False, {"success": 1.0, "time": -0.1, "cost": -0.05}, id="nan-is-blind"),
        pytest.param(FAILED, None, None, False, {"success": 0.0, "time": -0.1, "cost": -0.05}, id="failed-blind"),
        pytest.param(ERROR, None, None, False, {"success": 0.0, "time": -0.1, "cost": -0.05}, id="refused-by-backend"),
        pytest.param(REFUSED, None, None, False, {"success": 0.0, "time": -0.1}, id="precheck-costs-only-time"),
        pytest.param(RECOVERED, None, None, False, {"success": 1.0, "time": -0.1, "cost": -0.05}, id="crash-verified"),
        pytest.param(UNSEEN, None, None, True, {"success": 1.0, "time": -0.1, "cost": -0.05, "closed": 0.1}, id="sender-says-clear"),
    ],
)  # fmt: skip
def test_terms_of_what_was_seen(
    outcome: Outcome, before: float | None, after: float | None, closed: bool, expected: dict[str, float]
) -> None:
    given_reward = _score(outcome, before, after, closed=closed)
    assert expected == pytest.approx(given_reward.terms)
    assert not given_reward.censored


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(PLANNED, id="dry-run"),
        pytest.param(KILLED, id="kill-switch"),
        pytest.param(CRASHED, id="crash"),
        pytest.param(LATE, id="deadline"),
        pytest.param(UNSEEN, id="not-verified"),
        pytest.param(Outcome(OutcomeStatus.FAILED, OutcomeReason.UNEXPECTED_ERROR), id="unexpected"),
    ],
)
def test_what_says_nothing_of_the_result_is_censored(outcome: Outcome) -> None:
    assert _score(outcome).censored


def test_a_dry_run_is_censored_even_when_the_target_recovered_meanwhile() -> None:
    assert Reward(0.0, {}, 20.0, 100.0, censored=True) == _score(PLANNED, 20.0, 100.0)


def test_a_late_action_is_judged_by_its_measurements_when_there_are_any() -> None:
    given_reward = _score(LATE, 20.0, 100.0)
    assert (given_reward.censored, given_reward.terms["health"]) == (False, 80 / 81)


def test_asking_a_human_is_the_zero_of_the_scale() -> None:
    assert _score(FIXED, 20.0, 20.0, spec=PAGE, seconds=500.0).value == 0.0


def test_an_action_that_failed_is_worth_less_than_asking_a_human() -> None:
    assert _score(FAILED, 20.0, 20.0).value < _score(FIXED, 20.0, 20.0, spec=PAGE).value


def test_an_action_that_healed_is_worth_more_than_asking_a_human() -> None:
    assert _score(FIXED, 20.0, 100.0).value > _score(FIXED, 20.0, 20.0, spec=PAGE).value


def test_a_page_that_reached_nobody_is_penalised() -> None:
    assert _score(ERROR, spec=PAGE).value == -0.5


def test_a_page_cut_off_by_a_crash_is_censored() -> None:
    assert _score(CRASHED, spec=PAGE).censored


@pytest.mark.parametrize(("closed", "expected"), [(True, 1.0), (False, 0.0)])
def test_waiting_succeeds_only_when_the_incident_closed(closed: bool, expected: float) -> None:
    assert expected == _score(UNSEEN, spec=WAIT, closed=closed).terms["success"]


def test_waiting_is_judged_by_health_like_anything_else() -> None:
    assert _score(UNSEEN, 20.0, 100.0, spec=WAIT).terms["health"] == 80 / 81


def test_health_of_both_measurements_is_kept() -> None:
    given_reward = _score(FIXED, 20.0, 90.0)
    assert (given_reward.health_before, given_reward.health_after) == (20.0, 90.0)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_seconds_that_are_no_duration_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        _score(FIXED, 20.0, 90.0, seconds=seconds)


OBSERVATIONS = st.fixed_dictionaries(
    {
        "outcome": st.sampled_from([FIXED, FAILED, REFUSED, WORSE, UNDONE, LATE, CRASHED, PLANNED]),
        "spec": st.sampled_from([RESTART, PAGE, WAIT]),
        "before": st.none() | st.floats(0, 100),
        "after": st.none() | st.floats(0, 100),
        "seconds": st.floats(0, 1e6),
        "closed": st.booleans(),
    }
)


@given(OBSERVATIONS)
def test_the_value_is_the_clipped_sum_of_the_terms(observation: dict[str, Any]) -> None:
    given_reward = _score(**observation)
    total = sum(given_reward.terms.values())
    assert min(1.0, max(-1.0, total)) == pytest.approx(given_reward.value)
    assert -1.0 <= given_reward.value <= 1.0
