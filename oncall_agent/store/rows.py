"""Rows of the tables to the words of the domain and back; columns in the order in which the tables list them."""

from __future__ import annotations

from typing import Any, Final

from oncall_agent.models import (
    AcceptedAlert,
    Alert,
    AlertStatus,
    Approval,
    Attempt,
    Decision,
    Disposition,
    EndReason,
    Incident,
    IncidentState,
    JsonObject,
    Measurement,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Phase,
    PlacedAlert,
    RiskClass,
    Severity,
    SuppressReason,
    Verdict,
)
from oncall_agent.store import codec
from oncall_agent.store.codec import clean, dump
from oncall_agent.store.statement import Row
from oncall_agent.store.values import AttemptDetail, AuditRow, StoredAlert

SEVERITIES: Final = tuple(sorted(Severity, key=lambda severity: severity.priority))
_STATES: Final = {state.value: state for state in IncidentState}
_PHASES: Final = {phase.value: phase for phase in Phase}
_STATUSES: Final = {status.value: status for status in AlertStatus}
_LONGEST_TITLE: Final = 200


def incident(row: Row) -> Incident:
    """Read a row of `incidents`."""
    return Incident(
        id=row[0],
        key=row[1],
        alert_class=row[2],
        target=row[3],
        service=row[4],
        severity=SEVERITIES[min(row[5], 3)],
        state=_STATES[row[6]],
        phase=_PHASES[row[7]],
        title=row[8],
        labels=codec.load(row[9]),
        opened_at=row[10],
        updated_at=row[11],
        run_after=row[12],
        flapping=bool(row[13]),
        alert_count=row[14],
        firing_count=row[15],
        attempt_count=row[16],
        claim_count=row[17],
        fence=row[18],
        closed_at=row[19],
        end_reason=None if row[20] is None else EndReason(row[20]),
        settle_until=row[21],
    )


def before_of(row: Row) -> Measurement | None:
    """Read the last measurement kept with a row of `incidents`."""
    return codec.measurement(row[24])


def new_incident_row(
    incident_id: str,
    placed: PlacedAlert,
    now: float,
    *,
    flapping: bool,
    alerts: int,
    firing: int,
    priority: int,
) -> Row:
    """Give the row of an incident that is opened by this alert."""
    alert = placed.alert
    title = alert.annotations.get("summary") or alert.name
    return (
        incident_id,
        placed.incident_key,
        placed.alert_class,
        placed.target,
        clean(placed.service),
        min(priority, 3),
        "queued",
        "new",
        clean(title[:_LONGEST_TITLE]),
        dump(alert.labels),
        now,
        now,
        0.0,
        int(flapping),
        alerts,
        firing,
        0,
        0,
        0,
        None,
        None,
        None,
        "",
        0.0,
        None,
    )


def new_alert_row(signal: str, placed: PlacedAlert, accepted: AcceptedAlert, now: float) -> Row:
    """Give the row of an accepted alert."""
    alert = placed.alert
    return (
        signal,
        alert.status.value,
        accepted.id,
        clean(alert.source),
        clean(alert.fingerprint),
        clean(alert.name),
        dump(alert.labels),
        dump(alert.annotations),
        alert.starts_at,
        alert.ends_at,
        alert.severity.value,
        clean(alert.link),
        clean(alert.group_key),
        accepted.incident_id,
        accepted.disposition.value,
        None if accepted.reason is None else accepted.reason.value,
        now,
        now,
        0,
    )


def alert(row: Row) -> Alert:
    """Read a row of `alerts`."""
    return Alert(
        source=row[3],
        fingerprint=row[4],
        status=_STATUSES[row[1]],
        name=row[5],
        labels=codec.load(row[6]),
        annotations=codec.load(row[7]),
        starts_at=row[8],
        ends_at=row[9],
        severity=Severity(row[10]),
        link=row[11],
        group_key=row[12],
    )


def stored_alert(row: Row) -> StoredAlert:
    """Read a row of `alerts` with what became of it."""
    return StoredAlert(
        id=row[2],
        alert=alert(row),
        disposition=Disposition(row[14]),
        reason=None if row[15] is None else SuppressReason(row[15]),
        incident_id=row[13],
        received_at=row[16],
        last_seen_at=row[17],
        repeat_count=row[18],
    )


def decision_row(decision: Decision, incident_id: str, context: JsonObject) -> Row:
    """Give the row of a decision."""
    return (decision.id, incident_id, decision.at, decision.candidate.action, dump(decision), dump(context))


def attempt_row(attempt: Attempt, before: Measurement | None) -> Row:
    """Give the row of an attempt that begins."""
    return (
        attempt.id,
        attempt.incident_id,
        attempt.decision_id,
        attempt.number,
        attempt.action,
        attempt.target,
        clean(attempt.service),
        dump(attempt.params),
        attempt.idempotency_key,
        attempt.fence,
        attempt.started_at,
        attempt.instances,
        codec.dump_or_none(attempt.receipt),
        codec.dump_or_none(attempt.outcome),
        attempt.finished_at,
        None if attempt.outcome is None else attempt.outcome.status.value,
        None if attempt.outcome is None else attempt.outcome.reason.value,
        attempt.reward,
        None,
        codec.dump_or_none(before),
        None,
    )


def attempt(row: Row) -> Attempt:
    """Read a row of `attempts` whole."""
    return _attempt(row, codec.outcome(row[13]), whole=True)


def past_attempt(row: Row) -> Attempt:
    """Read a row of `attempts` as the guard needs it: of receipt and outcome only status and reason."""
    ended = None if row[15] is None else Outcome(OutcomeStatus(row[15]), OutcomeReason(row[16]))
    return _attempt(row, ended, whole=False)


def _attempt(row: Row, outcome: Outcome | None, *, whole: bool) -> Attempt:
    return Attempt(
        id=row[0],
        incident_id=row[1],
        decision_id=row[2],
        number=row[3],
        action=row[4],
        target=row[5],
        service=row[6],
        params=codec.load(row[7]),
        idempotency_key=row[8],
        fence=row[9],
        started_at=row[10],
        instances=row[11],
        receipt=codec.receipt(row[12]) if whole else None,
        outcome=outcome,
        finished_at=row[14],
        reward=row[17],
    )


def attempt_detail(row: Row) -> AttemptDetail:
    """Read a row of `attempts` with the health around it."""
    return AttemptDetail(
        attempt(row), codec.measurement(row[19]), codec.measurement(row[20]), codec.reward(row[18])
    )


def approval_row(approval: Approval) -> Row:
    """Give the row of an approval."""
    return (
        approval.id,
        approval.incident_id,
        approval.decision_id,
        approval.action,
        approval.target,
        approval.risk.value,
        approval.asked_at,
        approval.expires_at,
        approval.needed,
        approval.verdict.value,
        dump(approval.voters),
        approval.decided_at,
    )


def approval(row: Row) -> Approval:
    """Read a row of `approvals`."""
    return Approval(
        id=row[0],
        incident_id=row[1],
        decision_id=row[2],
        action=row[3],
        target=row[4],
        risk=RiskClass(row[5]),
        asked_at=row[6],
        expires_at=row[7],
        needed=row[8],
        verdict=Verdict(row[9]),
        voters=tuple(codec.load(row[10])),
        decided_at=row[11],
    )


def audit_row(row: Row) -> AuditRow:
    """Read a row of `audit`."""
    values: list[Any] = list(row)
    values[5] = codec.load(values[5])
    return AuditRow(*values)
