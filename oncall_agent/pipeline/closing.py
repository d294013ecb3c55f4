"""What an attempt was worth, and the one transaction that ends it."""

from __future__ import annotations

from dataclasses import replace

from oncall_agent.models import (
    Attempt,
    EndReason,
    IncidentState,
    Outcome,
    OutcomeStatus,
    Phase,
    RollbackStatus,
)
from oncall_agent.pipeline.run import BASELINE, Done, End, Escalated, Run, Services
from oncall_agent.policy import features
from oncall_agent.policy.base import PolicyUpdate
from oncall_agent.rules import reward
from oncall_agent.rules.runbooks import WAIT
from oncall_agent.store import Finished, Move

_TEACHES = frozenset({OutcomeStatus.SUCCEEDED, OutcomeStatus.FAILED})


async def learn(run: Run, services: Services) -> Run | End:
    """Score the attempt and make one lesson of it; an ending that shows nothing teaches nothing."""
    outcome, attempt = run.outcome, run.attempt
    if outcome is None or attempt is None:
        return run
    executor = services.registry.executors.get(attempt.action)
    if executor is None or outcome.status not in _TEACHES:
        return run
    worth = reward.score(
        outcome,
        run.measurement,
        run.after,
        spec=executor.spec,
        seconds=max(0.0, services.clock.now() - attempt.started_at),
        closed=outcome.status is OutcomeStatus.SUCCEEDED,
        weights=services.settings.reward,
    )
    return replace(run, reward=worth, update=None if worth.censored else lesson(run, services, worth.value))


def lesson(run: Run, services: Services, value: float) -> PolicyUpdate | None:
    """Make the update for the decision behind an attempt.

    None when no policy chose it, or when it was made before an upgrade changed what the columns mean.
    """
    decision = run.decision
    if decision is None or not decision.scored or decision.features_schema != features.SCHEMA:
        return None
    return PolicyUpdate(
        version=services.policy.version + 1,
        action=decision.candidate.action,
        features=decision.features,
        reward=value,
        prior=decision.candidate.prior,
    )


async def finish(run: Run, services: Services) -> Run | End:
    """End the attempt in one transaction: resolved, next try after a delay, or on to people."""
    outcome, attempt = run.outcome, run.attempt
    if outcome is None or attempt is None:
        return Escalated(EndReason.NOTHING_PERMITTED)
    now = services.clock.now()
    move, end = _whither(outcome, attempt, now, services)
    await commit_ending(run, services, move)
    if move.state is IncidentState.RESOLVED:
        tell_end(run, services, move.state, move.end_reason or EndReason.FIXED)
    return end


def _whither(outcome: Outcome, attempt: Attempt, now: float, services: Services) -> tuple[Move, End]:
    if outcome.status is OutcomeStatus.SUCCEEDED:
        reason = EndReason.SELF_HEALED if attempt.action == WAIT else EndReason.FIXED
        return Move(IncidentState.RESOLVED, end_reason=reason), Done(IncidentState.RESOLVED)
    if outcome.rollback is RollbackStatus.FAILED:
        reason = EndReason.MADE_WORSE
        move = Move(IncidentState.RUNNING, Phase.ESCALATING, end_reason=reason, keep_lease=True)
        return move, Escalated(reason)
    delay = 0.0 if attempt.action in BASELINE else services.settings.workers.retry_delay_seconds
    return Move(IncidentState.PARKED, Phase.NEW, run_after=now + delay), Done(IncidentState.PARKED)


async def commit_ending(run: Run, services: Services, move: Move) -> None:
    """Write outcome, reward, lesson and move together, then let the policy learn and the log tell."""
    outcome, attempt = run.outcome, run.attempt
    if outcome is None or attempt is None:
        raise AssertionError("an ending needs an outcome and its attempt")
    now = services.clock.now()
    run = run.noting(
        "attempt.finished", now, action=attempt.action, status=outcome.status, reason=outcome.reason
    )
    if move.state.is_final:
        run = run.noting("incident.ended", now, state=move.state, reason=move.end_reason or "")
    finished = Finished(attempt.id, outcome, run.reward, run.measurement, run.after)
    await services.store.commit(run.change(now, outcome=finished, update=run.update, move=move))
    if run.update is not None:
        # The store numbers lessons in commit order and answers in that order, so this is the same number.
        services.policy.update(replace(run.update, version=services.policy.version + 1))
        services.metrics.policy_version.set(services.policy.version)
    _tell_attempt(run, services, outcome, attempt, now)


def _tell_attempt(run: Run, services: Services, outcome: Outcome, attempt: Attempt, now: float) -> None:
    metrics = services.metrics
    metrics.attempts.labels(attempt.action, outcome.status.value, outcome.reason.value).inc()
    metrics.attempt_seconds.labels(attempt.action).observe(max(0.0, now - attempt.started_at))
    if outcome.rollback is not RollbackStatus.NOT_NEEDED:
        metrics.rollbacks.labels(outcome.rollback.value).inc()
    if run.reward is not None:
        metrics.reward.observe(run.reward.value)
    services.log.info(
        "attempt.finished",
        incident_id=run.incident.id,
        attempt_id=attempt.id,
        target=attempt.target,
        action=attempt.action,
        status=outcome.status.value,
        reason=outcome.reason.value,
        detail=outcome.detail,
        rollback=outcome.rollback.value,
        retries=outcome.retries,
        seconds=round(now - attempt.started_at, 3),
        health_before=run.measurement.score if run.measurement else None,
        health_after=run.after.score if run.after else None,
        reward=round(run.reward.value, 4) if run.reward else None,
        timings=dict(outcome.timings),
    )


def tell_end(run: Run, services: Services, state: IncidentState, reason: EndReason) -> None:
    """Log and count that an incident became final."""
    seconds = max(0.0, services.clock.now() - run.incident.opened_at)
    services.metrics.ends.labels(state.value, reason.value).inc()
    services.metrics.incident_seconds.labels(state.value).observe(seconds)
    services.log.info(
        "incident.ended",
        incident_id=run.incident.id,
        target=run.incident.target,
        alert_class=run.incident.alert_class,
        state=state.value,
        reason=reason.value,
        seconds=round(seconds, 3),
        attempts=run.attempt.number if run.attempt is not None else run.incident.attempt_count,
    )
