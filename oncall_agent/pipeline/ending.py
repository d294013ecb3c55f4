"""Closes a handling: carries a named end into the store, and pages people where the end says so."""

from __future__ import annotations

from dataclasses import replace

from oncall_agent import runner
from oncall_agent.contract import Check, Executor
from oncall_agent.models import (
    Approval,
    Attempt,
    Candidate,
    IncidentState,
    OutcomeStatus,
    Phase,
)
from oncall_agent.pipeline.bundling import Covered, PageNow
from oncall_agent.pipeline.closing import commit_ending, learn, tell_end
from oncall_agent.pipeline.run import (
    Done,
    End,
    Escalated,
    Parked,
    Resolved,
    Run,
    Services,
    action_context,
    draft,
)
from oncall_agent.rules.runbooks import ESCALATE
from oncall_agent.store import Move

MOST_PAGES = 12
"""Pages tried for one incident before it is a dead letter: with backoff that is about an hour."""
_LONGEST_WAIT_SECONDS = 300.0
_DIAGNOSE_SECONDS = 10.0


async def close(run: Run, end: End, services: Services) -> End:
    """Write down how this handling ended; people are paged before an incident counts as escalated."""
    if isinstance(end, Resolved):
        run = run.noting("incident.ended", services.clock.now(), state="resolved", reason=end.reason)
        await _move(run, services, Move(IncidentState.RESOLVED, end_reason=end.reason))
        tell_end(run, services, IncidentState.RESOLVED, end.reason)
    elif isinstance(end, Parked):
        await _park(run, end, services)
    elif isinstance(end, Escalated):
        return await _escalate(run, end, services)
    return end


async def _move(run: Run, services: Services, move: Move, approval: Approval | None = None) -> None:
    now = services.clock.now()
    await services.store.commit(
        run.change(
            now,
            decision=None if run.decision_is_stored else run.decision,
            context=run.context,
            before=run.measurement if run.attempt is None else None,
            approval=approval,
            move=move,
        )
    )


async def _park(run: Run, end: Parked, services: Services) -> None:
    now = services.clock.now()
    if end.approval is not None:
        run = run.noting(
            "approval.asked", now, action=end.approval.action, expires_at=end.approval.expires_at
        )
    move = Move(end.state, end.phase, run_after=now + end.seconds, settle_until=end.settle_until)
    if run.outcome is not None and run.incident.phase is not Phase.SETTLING:
        run = run.noting(
            "attempt.verified", now, detail=run.outcome.detail, timings=dict(run.outcome.timings)
        )
    await _move(run, services, move, end.approval)
    services.log.info(
        "incident.parked",
        incident_id=run.incident.id,
        target=run.incident.target,
        phase=end.phase.value,
        seconds=round(end.seconds, 3),
        reason=end.reason,
    )
    if end.approval is not None:
        services.log.info(
            "approval.asked",
            incident_id=run.incident.id,
            approval_id=end.approval.id,
            target=end.approval.target,
            action=end.approval.action,
            risk=end.approval.risk.value,
            expires_at=end.approval.expires_at,
        )


async def _escalate(run: Run, end: Escalated, services: Services) -> End:
    executor = services.registry.executors.get(ESCALATE)
    if not end.page or executor is None:
        if end.page:
            services.metrics.pages.labels("no_executor").inc()
            services.log.warning(
                "page.failed", incident_id=run.incident.id, reason="escalate.page is switched off"
            )
        return await _end(run, end, services)
    admitted = services.bundling.admit(run.incident.id, run.incident.title, services.clock.now())
    if isinstance(admitted, PageNow):
        return await _page(run, end, services, executor, admitted.others)
    if isinstance(admitted, Covered):
        services.metrics.pages.labels("bundled").inc()
        return await _end(run.noting("page.bundled", services.clock.now()), end, services)
    run_after = services.clock.now() + admitted.seconds
    await _move(
        run,
        services,
        Move(IncidentState.PARKED, Phase.ESCALATING, run_after=run_after, end_reason=end.reason),
    )
    return Done(IncidentState.PARKED)


async def _end(run: Run, end: Escalated, services: Services) -> End:
    run = run.noting("incident.ended", services.clock.now(), state=end.state, reason=end.reason)
    await _move(run, services, Move(end.state, end_reason=end.reason))
    tell_end(run, services, end.state, end.reason)
    return Done(end.state)


async def _page(
    run: Run, end: Escalated, services: Services, executor: Executor, others: tuple[str, ...]
) -> End:
    run = await _diagnosed(run, services)
    chosen = run.decision if run.decision and run.decision.candidate.action == ESCALATE else None
    candidate = chosen.candidate if chosen else Candidate(ESCALATE, run.incident.target)
    attempt = draft(candidate, run, services, chosen.id if chosen else "")
    await _begin_page(run, end, services, attempt)
    paged = replace(run, attempt=attempt, timeline=(), decision=chosen, decision_is_stored=True)
    ctx = action_context(run, services, executor, attempt)
    told = {**ctx.incident, "reason": end.reason.value}
    ctx = replace(ctx, incident={**told, "also": list(others)} if others else told)
    outcome = await runner.run(
        executor, ctx, None, checked=Check(ok=True, instances=0), may_go_on=run.may_go_on
    )
    paged = replace(paged, outcome=outcome, after=None)
    sent = outcome.status is OutcomeStatus.SUCCEEDED
    services.metrics.pages.labels("sent" if sent else "failed").inc()
    step = await learn(paged, services)
    paged = step if isinstance(step, Run) else paged
    if sent:
        await commit_ending(paged, services, Move(end.state, end_reason=end.reason))
        tell_end(paged, services, end.state, end.reason)
        return Done(end.state)
    services.bundling.failed(ctx.started_at)
    return await _page_again(paged, end, services)


async def _begin_page(run: Run, end: Escalated, services: Services, attempt: Attempt) -> None:
    run = run.noting("attempt.begun", attempt.started_at, action=attempt.action, attempt_id=attempt.id)
    move = Move(IncidentState.RUNNING, Phase.ESCALATING, end_reason=end.reason, keep_lease=True)
    await services.store.commit(
        run.change(
            attempt.started_at,
            decision=None if run.decision_is_stored else run.decision,
            context=run.context,
            before=run.measurement if run.attempt is None else None,
            begin=attempt,
            move=move,
        )
    )


async def _page_again(run: Run, end: Escalated, services: Services) -> End:
    """A page that did not go out is tried again for about an hour, then it is a dead letter that alarms."""
    tried = 1 + sum(attempt.action == ESCALATE for attempt in run.claimed.attempts)
    now = services.clock.now()
    wait = min(_LONGEST_WAIT_SECONDS, 2.0 ** min(tried, 10))
    over = tried >= MOST_PAGES
    move = (
        Move(IncidentState.DEAD_LETTERED, end_reason=end.reason)
        if over
        else Move(IncidentState.PARKED, Phase.ESCALATING, run_after=now + wait, end_reason=end.reason)
    )
    await commit_ending(run, services, move)
    detail = run.outcome.detail if run.outcome else ""
    services.log.warning(
        "page.failed", incident_id=run.incident.id, reason=detail, next_try_seconds=None if over else wait
    )
    if over:
        tell_end(run, services, IncidentState.DEAD_LETTERED, end.reason)
    return Done(move.state)


async def _diagnosed(run: Run, services: Services) -> Run:
    """Collect what an executor of this kind of target can tell, so that people get it with the page."""
    if run.target is None or any(entry.name == "diagnostics.collected" for entry in run.timeline):
        return run
    for executor in services.registry.executors.values():
        fits = executor.spec.target_kind == run.target.kind
        if fits and type(executor).diagnose is not Executor.diagnose:
            attempt = draft(Candidate(executor.spec.id, run.target.name), run, services)
            try:
                ctx = action_context(run, services, executor, attempt)
            except ValueError:
                continue  # its parameters have no defaults: another action of the system may do
            facts = await runner.diagnose(executor, ctx, _DIAGNOSE_SECONDS)
            return run.noting("diagnostics.collected", services.clock.now(), **facts)
    return run
