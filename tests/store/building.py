"""Values for the store's tests: alerts that are placed, changes that finish an incident."""

from __future__ import annotations

from typing import Any

from oncall_agent.models import (
    Alert,
    AlertStatus,
    Approval,
    Attempt,
    Autonomy,
    Candidate,
    Check,
    Decision,
    EndReason,
    IncidentState,
    Measurement,
    Mode,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Permitted,
    Phase,
    PlacedAlert,
    Receipt,
    Refusal,
    RefusalReason,
    Reward,
    RiskClass,
    Scored,
    Severity,
    Signals,
)
from oncall_agent.store import (
    BeginLimits,
    Change,
    Claimed,
    Finished,
    Move,
    Store,
    TimelineEntry,
    new_id,
)

ACTION = "app.restart"
LIMITS = BeginLimits(300.0, 20, 10, 3600.0)


def placed(
    name: str = "a",
    *,
    key: str = "",
    target: str = "web",
    status: AlertStatus = AlertStatus.FIRING,
    starts_at: float = 900.0,
    severity: Severity = Severity.WARNING,
    silence: str = "",
    alert_class: str = "errors",
    service: str = "shop",
) -> PlacedAlert:
    """A placed alert; its key is its name unless given."""
    labels = {"alertname": "HighErrorRate", "instance": name}
    alert = Alert(
        "alertmanager", f"print-{name}", status, "HighErrorRate", labels, {"summary": f"{name} fails"}, starts_at,
        severity=severity, link="http://graph", group_key="group",
    )  # fmt: skip
    return PlacedAlert(alert, alert_class, target, service, key or f"key-{name}", silence)


def resolved(name: str = "a", **changed: Any) -> PlacedAlert:
    """The end of the alert that `placed` gives for the same name."""
    return placed(name, status=AlertStatus.RESOLVED, **changed)


async def claimed(store: Store, now: float, *, limit: int = 1, lease_seconds: float = 30.0) -> list[Claimed]:
    return await store.claim("worker", limit=limit, lease_seconds=lease_seconds, now=now)


async def open_one(store: Store, name: str = "a", *, now: float = 1_000.0, **changed: Any) -> Claimed:
    """An incident of this alert, claimed; nothing else may be claimable."""
    await store.accept([placed(name, **changed)], now)
    (found,) = await claimed(store, now)
    return found


def candidate(action: str = ACTION, target: str = "web") -> Candidate:
    return Candidate(action, target, {"grace": 5}, 0.2, "runbook")


def decision(at: float, action: str = ACTION) -> Decision:
    chosen = candidate(action)
    refused = Refusal(candidate("app.scale_up"), RefusalReason.COOLDOWN, "too soon")
    return Decision(
        new_id(), at, Permitted(chosen, Autonomy.AUTO), 0.75, Mode.BALANCED, "linear", 4, 2**63 + 5,
        (0.1, -1.5, 1e-9), "schema-1", (Scored(chosen, 0.25, 0.125, 0.75),), (refused,), "because",
    )  # fmt: skip


def attempt(found: Claimed, at: float, *, action: str = ACTION, key: str = "") -> Attempt:
    incident = found.incident
    attempt_id = new_id()
    return Attempt(
        attempt_id, incident.id, "decision", incident.attempt_count + 1, action, incident.target,
        incident.service, {"grace": 5}, key or attempt_id, incident.fence, at,
    )  # fmt: skip


def approval(found: Claimed, at: float, *, needed: int = 1, expires_at: float = 2_000.0) -> Approval:
    return Approval(
        new_id(),
        found.incident.id,
        "decision",
        ACTION,
        found.incident.target,
        RiskClass.R3,
        at,
        expires_at,
        needed,
    )


MEASUREMENT = Measurement(
    999.0, 42.5, healthy=False, signals=Signals(up=True, cpu=0.5), detail={"http": {"s": 1}}
)
RECEIPT = Receipt(ACTION, 1_001.0, {"was": "running"})
OUTCOME = Outcome(
    OutcomeStatus.SUCCEEDED,
    OutcomeReason.VERIFIED,
    "held",
    precheck=Check(ok=True, instances=2, facts={"x": [1]}),
    receipt=RECEIPT,
    verification=Check(ok=True, reason="healthy"),
    timings={"execute": 0.5},
    retries=1,
)
REWARD = Reward(0.5, {"health": 0.6, "cost": -0.1}, 42.5, 99.0)


def change(found: Claimed, at: float, **parts: Any) -> Change:
    return Change(found.incident.id, found.incident.fence, at, **parts)


def moved(found: Claimed, at: float, state: IncidentState, **parts: Any) -> Change:
    return change(found, at, move=Move(state, **parts))


def begun(found: Claimed, at: float, begin: Attempt, limits: BeginLimits | None = LIMITS) -> Change:
    move = Move(IncidentState.RUNNING, Phase.ATTEMPTING, keep_lease=True)
    line = TimelineEntry("attempt.begun", {"attempt_id": begin.id})
    return change(
        found, at, decision=decision(at), context={"hour": 3}, before=MEASUREMENT, begin=begin, limits=limits,
        timeline=(line,), move=move,
    )  # fmt: skip


def fixed(found: Claimed, at: float, attempt_id: str) -> Change:
    return change(
        found, at, outcome=Finished(attempt_id, OUTCOME, REWARD, None, MEASUREMENT),
        timeline=(TimelineEntry("attempt.finished", {"status": "succeeded"}),),
        move=Move(IncidentState.RESOLVED, end_reason=EndReason.FIXED),
    )  # fmt: skip
