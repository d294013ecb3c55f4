"""From what the runbooks offer to one decision that may be carried out."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

from pydantic import ValidationError

from oncall_agent import runner
from oncall_agent.contract import Check
from oncall_agent.models import (
    Approval,
    Autonomy,
    Candidate,
    Decision,
    EndReason,
    IncidentState,
    Permitted,
    Phase,
    Refusal,
    RefusalReason,
    RiskClass,
    Screened,
    Verdict,
)
from oncall_agent.pipeline.run import (
    BASELINE,
    End,
    Escalated,
    Parked,
    Run,
    Services,
    action_context,
    draft,
    situation,
)
from oncall_agent.policy import features
from oncall_agent.rules import autonomy, runbooks
from oncall_agent.rules.guard import recheck, screen
from oncall_agent.rules.runbooks import ESCALATE

PRECHECK_SECONDS = 10.0

_NO_LANE = {
    Autonomy.OBSERVE: EndReason.AUTONOMY_OBSERVE,
    Autonomy.SHADOW: EndReason.AUTONOMY_SHADOW,
    Autonomy.SUGGEST: EndReason.AUTONOMY_SUGGEST,
}


async def answer(run: Run, services: Services) -> Run | End:
    """Take up what people said to the approval that this incident waited for."""
    approval = run.claimed.approval
    if approval is None or run.incident.phase is not Phase.APPROVED:
        return run
    services.metrics.approvals.labels(approval.verdict.value).inc()
    if approval.verdict is Verdict.DENIED:
        return Escalated(EndReason.APPROVAL_DENIED)
    if approval.verdict is not Verdict.APPROVED or run.claimed.decision is None:
        return Escalated(EndReason.APPROVAL_EXPIRED)
    refusal = recheck(run.claimed.decision.candidate, situation(run, services))
    if refusal is not None:
        # The world moved on while people thought: the limits of now count, not those of then.
        services.metrics.refusals.labels(refusal.reason.value).inc()
        return Escalated(EndReason.NOTHING_PERMITTED)
    return replace(run, decision=run.claimed.decision, decision_is_stored=True)


async def propose(run: Run, services: Services) -> Run | End:
    """List the candidates that the runbooks offer."""
    if run.decision is not None:
        return run
    return replace(run, candidates=runbooks.candidates(run.incident, services.runbooks, services.targets))


async def guard(run: Run, services: Services) -> Run | End:
    """Divide the candidates into permitted and refused; before the choice, so that propensities are true."""
    if run.decision is not None:
        return run
    screened = screen(run.candidates, situation(run, services))
    for refusal in screened.refused:
        services.metrics.refusals.labels(refusal.reason.value).inc()
    return replace(run, screened=_without_idle_waiting(screened))


def _without_idle_waiting(screened: Screened) -> Screened:
    """With nothing left to try, waiting would only keep people from knowing."""
    if any(permitted.candidate.action not in BASELINE for permitted in screened.allowed):
        return screened
    kept = tuple(permitted for permitted in screened.allowed if permitted.candidate.action == ESCALATE)
    return Screened(allowed=kept, refused=screened.refused)


async def check(run: Run, services: Services) -> Run | End:
    """Ask the precheck of every permitted candidate at once, read-only: the policy chooses among what can be done."""
    if run.decision is not None or run.screened is None:
        return run
    asked = [permitted for permitted in run.screened.allowed if permitted.candidate.action not in BASELINE]
    answers = await asyncio.gather(*(checked(permitted.candidate, run, services) for permitted in asked))
    checks = {permitted.candidate.key: answer for permitted, answer in zip(asked, answers, strict=True)}
    refused = [
        Refusal(permitted.candidate, RefusalReason.PRECHECK, checks[permitted.candidate.key].reason)
        for permitted in asked
        if not checks[permitted.candidate.key].ok
    ]
    services.metrics.refusals.labels(RefusalReason.PRECHECK.value).inc(len(refused))
    allowed = tuple(
        p for p in run.screened.allowed if p.candidate.key not in checks or checks[p.candidate.key].ok
    )
    screened = Screened(allowed=allowed, refused=(*run.screened.refused, *refused))
    return replace(run, screened=_without_idle_waiting(screened), checks=checks)


async def checked(candidate: Candidate, run: Run, services: Services) -> Check:
    """Ask one candidate's precheck; parameters that its action does not take are a no as well."""
    executor = services.registry.executors[candidate.action]
    try:
        ctx = action_context(run, services, executor, draft(candidate, run, services))
    except ValidationError as error:
        return Check(ok=False, reason=f"parameters: {error.errors()[0]['msg']}", instances=0)
    limit = services.settings.guard.max_instances
    return await runner.precheck(executor, ctx, max_instances=limit, within_seconds=PRECHECK_SECONDS)


async def decide(run: Run, services: Services) -> Run | End:
    """Let the policy pick one of the permitted candidates."""
    if run.decision is not None or run.screened is None:
        return run
    began = services.clock.monotonic()
    now = services.clock.now()
    context = features.context(run.incident, run.target, run.measurement, run.claimed.history, now)
    vector = features.encode(context)
    decision_id = services.new_id()
    seed = seed_of(decision_id)
    choice = services.policy.choose(vector, run.screened.allowed, seed=seed)
    decision = Decision(
        id=decision_id,
        at=now,
        chosen=run.screened.allowed[choice.index],
        propensity=choice.propensity,
        mode=choice.mode,
        policy=services.policy.name,
        policy_version=services.policy.version,
        seed=seed,
        features=tuple(float(value) for value in vector),
        features_schema=features.SCHEMA,
        scored=choice.scored,
        refused=run.screened.refused,
        explanation=choice.explanation,
    )
    _tell(decision, run, services, services.clock.monotonic() - began)
    run = run.noting(
        "decision.made", now, action=decision.candidate.action, autonomy=decision.chosen.level.value
    )
    return replace(run, decision=decision, context=context.to_json())


def seed_of(decision_id: str) -> int:
    """Give the generator's seed of a decision: from its id, so that the draw can be repeated."""
    return int.from_bytes(hashlib.blake2b(decision_id.encode(), digest_size=7).digest())


def _tell(decision: Decision, run: Run, services: Services, seconds: float) -> None:
    services.metrics.decisions.labels(decision.candidate.action, decision.mode.value).inc()
    services.metrics.decide_seconds.observe(seconds)
    services.log.info(
        "decision.made",
        incident_id=run.incident.id,
        target=run.incident.target,
        action=decision.candidate.action,
        autonomy=decision.chosen.level.value,
        propensity=round(decision.propensity, 6),
        mode=decision.mode.value,
        policy_version=decision.policy_version,
        allowed=[scored.candidate.action for scored in decision.scored],
        refused={refusal.candidate.action: refusal.reason.value for refusal in decision.refused},
        seconds=round(seconds, 6),
    )


async def approve(run: Run, services: Services) -> Run | End:
    """Carry out only what the autonomy level grants; ask people where it says so."""
    decision = run.decision
    if decision is None:
        return Escalated(EndReason.NOTHING_PERMITTED)
    if run.decision_is_stored:
        return run
    lane = _lane(run, services)
    if lane in _NO_LANE:
        return Escalated(_NO_LANE[lane], page=lane is Autonomy.SUGGEST)
    if decision.candidate.action == ESCALATE:
        return Escalated(_why_escalated(run))
    if decision.chosen.level is Autonomy.APPROVE:
        return await _ask(run, services, decision)
    return run


def _lane(run: Run, services: Services) -> Autonomy:
    """Say how far the daemon may go with this incident at all: the highest level among what is permitted.

    Where nothing but escalate and wait is left, the level granted to escalating itself decides, so that a
    fresh install (shadow) pages nobody.
    """
    allowed = run.screened.allowed if run.screened else ()
    levels = [permitted.level for permitted in allowed if permitted.candidate.action not in BASELINE]
    if levels:
        return max(levels, key=lambda level: level.rank)
    return autonomy.level(
        run.incident.alert_class,
        ESCALATE,
        run.target.target_class if run.target else "default",
        settings=services.settings.autonomy,
        overrides=services.store.control.overrides,
    )


def _why_escalated(run: Run) -> EndReason:
    allowed: tuple[Permitted, ...] = run.screened.allowed if run.screened else ()
    if any(permitted.candidate.action not in BASELINE for permitted in allowed):
        return EndReason.POLICY_CHOSE
    refused = run.screened.refused if run.screened else ()
    if any(refusal.reason is RefusalReason.MAX_ATTEMPTS for refusal in refused):
        return EndReason.ATTEMPTS_EXHAUSTED
    return EndReason.NOTHING_PERMITTED


async def _ask(run: Run, services: Services, decision: Decision) -> End:
    now = services.clock.now()
    ttl = services.settings.approvals.ttl_seconds
    spec = services.registry.specs[decision.candidate.action]
    approval = Approval(
        id=services.new_id(),
        incident_id=run.incident.id,
        decision_id=decision.id,
        action=decision.candidate.action,
        target=decision.candidate.target,
        risk=spec.risk,
        asked_at=now,
        expires_at=now + ttl,
        needed=2 if spec.risk is RiskClass.R3 else 1,
    )
    return Parked(ttl, Phase.APPROVED, "approval", state=IncidentState.AWAITING_APPROVAL, approval=approval)
