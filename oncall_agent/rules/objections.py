"""The limits of the operator as plain functions, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from oncall_agent.contract.executor import ActionSpec
from oncall_agent.models import OutcomeStatus, RefusalReason, RiskClass
from oncall_agent.rules.situation import Case, key_of
from oncall_agent.settings.model import GuardSettings

_UNTOUCHED: Final = frozenset({OutcomeStatus.PLANNED, OutcomeStatus.REFUSED})
"""Endings of an attempt that changed nothing in the world: no cooldown follows."""


def cooldown_seconds(spec: ActionSpec, guard: GuardSettings) -> float:
    """Give the least time between two attempts of an action on one target: the operator's, else its own."""
    return guard.cooldown_seconds.get(spec.id, spec.cooldown_seconds)


def _wrong_kind(case: Case) -> str | None:
    wanted = case.spec.target_kind
    if wanted in ("*", case.target.kind):
        return None
    return f"{case.spec.id} works on {wanted}, {case.target.name} is {case.target.kind}"


def _paused(case: Case) -> str | None:
    control = case.situation.control
    return f"paused by {control.paused_by or 'an operator'}" if control.paused else None


def _protected(case: Case) -> str | None:
    return f"{case.target.name} is protected" if case.target.protected else None


def _frozen(case: Case) -> str | None:
    return None if case.spec.risk is RiskClass.R0 else case.shared.freeze


def _silenced(case: Case) -> str | None:
    return f"silence {case.shared.silence}" if case.shared.silence else None


def _flapping(case: Case) -> str | None:
    situation = case.situation
    flap, times = situation.guard.flapping, situation.history.recurrences
    if not situation.incident.flapping and times < flap.count:
        return None
    return f"it keeps coming back: {flap.count} times or more within {flap.window_seconds:g} s"


def _storm(case: Case) -> str | None:
    storm, count = case.situation.guard.storm, case.situation.history.open_incidents
    if count >= storm.stop_at:
        return f"{count} incidents are open, from {storm.stop_at} on nothing is automated"
    if count >= storm.reversible_only_at and case.spec.risk not in (RiskClass.R0, RiskClass.R1):
        return f"{count} incidents are open, from {storm.reversible_only_at} on only R1 is permitted"
    return None


def _attempts_used(case: Case) -> str | None:
    made, limit = case.situation.incident.attempt_count, case.situation.guard.max_attempts
    return f"{made} of {limit} attempts made" if made >= limit else None


def _tried(case: Case) -> str | None:
    if case.shared.tried and key_of(case.candidate) in case.shared.tried:
        return "the same has already failed in this incident"
    return None


def _cooling_down(case: Case) -> str | None:
    wanted = cooldown_seconds(case.spec, case.situation.guard)
    for attempt in case.situation.history.attempts:
        if attempt.action != case.candidate.action or attempt.target != case.candidate.target:
            continue
        if attempt.outcome is not None and attempt.outcome.status in _UNTOUCHED:
            continue
        passed = case.situation.now - attempt.started_at
        if passed < wanted:
            return f"last attempt {passed:.0f} s ago, {wanted:g} s apart are wanted"
    return None


def _too_wide(case: Case) -> str | None:
    limit = case.situation.guard.max_instances
    touched = max(case.target.instances, case.spec.blast_radius)
    return f"up to {touched} instances, at most {limit} may be touched" if touched > limit else None


def _action_rate(case: Case) -> str | None:
    made = case.situation.history.action_counts.get(case.candidate.action, 0)
    limit = case.situation.guard.rate_per_action
    return f"{made} attempts of {case.candidate.action} lately, at most {limit}" if made >= limit else None


def _service_rate(case: Case) -> str | None:
    made, limit = case.situation.history.service_count, case.situation.guard.rate_per_service
    return f"{made} attempts on the service lately, at most {limit}" if made >= limit else None


def _breaker(case: Case) -> str | None:
    system = case.spec.system
    return f"{system} does not answer" if system in case.situation.open_breakers else None


def _blind(case: Case) -> str | None:
    situation = case.situation
    own = situation.targets.get(situation.incident.target)
    probed = case.target.probes or (own is not None and own.probes)
    if not probed or (situation.measurement is not None and situation.measurement.score is not None):
        return None
    return "its probes can't be read"


OBJECTIONS: tuple[tuple[RefusalReason, Callable[[Case], str | None]], ...] = (
    (RefusalReason.WRONG_TARGET_KIND, _wrong_kind),
    (RefusalReason.KILL_SWITCH, _paused),
    (RefusalReason.PROTECTED, _protected),
    (RefusalReason.FREEZE, _frozen),
    (RefusalReason.SILENCED, _silenced),
    (RefusalReason.FLAPPING, _flapping),
    (RefusalReason.STORM, _storm),
    (RefusalReason.MAX_ATTEMPTS, _attempts_used),
    (RefusalReason.TRIED_BEFORE, _tried),
    (RefusalReason.COOLDOWN, _cooling_down),
    (RefusalReason.BLAST_RADIUS, _too_wide),
    (RefusalReason.RATE_ACTION, _action_rate),
    (RefusalReason.RATE_SERVICE, _service_rate),
    (RefusalReason.BREAKER_OPEN, _breaker),
    (RefusalReason.BLIND, _blind),
)
"""In this order; the first objection is the reason that log, metric and dashboard show."""
