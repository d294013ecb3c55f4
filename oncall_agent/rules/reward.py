"""What an attempt was worth, as one number with the terms it is made of.

The scale has its zero at asking a human: an action is worth trying when it is expected to end above it. Pure;
called by the pipeline when an attempt is over. A censored reward says that nothing was seen of the result: it is
stored, and must not be learned from.
"""

from __future__ import annotations

import math
from typing import Final

from oncall_agent.contract.executor import ActionSpec
from oncall_agent.models import (
    Measurement,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Reward,
    RollbackStatus,
)
from oncall_agent.settings.model import RewardSettings

ESCALATE: Final = "escalate"
WAIT: Final = "wait"

_NOT_ITS_DOING: Final = frozenset({OutcomeReason.KILL_SWITCH, OutcomeReason.DRY_RUN})
_KNOWN_FAILURES: Final = frozenset(
    {
        OutcomeReason.PRECHECK_REFUSED,
        OutcomeReason.VERIFY_FAILED,
        OutcomeReason.SYMPTOM_WORSE,
        OutcomeReason.SYMPTOM_REMAINS,
        OutcomeReason.TRANSIENT_EXHAUSTED,
        OutcomeReason.PERMANENT_ERROR,
    }
)


def score(
    outcome: Outcome,
    before: Measurement | None,
    after: Measurement | None,
    *,
    spec: ActionSpec,
    seconds: float,
    closed: bool,
    weights: RewardSettings,
) -> Reward:
    """Give the reward of one attempt.

    `health` is `(after - before) / (100 - before + 1)`: the part of what was missing that came back. Without
    both measurements `success` stands in for it, from the verification alone (1 or 0).

    Args:
        outcome: how the attempt ended.
        before: health at the decision.
        after: health at the end of the attempt, or of its settle time.
        spec: of the action; its cost is charged unless the precheck refused.
        seconds: that the attempt took.
        closed: the incident ended with this attempt, without a human.
        weights: of the terms.

    Returns:
        Value in -1..1; the terms add up to it before it is clipped. Censored when nothing was seen of the
        result: dry runs, kill switch, a crash or an error that says nothing about the target.

    Raises:
        ValueError: `seconds` is negative or not finite.
    """
    if not (math.isfinite(seconds) and seconds >= 0.0):
        raise ValueError(f"seconds: {seconds} is no duration")
    health_before, health_after = _health(before), _health(after)
    if outcome.status is OutcomeStatus.PLANNED or outcome.reason in _NOT_ITS_DOING:
        return Reward(0.0, {}, health_before, health_after, censored=True)
    if spec.family == ESCALATE:
        return _escalation(outcome, health_before, health_after, weights)
    gain = _gain(outcome, health_before, health_after, closed=closed, waits=spec.family == WAIT)
    terms = {**gain, **_charges(outcome, spec, seconds, weights)}
    if closed:
        terms["closed"] = weights.closed_bonus
    return Reward(_clipped(terms), terms, health_before, health_after, censored=not gain)


def _escalation(
    outcome: Outcome, health_before: float | None, health_after: float | None, weights: RewardSettings
) -> Reward:
    """Give the zero of the scale if a human was reached; the human's work is not the action's reward."""
    if outcome.status is OutcomeStatus.INTERRUPTED:
        return Reward(0.0, {}, health_before, health_after, censored=True)
    reached = outcome.status is OutcomeStatus.SUCCEEDED
    terms = {"baseline": 0.0} if reached else {"baseline": 0.0, "not_delivered": -weights.worse_penalty}
    return Reward(_clipped(terms), terms, health_before, health_after)


def _gain(
    outcome: Outcome, before: float | None, after: float | None, *, closed: bool, waits: bool
) -> dict[str, float]:
    """Give what the attempt brought, from the best evidence there is; empty when there is none."""
    if before is not None and after is not None:
        return {"health": (after - before) / (100.0 - before + 1.0)}
    if waits:
        return {"success": float(closed)}
    if outcome.verification is not None:
        return {"success": float(outcome.verification.ok)}
    if closed:
        return {"success": 1.0}
    if outcome.reason in _KNOWN_FAILURES:
        return {"success": 0.0}
    return {}


def _charges(outcome: Outcome, spec: ActionSpec, seconds: float, weights: RewardSettings) -> dict[str, float]:
    """Give what is taken off: the action's cost if it was carried out, the time, harm done."""
    charges = {"time": -seconds / weights.time_budget_seconds}
    if outcome.status is not OutcomeStatus.REFUSED:
        charges["cost"] = -spec.cost
    undone = outcome.rollback is not RollbackStatus.NOT_NEEDED
    if undone or outcome.reason is OutcomeReason.SYMPTOM_WORSE:
        charges["worse"] = -weights.worse_penalty
    return charges


def _health(measurement: Measurement | None) -> float | None:
    """Give the health score 0..100; None when nothing could be read."""
    if measurement is None or measurement.score is None or not math.isfinite(measurement.score):
        return None
    return min(100.0, max(0.0, measurement.score))


def _clipped(terms: dict[str, float]) -> float:
    return min(1.0, max(-1.0, math.fsum(terms.values())))
