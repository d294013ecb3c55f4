"""All that the guard looks at, and one candidate in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from oncall_agent.contract.executor import ActionSpec
from oncall_agent.models import (
    Attempt,
    Candidate,
    Control,
    History,
    Incident,
    Measurement,
    OutcomeStatus,
    Target,
)
from oncall_agent.rules.freeze import is_frozen
from oncall_agent.rules.matching import labels_of, silence_of
from oncall_agent.settings.model import AutonomySettings, GuardSettings


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the guard looks at.

    Attributes:
        specs: the actions that can be carried out; one that is absent is switched off.
        open_breakers: systems whose circuit breaker is open.
        max_age_seconds: from this age on an incident is not waited for any longer.
    """

    incident: Incident
    targets: Mapping[str, Target]
    specs: Mapping[str, ActionSpec]
    guard: GuardSettings
    autonomy: AutonomySettings
    control: Control
    history: History
    measurement: Measurement | None
    open_breakers: frozenset[str]
    now: float
    max_age_seconds: float = math.inf


class Case:
    """One candidate in its situation; what is the same for all candidates is worked out once in `Shared`."""

    __slots__ = ("candidate", "shared", "situation", "spec", "target")

    def __init__(self, candidate: Candidate, spec: ActionSpec, target: Target, shared: Shared) -> None:
        self.candidate, self.spec, self.target = candidate, spec, target
        self.shared, self.situation = shared, shared.situation


class Shared:
    """The parts of a situation that take time to find out, each asked at most once per screening."""

    __slots__ = ("freeze", "silence", "situation", "tried")

    def __init__(self, situation: Situation) -> None:
        control, now = situation.control, situation.now
        self.situation = situation
        self.freeze = _freeze_of(situation)
        self.silence = (
            silence_of(labels_of(situation.incident), control.silences, now) if control.silences else ""
        )
        own = situation.incident.id
        self.tried = frozenset(
            key_of(attempt)
            for attempt in situation.history.attempts
            if attempt.incident_id == own and _failed(attempt)
        )


def _freeze_of(situation: Situation) -> str | None:
    control, now = situation.control, situation.now
    if control.frozen_until is not None and now < control.frozen_until:
        return f"frozen by the operator: {control.freeze_reason or 'no reason given'}"
    window = is_frozen(situation.guard.freeze_windows, now)
    return f"freeze window {window}" if window is not None else None


def _failed(attempt: Attempt) -> bool:
    """Whether an attempt did not help; one without an ending may have acted, so it is not repeated either."""
    if attempt.outcome is None:
        return True
    return attempt.outcome.status not in (OutcomeStatus.SUCCEEDED, OutcomeStatus.PLANNED)


def key_of(tried: Candidate | Attempt) -> str:
    """Give the identity of what was or would be done, comparable between candidates and attempts."""
    return Candidate(tried.action, tried.target, tried.params).key
