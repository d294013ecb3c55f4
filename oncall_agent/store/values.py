"""What goes into the store and comes out of it, beside the words of `oncall_agent.models`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from oncall_agent.models import (
    Alert,
    Approval,
    Attempt,
    Autonomy,
    Decision,
    Disposition,
    EndReason,
    History,
    Incident,
    IncidentState,
    JsonObject,
    Measurement,
    Outcome,
    Phase,
    Receipt,
    Reward,
    Silence,
    SuppressReason,
)

if TYPE_CHECKING:
    from oncall_agent.policy.base import PolicyUpdate

T = TypeVar("T")


# --- the queue -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """An incident leased to one worker, with what is needed to go on with it.

    Attributes:
        incident: as it is now; `incident.fence` is the token for every commit.
        alerts: its newest 50, newest first.
        attempts: those of this incident, oldest first.
        decision: its latest.
        approval: its latest; the verdict says whether people answered.
        before: the last measurement that a change of this incident carried as `before`.
    """

    incident: Incident
    alerts: tuple[Alert, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    decision: Decision | None = None
    approval: Approval | None = None
    history: History = field(default_factory=History)
    before: Measurement | None = None


@dataclass(frozen=True, slots=True)
class BeginLimits:
    """Limits that are looked at again inside the transaction which begins an attempt; 0 seconds: no cooldown."""

    cooldown_seconds: float
    rate_per_action: int
    rate_per_service: int
    rate_window_seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """How an attempt ended, what it was worth and the health around it."""

    attempt_id: str
    outcome: Outcome
    reward: Reward | None = None
    before: Measurement | None = None
    after: Measurement | None = None


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of an incident's story: `noun.past_tense` and its fields; `at` defaults to the change's."""

    name: str
    fields: JsonObject = field(default_factory=dict)
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """Where an incident goes.

    Attributes:
        keep_lease: the worker goes on with it: the state stays running, only the phase and the times change.
            Otherwise the lease ends with this change.
    """

    state: IncidentState
    phase: Phase = Phase.NEW
    run_after: float = 0.0
    end_reason: EndReason | None = None
    settle_until: float | None = None
    keep_lease: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """All that one stage writes about one incident, in one transaction or not at all.

    Attributes:
        context: inputs of the decision, for computing it again.
        before: the measurement before anything was done; given back by the next claim.
        begin: the attempt, durable before the world is touched.
        limits: looked at again together with `begin`; None begins unconditionally.
        receipt: attempt id and its receipt.
    """

    incident_id: str
    fence: int
    at: float
    decision: Decision | None = None
    context: JsonObject = field(default_factory=dict)
    before: Measurement | None = None
    begin: Attempt | None = None
    limits: BeginLimits | None = None
    receipt: tuple[str, Receipt] | None = None
    outcome: Finished | None = None
    approval: Approval | None = None
    update: PolicyUpdate | None = None
    timeline: tuple[TimelineEntry, ...] = ()
    move: Move | None = None


# --- what is read ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list, newest first; `next_cursor` gives the page after it, None at the end."""

    items: tuple[T, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An accepted alert and what became of it; `repeat_count` further copies came until `last_seen_at`."""

    id: str
    alert: Alert
    disposition: Disposition
    reason: SuppressReason | None
    incident_id: str | None
    received_at: float
    last_seen_at: float
    repeat_count: int


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision with the inputs from which it can be computed again."""

    decision: Decision
    context: JsonObject


@dataclass(frozen=True, slots=True)
class AttemptDetail:
    """An attempt with the health around it and the terms of its reward."""

    attempt: Attempt
    before: Measurement | None = None
    after: Measurement | None = None
    reward: Reward | None = None


@dataclass(frozen=True, slots=True)
class IncidentDetail:
    """One incident with its whole story, each part bounded: alerts newest first, all others oldest first."""

    incident: Incident
    alerts: tuple[StoredAlert, ...]
    decisions: tuple[StoredDecision, ...]
    attempts: tuple[AttemptDetail, ...]
    approvals: tuple[Approval, ...]
    timeline: tuple[TimelineEntry, ...]


@dataclass(frozen=True, slots=True)
class Conservation:
    """The equation of promise 1, unit: alerts. `accepted` is a counter of its own, the terms come from rows."""

    accepted: int
    open: int
    resolved: int
    escalated: int
    dead_lettered: int
    suppressed: Mapping[str, int]
    balanced: bool


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How the store itself is doing.

    Attributes:
        waiting: requests that wait for the writer now.
        failing_for: why the database does not answer, empty while it does.
        last_commit_seconds: how long the last transaction took, fsync included.
    """

    waiting: int
    committed: int
    last_commit_seconds: float
    failing_for: str
    database_bytes: int


@dataclass(frozen=True, slots=True)
class FeedItem:
    """Something changed: an incident's new state and what took place.

    With the name `feed.reloaded` and no incident, items were dropped: read everything again.
    """

    incident_id: str
    state: str
    name: str


# --- operators -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ControlChange:
    """What an operator changes of the switches; None leaves a switch as it is.

    Attributes:
        reason: for `paused` and the freeze.
        frozen_until: epoch seconds; 0 lifts the freeze.
        overrides: `class/action/target_class` -> level, or None to take the override away.
        remove_silences: ids.
    """

    paused: bool | None = None
    draining: bool | None = None
    frozen_until: float | None = None
    reason: str = ""
    overrides: Mapping[str, Autonomy | None] = field(default_factory=dict)
    add_silences: tuple[Silence, ...] = ()
    remove_silences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who did what to what: one link of the hash chain."""

    number: int
    at: float
    identity: str
    verb: str
    subject: str
    detail: JsonObject
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Whether the chain holds; `first_bad` is the number of the first link that does not."""

    ok: bool
    rows: int
    first_bad: int | None = None
