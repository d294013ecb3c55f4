"""The stages that touch the world, and those that look after what was touched."""

from __future__ import annotations

from dataclasses import dataclass, replace

from oncall_agent import runner
from oncall_agent.contract import Executor, Receipt
from oncall_agent.models import (
    Attempt,
    EndReason,
    IncidentState,
    Measurement,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Phase,
    RollbackStatus,
)
from oncall_agent.pipeline.choosing import checked
from oncall_agent.pipeline.run import (
    Done,
    Dropped,
    End,
    Escalated,
    Parked,
    Run,
    Services,
    action_context,
    draft,
)
from oncall_agent.rules.guard import cooldown_seconds
from oncall_agent.rules.runbooks import WAIT, settle_seconds
from oncall_agent.store import BeginLimits, Finished, Move

DIAGNOSE_SECONDS = 10.0
_BACKEND_FAILED = frozenset(
    {OutcomeReason.TRANSIENT_EXHAUSTED, OutcomeReason.DEADLINE, OutcomeReason.UNEXPECTED_ERROR}
)
_WORSE_POINTS = 5.0
_GRACE_SECONDS = 5.0
_RACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Journal:
    """Writes receipts of one attempt through the store."""

    run: Run
    services: Services
    attempt_id: str

    async def keep(self, receipt: Receipt) -> None:
        now = self.services.clock.now()
        change = replace(self.run.change(now), timeline=(), receipt=(self.attempt_id, receipt))
        await self.services.store.commit(change)


def open_attempt(run: Run) -> Attempt | None:
    """Give the attempt that was begun and never finished, if there is one."""
    return next((attempt for attempt in run.claimed.attempts if attempt.outcome is None), None)


async def recover(run: Run, services: Services) -> Run | End:
    """Verify first what a former process began; never execute it again."""
    attempt = open_attempt(run)
    if run.incident.phase is Phase.ESCALATING:
        return await _resume_page(run, services, attempt)
    if attempt is None or run.incident.phase is not Phase.ATTEMPTING:
        return run
    run = _taken_up(run, attempt)
    executor = services.registry.executors.get(attempt.action)
    if executor is None:
        return replace(run, outcome=_interrupted("its executor is switched off now"))
    ctx = action_context(run, services, executor, attempt)
    receipt = attempt.receipt or Receipt(action=attempt.action, at=attempt.started_at, partial=True)
    check = await runner.recover(executor, ctx, receipt)
    services.log.info(
        "attempt.recovered",
        incident_id=run.incident.id,
        attempt_id=attempt.id,
        target=attempt.target,
        action=attempt.action,
        status="succeeded" if check.ok else "interrupted",
        reason=check.reason,
    )
    if check.ok:
        outcome = Outcome(
            OutcomeStatus.SUCCEEDED,
            OutcomeReason.CRASH_RECOVERED,
            check.reason,
            receipt=receipt,
            verification=check,
        )
        return await _hold(replace(run, outcome=outcome), services, first=True)
    undone = (
        await runner.undo(executor, ctx, receipt) if run.may_touch(services) else RollbackStatus.NOT_NEEDED
    )
    outcome = replace(_interrupted(check.reason), receipt=receipt, verification=check, rollback=undone)
    return replace(run, outcome=outcome)


async def _resume_page(run: Run, services: Services, attempt: Attempt | None) -> End:
    """Go on paging people; a page that a former process may have sent is asked for by its key first."""
    reason = run.incident.end_reason or EndReason.NOTHING_PERMITTED
    end = Escalated(reason)
    executor = services.registry.executors.get(attempt.action) if attempt else None
    if attempt is None or executor is None:
        return end
    receipt = Receipt(action=attempt.action, at=attempt.started_at, partial=True)
    check = await runner.recover(executor, action_context(run, services, executor, attempt), receipt)
    outcome = _interrupted(check.reason)
    move = None
    if check.ok:
        outcome = Outcome(
            OutcomeStatus.SUCCEEDED, OutcomeReason.CRASH_RECOVERED, check.reason, verification=check
        )
        move = Move(end.state, end_reason=reason)
    finished = Finished(attempt.id, outcome)
    await services.store.commit(run.change(services.clock.now(), outcome=finished, move=move))
    return Done(move.state) if move else end


def _taken_up(run: Run, attempt: Attempt) -> Run:
    """Go on with an attempt from what was stored when it was begun."""
    return replace(
        run,
        attempt=attempt,
        decision=run.claimed.decision,
        decision_is_stored=True,
        measurement=run.claimed.before,
    )


def _interrupted(detail: str) -> Outcome:
    return Outcome(OutcomeStatus.INTERRUPTED, OutcomeReason.CRASH_UNVERIFIED, detail)


async def settle(run: Run, services: Services) -> Run | End:
    """Look at a fix that is settling: held long enough, still waiting, or not holding."""
    attempt = open_attempt(run)
    if run.incident.phase is not Phase.SETTLING or attempt is None:
        return run
    outcome = Outcome(OutcomeStatus.SUCCEEDED, OutcomeReason.VERIFIED, receipt=attempt.receipt)
    return await _hold(replace(_taken_up(run, attempt), outcome=outcome), services, first=False)


async def begin(run: Run, services: Services) -> Run | End:
    """Write the attempt down before the world is touched; the limits are checked again in that transaction."""
    decision = run.decision
    if run.outcome is not None or decision is None:
        return run
    candidate = decision.candidate
    executor = services.registry.executors[candidate.action]
    check = run.checks.get(candidate.key) or await checked(candidate, run, services)
    if not check.ok:
        run = run.noting(
            "precheck.refused", services.clock.now(), action=candidate.action, reason=check.reason
        )
        return Escalated(EndReason.NOTHING_PERMITTED)
    attempt = draft(candidate, run, services, decision.id)
    attempt = replace(
        attempt, receipt=Receipt(candidate.action, attempt.started_at, check.facts, partial=True)
    )
    run = await _diagnosed(replace(run, attempt=attempt), services, executor, attempt)
    run = run.noting("attempt.begun", attempt.started_at, action=attempt.action, attempt_id=attempt.id)
    refusal = await services.store.commit(
        run.change(
            attempt.started_at,
            decision=None if run.decision_is_stored else decision,
            context=run.context,
            before=run.measurement,
            begin=attempt,
            limits=_limits(executor, services),
            move=Move(IncidentState.RUNNING, Phase.ATTEMPTING, keep_lease=True),
        )
    )
    run = replace(run, timeline=(), decision_is_stored=True)
    if refusal is not None:
        services.metrics.refusals.labels(refusal.reason.value).inc()
        return Parked(_RACE_SECONDS, Phase.NEW, f"refused at begin: {refusal.reason.value}")
    services.log.info(
        "attempt.begun",
        incident_id=run.incident.id,
        attempt_id=attempt.id,
        target=attempt.target,
        action=attempt.action,
        number=attempt.number,
    )
    return replace(run, checks={candidate.key: check})


def _limits(executor: Executor, services: Services) -> BeginLimits | None:
    if executor.spec.read_only:
        return None
    guard = services.settings.guard
    return BeginLimits(
        cooldown_seconds=cooldown_seconds(executor.spec, guard),
        rate_per_action=guard.rate_per_action,
        rate_per_service=guard.rate_per_service,
        rate_window_seconds=guard.rate_window_seconds,
    )


async def _diagnosed(run: Run, services: Services, executor: Executor, attempt: Attempt) -> Run:
    if type(executor).diagnose is Executor.diagnose:
        return run
    facts = await runner.diagnose(
        executor, action_context(run, services, executor, attempt), DIAGNOSE_SECONDS
    )
    return run.noting("diagnostics.collected", services.clock.now(), **facts)


async def act(run: Run, services: Services) -> Run | End:
    """Execute, verify, and undo what did not help; then see whether it holds."""
    attempt, decision = run.attempt, run.decision
    if run.outcome is not None or attempt is None or decision is None:
        return run
    executor = services.registry.executors[attempt.action]
    ctx = action_context(run, services, executor, attempt)
    services.metrics.first_action_seconds.observe(max(0.0, services.clock.now() - run.incident.opened_at))
    outcome = await runner.run(
        executor,
        ctx,
        _Journal(run, services, attempt.id),
        checked=run.checks[decision.candidate.key],
        may_go_on=lambda: run.may_touch(services),
    )
    _feed_breaker(executor, outcome, services)
    if outcome.status is OutcomeStatus.INTERRUPTED and outcome.receipt is not None:
        # The world was touched and nobody looked yet: the open attempt is verified first at the next claim.
        return Dropped("stopped between execute and verify")
    run = replace(run, outcome=outcome)
    return await _hold(run, services, first=True) if outcome.status is OutcomeStatus.SUCCEEDED else run


def _feed_breaker(executor: Executor, outcome: Outcome, services: Services) -> None:
    system, now = executor.spec.system, services.clock.now()
    if executor.spec.read_only:
        return
    breaker = services.registry.backend(system).breaker
    before = breaker.state(now)
    breaker.record(now, ok=outcome.reason not in _BACKEND_FAILED)
    if breaker.state(now) is not before:
        services.log.warning("breaker.changed", system=system, state=breaker.state(now).value)


async def _hold(run: Run, services: Services, *, first: bool) -> Run | End:
    """Decide whether a fix has held for its settle time, needs more of it, or failed."""
    after = await services.probes.measure(run.target)
    run = replace(run, after=after)
    now, span = services.clock.now(), _settle_seconds(run, services)
    until = now + span if first else run.incident.settle_until or now
    good = await _is_good(run, services, after, first=first)
    waiting = run.attempt is not None and run.attempt.action == WAIT
    if good and now >= until:
        return run
    if not good and now >= _give_up_at(run, span, waiting=waiting):
        return await _did_not_hold(run, services, after)
    if not good and not waiting:
        until = now + span
    interval = run.target.settle_interval_seconds if run.target else 5.0
    pause = min(interval, max(0.0, until - now)) if good or waiting else interval
    return Parked(max(pause, 0.05), Phase.SETTLING, "settling", settle_until=until)


async def _is_good(run: Run, services: Services, after: Measurement, *, first: bool) -> bool:
    if after.healthy is not None or (run.target is not None and run.target.probes):
        return after.healthy is True
    if first or run.attempt is None:
        return True  # no probes: the executor's own verification was the evidence a moment ago
    if run.attempt.action == WAIT:
        return run.incident.is_cleared
    executor = services.registry.executors.get(run.attempt.action)
    if executor is None or run.attempt.receipt is None:
        return run.incident.is_cleared
    ctx = action_context(run, services, executor, run.attempt)
    return (await runner.recover(executor, ctx, run.attempt.receipt)).ok


def _settle_seconds(run: Run, services: Services) -> float:
    if run.attempt is not None and run.attempt.action == WAIT:
        executor = services.registry.executors[WAIT]
        params = executor.spec.params.model_validate(dict(run.attempt.params))
        return float(getattr(params, "seconds", 60.0))
    return settle_seconds(run.incident, services.runbooks, services.targets)


def _give_up_at(run: Run, span: float, *, waiting: bool) -> float:
    attempt = run.attempt
    began = attempt.receipt.at if attempt and attempt.receipt else run.incident.updated_at
    if run.outcome is not None and run.outcome.receipt is not None:
        began = run.outcome.receipt.at
    return began + span if waiting else began + 3 * span + _GRACE_SECONDS


async def _did_not_hold(run: Run, services: Services, after: Measurement) -> Run:
    before = run.measurement
    drop = (
        before.score - after.score if before and before.score is not None and after.score is not None else 0.0
    )
    reason = OutcomeReason.SYMPTOM_WORSE if drop > _WORSE_POINTS else OutcomeReason.SYMPTOM_REMAINS
    outcome = replace(
        run.outcome or Outcome(OutcomeStatus.FAILED, reason),
        status=OutcomeStatus.FAILED,
        reason=reason,
        detail=f"health {after.score} after the settle time",
    )
    executor = services.registry.executors.get(run.attempt.action) if run.attempt else None
    if executor is None or run.attempt is None or not run.may_touch(services):
        return replace(run, outcome=outcome)
    ctx = action_context(run, services, executor, run.attempt)
    undone = await runner.undo(executor, ctx, outcome.receipt or run.attempt.receipt)
    return replace(run, outcome=replace(outcome, rollback=undone))
