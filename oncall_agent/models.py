"""The words of the domain as frozen values: what the rest of the program passes around.

No behaviour beyond derived properties; standard library only. Times are float seconds since the epoch
(UTC), durations end in `_seconds`. Everything inside is JSON-safe, so that a value can be stored whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Labels = Mapping[str, str]
JsonObject = Mapping[str, Any]

UNKNOWN_TARGET = "unknown"
UNCLASSIFIED = "unclassified"


# --- closed vocabularies -------------------------------------------------------------------------------


class AlertStatus(StrEnum):
    """What a sender says of an alert."""

    FIRING = "firing"
    RESOLVED = "resolved"


class Severity(StrEnum):
    """How loud an alert is; anything not understood counts as warning."""

    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def priority(self) -> int:
        """Order in the queue: 0 is claimed first."""
        return ("critical", "error", "warning", "info").index(self.value)


class Disposition(StrEnum):
    """What became of one accepted alert."""

    OPENED = "opened"
    MERGED = "merged"
    CLEARED = "cleared"
    SUPPRESSED = "suppressed"


class SuppressReason(StrEnum):
    """Why an accepted alert leads to no incident of its own."""

    DUPLICATE = "duplicate"
    SILENCED = "silenced"
    FLAPPING = "flapping"
    STALE_FIRING = "stale_firing"
    RESOLVED_WITHOUT_FIRING = "resolved_without_firing"


class IncidentState(StrEnum):
    """Where an incident is. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    BLOCKED = "blocked"
    PARKED = "parked"
    AWAITING_APPROVAL = "awaiting_approval"
    RESOLVED = "resolved"
    ESCALATED = "escalated"
    DEAD_LETTERED = "dead_lettered"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be done by the daemon itself."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({IncidentState.RESOLVED, IncidentState.ESCALATED, IncidentState.DEAD_LETTERED})
OPEN_STATES = frozenset(IncidentState) - FINAL_STATES


class Phase(StrEnum):
    """What a claimed incident has to go on with; stored, so that a restart continues and never repeats."""

    NEW = "new"
    APPROVED = "approved"
    ATTEMPTING = "attempting"
    SETTLING = "settling"
    ESCALATING = "escalating"


class RiskClass(StrEnum):
    """How bad an action can be: R1 reversible, no data touched; R2 user-visible; R3 irreversible."""

    R0 = "R0"
    R1 = "R1"
    R2 = "R2"
    R3 = "R3"


class Autonomy(StrEnum):
    """How far the daemon may go on its own, from nothing to everything."""

    OBSERVE = "observe"
    SHADOW = "shadow"
    SUGGEST = "suggest"
    APPROVE = "approve"
    AUTO = "auto"

    @property
    def rank(self) -> int:
        """0 for observe to 4 for auto."""
        return list(Autonomy).index(self)


class Mode(StrEnum):
    """How boldly the policy chose."""

    FAST = "fast"
    BALANCED = "balanced"
    CREATIVE = "creative"


class RefusalReason(StrEnum):
    """Why the guard (or a precheck) did not permit a candidate; also the metric label."""

    KILL_SWITCH = "kill_switch"
    FREEZE = "freeze"
    SILENCED = "silenced"
    FLAPPING = "flapping"
    PROTECTED = "protected"
    AUTONOMY = "autonomy"
    COOLDOWN = "cooldown"
    BLAST_RADIUS = "blast_radius"
    RATE_ACTION = "rate_action"
    RATE_SERVICE = "rate_service"
    STORM = "storm"
    MAX_ATTEMPTS = "max_attempts"
    EXECUTOR_OFF = "executor_off"
    BREAKER_OPEN = "breaker_open"
    WRONG_TARGET_KIND = "wrong_target_kind"
    TRIED_BEFORE = "tried_before"
    BLIND = "blind"
    PRECHECK = "precheck"


class OutcomeStatus(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    PLANNED = "planned"
    INTERRUPTED = "interrupted"


class OutcomeReason(StrEnum):
    """Why an attempt ended so; also the metric label."""

    VERIFIED = "verified"
    DRY_RUN = "dry_run"
    PRECHECK_REFUSED = "precheck_refused"
    VERIFY_FAILED = "verify_failed"
    SYMPTOM_WORSE = "symptom_worse"
    SYMPTOM_REMAINS = "symptom_remains"
    TRANSIENT_EXHAUSTED = "transient_exhausted"
    PERMANENT_ERROR = "permanent_error"
    UNEXPECTED_ERROR = "unexpected_error"
    DEADLINE = "deadline"
    KILL_SWITCH = "kill_switch"
    CRASH_RECOVERED = "crash_recovered"
    CRASH_UNVERIFIED = "crash_unverified"


class EndReason(StrEnum):
    """Why an incident became final; also the metric label."""

    FIXED = "fixed"
    SELF_HEALED = "self_healed"
    HUMAN_ASKED = "human_asked"
    POLICY_CHOSE = "policy_chose"
    NOTHING_PERMITTED = "nothing_permitted"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    APPROVAL_DENIED = "approval_denied"
    APPROVAL_EXPIRED = "approval_expired"
    AUTONOMY_OBSERVE = "autonomy_observe"
    AUTONOMY_SHADOW = "autonomy_shadow"
    AUTONOMY_SUGGEST = "autonomy_suggest"
    MADE_WORSE = "made_worse"
    TOO_OLD = "too_old"
    POISONED = "poisoned"


class RollbackStatus(StrEnum):
    """Whether a change was taken back."""

    NOT_NEEDED = "not_needed"
    DONE = "done"
    FAILED = "failed"
    IMPOSSIBLE = "impossible"


class Verdict(StrEnum):
    """What a person, or the clock, said to an approval."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


# --- what comes in ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Alert:
    """One signal as received. Idempotent on (source, fingerprint, starts_at, status)."""

    source: str
    fingerprint: str
    status: AlertStatus
    name: str
    labels: Labels
    annotations: Labels
    starts_at: float
    ends_at: float | None = None
    severity: Severity = Severity.WARNING
    link: str = ""
    group_key: str = ""


@dataclass(frozen=True, slots=True)
class PlacedAlert:
    """An alert with what the configuration says it is about.

    `incident_key` is the identity of the incident that it belongs to: the hash of class, target and the
    grouping labels of the configuration.
    """

    alert: Alert
    alert_class: str
    target: str
    service: str
    incident_key: str
    silence_id: str = ""


@dataclass(frozen=True, slots=True)
class AcceptedAlert:
    """What the sender is told of one alert; given only once it is on disk."""

    id: str
    fingerprint: str
    disposition: Disposition
    incident_id: str | None
    reason: SuppressReason | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A configured probe of one target; `params` are typed by the prober of that kind."""

    kind: str
    params: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """What an action is done to: an entry of the operator's allow-list, never alert text.

    Attributes:
        kind: what the executors call it, such as `docker_container` or `http_app`.
        address: typed by kind (`container`, `url`, `root`, ...), straight from the configuration.
        instances: how many instances an action on it touches at most (unit: instances).
        target_class: the operator's own grouping for autonomy, such as `stateless`.
    """

    name: str
    kind: str
    service: str = ""
    address: JsonObject = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    target_class: str = "default"
    tier: int = 3
    protected: bool = False
    instances: int = 1
    settle_seconds: float = 30.0
    settle_interval_seconds: float = 5.0
    healthy_score: float = 80.0
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True, slots=True)
class Incident:
    """An open group of alerts with one incident key: the unit of work."""

    id: str
    key: str
    alert_class: str
    target: str
    service: str
    severity: Severity
    state: IncidentState
    phase: Phase
    title: str
    labels: Labels
    opened_at: float
    updated_at: float
    run_after: float = 0.0
    flapping: bool = False
    alert_count: int = 1
    firing_count: int = 1
    attempt_count: int = 0
    claim_count: int = 0
    fence: int = 0
    closed_at: float | None = None
    end_reason: EndReason | None = None
    settle_until: float | None = None

    @property
    def is_cleared(self) -> bool:
        """Whether the sender says that none of its alerts fires any more."""
        return self.firing_count <= 0


# --- probes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signals:
    """What one probe read; None where it can't tell. Fractions are 0..1."""

    up: bool | None = None
    cpu: float | None = None
    memory: float | None = None
    response_seconds: float | None = None
    error_rate: float | None = None
    error_lines: int | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One reading of a target's health.

    Attributes:
        score: health 0..100, None when no probe could read anything (the daemon is blind there).
        healthy: the verdict against the target's threshold; None when blind.
        detail: probe name -> what it said, JSON-safe and bounded; kept as evidence.
    """

    at: float
    score: float | None
    healthy: bool | None
    signals: Signals = Signals()
    detail: JsonObject = field(default_factory=dict)


# --- what could be done, what was chosen --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """One action on one target with its parameters, as a runbook offers it.

    Attributes:
        prior: the runbook author's expected reward of it, -1..1.
    """

    action: str
    target: str
    params: JsonObject = field(default_factory=dict)
    prior: float = 0.0
    runbook: str = ""

    @property
    def key(self) -> str:
        """Stable text identity among the candidates of one incident."""
        return f"{self.action}@{self.target}" + (f"#{sorted(self.params.items())}" if self.params else "")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A candidate that is not permitted now, and why."""

    candidate: Candidate
    reason: RefusalReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Permitted:
    """A candidate that the guard permits, with the autonomy level that applies to it."""

    candidate: Candidate
    level: Autonomy


@dataclass(frozen=True, slots=True)
class Screened:
    """What the guard left: at least the escalation to a human is always allowed."""

    allowed: tuple[Permitted, ...]
    refused: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """How the policy saw one allowed candidate: posterior mean, standard deviation, probability of choice."""

    candidate: Candidate
    mean: float
    std: float
    propensity: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The candidate chosen, with everything needed to compute the choice again.

    Attributes:
        features: context vector, columns named by the schema `features_schema`.
        propensity: probability with which this candidate was chosen, in (0, 1].
        policy_version: number of updates the policy had seen.
        seed: of the generator that drew; same seed, same draw.
    """

    id: str
    at: float
    chosen: Permitted
    propensity: float
    mode: Mode
    policy: str
    policy_version: int
    seed: int
    features: tuple[float, ...]
    features_schema: str
    scored: tuple[Scored, ...]
    refused: tuple[Refusal, ...]
    explanation: str = ""

    @property
    def candidate(self) -> Candidate:
        """What was chosen."""
        return self.chosen.candidate


# --- what was done --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """The answer of a precheck or a verification: a value, not an exception.

    Attributes:
        instances: how many instances execute would touch (precheck only).
        facts: JSON-safe evidence, bounded.
    """

    ok: bool
    reason: str = ""
    instances: int = 1
    facts: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What execute did: small, JSON-safe, and enough for verify and rollback in another process.

    Attributes:
        planned: a dry run; the world was not touched.
        partial: execute failed half-way; facts say how far it came.
    """

    action: str
    at: float
    facts: JsonObject = field(default_factory=dict)
    planned: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended; the runner returns it and never raises but cancellation."""

    status: OutcomeStatus
    reason: OutcomeReason
    detail: str = ""
    precheck: Check | None = None
    receipt: Receipt | None = None
    verification: Check | None = None
    rollback: RollbackStatus = RollbackStatus.NOT_NEEDED
    timings: Mapping[str, float] = field(default_factory=dict)
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution: the ledger row, written before the world is touched."""

    id: str
    incident_id: str
    decision_id: str
    number: int
    action: str
    target: str
    service: str
    params: JsonObject
    idempotency_key: str
    fence: int
    started_at: float
    instances: int = 1
    receipt: Receipt | None = None
    outcome: Outcome | None = None
    finished_at: float | None = None
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Reward:
    """What an attempt was worth: value in -1..1 and the terms it is made of."""

    value: float
    terms: Mapping[str, float] = field(default_factory=dict)
    health_before: float | None = None
    health_after: float | None = None
    censored: bool = False


@dataclass(frozen=True, slots=True)
class Approval:
    """A question to people; the verdict expires to deny."""

    id: str
    incident_id: str
    decision_id: str
    action: str
    target: str
    risk: RiskClass
    asked_at: float
    expires_at: float
    needed: int
    verdict: Verdict = Verdict.PENDING
    voters: tuple[str, ...] = ()
    decided_at: float | None = None


# --- what the operator says ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Silence:
    """An operator's mute: alerts whose labels match are accepted, stored and suppressed."""

    id: str
    matchers: Labels
    starts_at: float
    ends_at: float
    created_by: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Control:
    """The switches that outlive a restart."""

    paused: bool = False
    paused_by: str = ""
    paused_reason: str = ""
    draining: bool = False
    frozen_until: float | None = None
    freeze_reason: str = ""
    overrides: Mapping[str, Autonomy] = field(default_factory=dict)
    silences: tuple[Silence, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """What the guard must know of the past, read with the claim.

    Attributes:
        attempts: recent attempts on the same target, newest first, bounded.
        action_counts: action id -> attempts begun within the rate window, everywhere.
        service_count: attempts begun on the incident's service within the rate window.
        open_incidents: how many incidents are open now.
        recurrences: how often this incident key was opened within the flap window.
    """

    attempts: tuple[Attempt, ...] = ()
    action_counts: Mapping[str, int] = field(default_factory=dict)
    service_count: int = 0
    open_incidents: int = 0
    recurrences: int = 0
