"""What one handling of an incident carries from stage to stage, and the named ways in which it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from oncall_agent.contract import ActionContext, Check, Clock, Executor, Target
from oncall_agent.models import (
    UNKNOWN_TARGET,
    Approval,
    Attempt,
    Candidate,
    Decision,
    EndReason,
    Incident,
    IncidentState,
    JsonObject,
    Measurement,
    Outcome,
    Phase,
    Refusal,
    Reward,
    Screened,
)
from oncall_agent.pipeline.bundling import Bundling
from oncall_agent.policy.base import Policy, PolicyUpdate
from oncall_agent.pools import Pools
from oncall_agent.probes import Probes
from oncall_agent.registry import Registry
from oncall_agent.rules.guard import Situation
from oncall_agent.rules.runbooks import ESCALATE, WAIT
from oncall_agent.settings.model import Runbook, Settings
from oncall_agent.store import Change, Claimed, Store, TimelineEntry
from oncall_agent.telemetry.metrics import Metrics

BASELINE = frozenset({ESCALATE, WAIT})
"""Always permitted: they touch nothing."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that the stages use; made once by the composition root."""

    settings: Settings
    targets: Mapping[str, Target]
    runbooks: Sequence[Runbook]
    store: Store
    registry: Registry
    pools: Pools
    probes: Probes
    policy: Policy
    bundling: Bundling
    clock: Clock
    metrics: Metrics
    log: Any
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The symptom is gone, with evidence."""

    reason: EndReason


@dataclass(frozen=True, slots=True)
class Escalated:
    """People take over.

    Attributes:
        page: whether they are told by us; not in shadow, where nothing outside is touched.
    """

    reason: EndReason
    page: bool = True

    @property
    def state(self) -> IncidentState:
        """The final state: dead-lettered when handling itself failed again and again."""
        is_dead = self.reason is EndReason.POISONED
        return IncidentState.DEAD_LETTERED if is_dead else IncidentState.ESCALATED


@dataclass(frozen=True, slots=True)
class Parked:
    """Nothing to do until `run_after`; holds no worker, survives a restart."""

    seconds: float
    phase: Phase
    reason: str
    state: IncidentState = IncidentState.PARKED
    settle_until: float | None = None
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """This worker may not write any more (lease lost, going down): the next claim goes on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Everything is committed already; nothing is left to close."""

    state: IncidentState


End = Resolved | Escalated | Parked | Dropped | Done


@dataclass(frozen=True, slots=True)
class Run:
    """One incident on its way through the stages."""

    claimed: Claimed
    target: Target | None
    may_go_on: Callable[[], bool]
    measurement: Measurement | None = None
    candidates: tuple[Candidate, ...] = ()
    checks: Mapping[str, Check] = field(default_factory=dict)
    screened: Screened | None = None
    context: JsonObject = field(default_factory=dict)
    decision: Decision | None = None
    decision_is_stored: bool = False
    attempt: Attempt | None = None
    outcome: Outcome | None = None
    after: Measurement | None = None
    reward: Reward | None = None
    update: PolicyUpdate | None = None
    timeline: tuple[TimelineEntry, ...] = ()

    def may_touch(self, services: Services) -> bool:
        """Say whether the world may be touched now: this claim holds and the kill switch is off."""
        return self.may_go_on() and not services.store.control.paused

    @property
    def incident(self) -> Incident:
        """The incident as claimed."""
        return self.claimed.incident

    def noting(self, name: str, at: float, **fields: Any) -> Run:
        """Add a line to the incident's timeline, written with the next commit."""
        entry = TimelineEntry(at=at, name=name, fields=fields)
        return replace(self, timeline=(*self.timeline, entry))

    def change(self, at: float, **parts: Any) -> Change:
        """Make a change of this incident under this claim's fencing token, with the timeline so far."""
        return Change(
            incident_id=self.incident.id, fence=self.incident.fence, at=at, timeline=self.timeline, **parts
        )


def situation(run: Run, services: Services) -> Situation:
    """Collect what the guard decides on."""
    now = services.clock.now()
    return Situation(
        incident=run.incident,
        targets=services.targets,
        specs=services.registry.specs,
        guard=services.settings.guard,
        autonomy=services.settings.autonomy,
        control=services.store.control,
        history=run.claimed.history,
        measurement=run.measurement,
        open_breakers=services.registry.open_breakers(now),
        now=now,
        max_age_seconds=services.settings.workers.max_age_seconds,
    )


def action_context(run: Run, services: Services, executor: Executor, attempt: Attempt) -> ActionContext:
    """Make what an executor is given; its deadline starts now."""
    spec = executor.spec
    target = services.targets.get(attempt.target) or Target(
        name=attempt.target or UNKNOWN_TARGET, kind="unknown"
    )
    return ActionContext(
        target=target,
        params=spec.params.model_validate(dict(attempt.params)),
        idempotency_key=attempt.idempotency_key,
        attempt_id=attempt.id,
        started_at=attempt.started_at,
        deadline_at=services.clock.monotonic() + spec.deadline_seconds,
        clock=services.clock,
        log=services.log.bind(attempt_id=attempt.id, action=attempt.action, target=attempt.target),
        run_blocking=services.pools.of(spec.system).run,
        incident=summary(run),
    )


def draft(candidate: Candidate, run: Run, services: Services, decision_id: str = "") -> Attempt:
    """Make the attempt that carrying out a candidate would be; it counts once the store has begun it."""
    attempt_id = services.new_id()
    target = services.targets.get(candidate.target)
    return Attempt(
        id=attempt_id,
        incident_id=run.incident.id,
        decision_id=decision_id,
        number=run.incident.attempt_count + 1,
        action=candidate.action,
        target=candidate.target,
        service=target.service if target else run.incident.service,
        params=candidate.params,
        idempotency_key=f"oncall-{attempt_id}",
        fence=run.incident.fence,
        started_at=services.clock.now(),
        instances=target.instances if target else 0,
    )


def summary(run: Run) -> JsonObject:
    """Tell an incident in bounded, JSON-safe form: what a page to people is made of."""
    incident, decision = run.incident, run.decision
    return {
        "id": incident.id,
        "title": incident.title,
        "class": incident.alert_class,
        "target": incident.target,
        "service": incident.service,
        "severity": incident.severity.value,
        "opened_at": incident.opened_at,
        "flapping": incident.flapping,
        "labels": dict(list(incident.labels.items())[:32]),
        "annotations": dict(list(run.claimed.alerts[0].annotations.items())[:8])
        if run.claimed.alerts
        else {},
        "alerts": incident.alert_count,
        "firing": incident.firing_count,
        "health": dict(run.measurement.detail) if run.measurement else {},
        "score": run.measurement.score if run.measurement else None,
        "suggestion": decision.candidate.key
        if decision and decision.candidate.action not in BASELINE
        else "",
        "explanation": decision.explanation if decision else "",
        "refused": [_refusal_line(refusal) for refusal in _refused(run)][:16],
        "attempts": [_attempt_line(attempt) for attempt in run.claimed.attempts[-10:]],
        "diagnostics": next((dict(e.fields) for e in run.timeline if e.name == "diagnostics.collected"), {}),
    }


def _refused(run: Run) -> Sequence[Refusal]:
    return run.screened.refused if run.screened else run.decision.refused if run.decision else ()


def _refusal_line(refusal: Refusal) -> str:
    return f"{refusal.candidate.key}: {refusal.reason.value} ({refusal.detail})"[:300]


def _attempt_line(attempt: Attempt) -> str:
    outcome = attempt.outcome
    ending = (
        f"{outcome.status.value} ({outcome.reason.value}) {outcome.detail}".strip()
        if outcome
        else "unfinished"
    )
    return f"{attempt.action} on {attempt.target}: {ending}"[:300]
