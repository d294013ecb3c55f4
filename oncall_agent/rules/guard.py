"""What is permitted now: every limit of the operator, asked before the policy chooses and again before acting.

Deny by default: a candidate is permitted only if each rule of `objections.OBJECTIONS` lets it pass. Asking a person is
always permitted. The policy sees only what is left here, so nothing it learns can widen a limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from oncall_agent.models import Autonomy, Candidate, Permitted, Refusal, RefusalReason, Screened
from oncall_agent.rules import autonomy
from oncall_agent.rules.objections import OBJECTIONS, cooldown_seconds
from oncall_agent.rules.runbooks import ESCALATE, WAIT
from oncall_agent.rules.situation import Case, Shared, Situation

__all__ = ["Situation", "cooldown_seconds", "recheck", "screen"]


def screen(candidates: Sequence[Candidate], situation: Situation) -> Screened:
    """Divide candidates into permitted and refused; each refusal carries the first reason that applies.

    If something may be carried out, what may only be recorded is refused; if nothing may, what may be
    recorded is permitted with its level. Asking a person is among the permitted even if not offered.
    """
    shared = Shared(situation)
    standing: list[Permitted] = []
    able: list[Permitted] = []
    refused: list[Refusal] = []
    for candidate in candidates:
        verdict = _judge(candidate, shared)
        if isinstance(verdict, Refusal):
            refused.append(verdict)
        else:
            (standing if candidate.action in (ESCALATE, WAIT) else able).append(verdict)
    if all(permitted.candidate.action != ESCALATE for permitted in standing):
        standing.append(Permitted(Candidate(ESCALATE, situation.incident.target), Autonomy.AUTO))
    lane, lower = _lane(able)
    return Screened(allowed=(*lane, *standing), refused=(*refused, *lower))


def recheck(candidate: Candidate, situation: Situation) -> Refusal | None:
    """Say why a candidate may not be carried out any more, just before the attempt is begun; None if it may."""
    verdict = _judge(candidate, Shared(situation))
    if isinstance(verdict, Refusal):
        return verdict
    if verdict.level in autonomy.CARRIED_OUT:
        return None
    return Refusal(candidate, RefusalReason.AUTONOMY, f"only {verdict.level.value} is granted now")


def _judge(candidate: Candidate, shared: Shared) -> Permitted | Refusal:
    situation = shared.situation
    if candidate.action == ESCALATE:
        return Permitted(candidate, Autonomy.AUTO)
    if candidate.action == WAIT:
        return _judge_waiting(candidate, situation)
    spec = situation.specs.get(candidate.action)
    if spec is None:
        return Refusal(candidate, RefusalReason.EXECUTOR_OFF, "the action is unknown or switched off")
    target = situation.targets.get(candidate.target)
    if target is None:
        return Refusal(candidate, RefusalReason.WRONG_TARGET_KIND, "the target is not in the configuration")
    case = Case(candidate, spec, target, shared)
    for reason, objection in OBJECTIONS:
        detail = objection(case)
        if detail is not None:
            return Refusal(candidate, reason, detail)
    return _judge_autonomy(case)


def _judge_waiting(candidate: Candidate, situation: Situation) -> Permitted | Refusal:
    incident, limit = situation.incident, situation.guard.max_attempts
    if incident.attempt_count >= limit:
        return Refusal(
            candidate, RefusalReason.MAX_ATTEMPTS, f"{incident.attempt_count} of {limit} attempts made"
        )
    if situation.now - incident.opened_at >= situation.max_age_seconds:
        detail = f"open for {situation.max_age_seconds:g} s, waiting is over"
        return Refusal(candidate, RefusalReason.MAX_ATTEMPTS, detail)
    return Permitted(candidate, Autonomy.AUTO)


def _judge_autonomy(case: Case) -> Permitted | Refusal:
    situation = case.situation
    granted = autonomy.level(
        situation.incident.alert_class,
        case.candidate.action,
        case.target.target_class,
        settings=situation.autonomy,
        overrides=situation.control.overrides,
    )
    if granted is Autonomy.OBSERVE:
        return Refusal(case.candidate, RefusalReason.AUTONOMY, "only observe is granted")
    return Permitted(case.candidate, autonomy.capped(granted, case.spec.risk))


def _lane(able: Sequence[Permitted]) -> tuple[Sequence[Permitted], Sequence[Refusal]]:
    """Keep what may be carried out; only if there is none, keep what may be recorded."""
    carried_out = [permitted for permitted in able if permitted.level in autonomy.CARRIED_OUT]
    if not carried_out:
        return able, ()
    lower = [
        Refusal(
            p.candidate, RefusalReason.AUTONOMY, f"only {p.level.value} is granted, others may be carried out"
        )
        for p in able
        if p.level not in autonomy.CARRIED_OUT
    ]
    return carried_out, lower
