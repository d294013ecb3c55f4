"""Runs one executor: precheck, then execute, verify, rollback inside one deadline.

Whatever an executor does, the ending is one `Outcome`; only cancellation is raised. Called by the pipeline;
knows nothing of incidents, policies or the database, except through the `Journal` that it is given.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from oncall_agent.contract import ActionContext, Check, Executor, PermanentError, Receipt, TransientError
from oncall_agent.contract.secret import redact
from oncall_agent.models import JsonObject, Outcome, OutcomeReason, OutcomeStatus, RollbackStatus

T = TypeVar("T")

MAX_TRIES = 5
MAX_FACTS = 16_384
_MAX_FACT = 512
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 10.0
_ROLLBACK_SECONDS = 120.0


class Journal(Protocol):
    """Makes a receipt durable; the runner waits for it before it verifies."""

    async def keep(self, receipt: Receipt) -> None:
        """Write the receipt down."""
        ...


@dataclass(slots=True)
class _Progress:
    """How far an attempt came; what the outcome is made of."""

    timings: dict[str, float] = field(default_factory=dict)
    precheck: Check | None = None
    receipt: Receipt | None = None
    verification: Check | None = None
    retries: int = 0
    executing: bool = False

    def in_doubt(self, ctx: ActionContext) -> None:
        """Execute may have acted without giving a receipt: the precheck's snapshot stands in for it."""
        if self.executing and self.receipt is None and self.precheck is not None:
            self.receipt = Receipt(action="", at=ctx.clock.now(), facts=self.precheck.facts, partial=True)

    def ended(self, status: OutcomeStatus, reason: OutcomeReason, detail: str = "") -> Outcome:
        return Outcome(
            status=status,
            reason=reason,
            detail=redact(detail)[:1000],
            precheck=self.precheck,
            receipt=self.receipt,
            verification=self.verification,
            timings=dict(self.timings),
            retries=self.retries,
        )


async def run(
    executor: Executor,
    ctx: ActionContext,
    journal: Journal | None,
    *,
    checked: Check,
    may_go_on: Callable[[], bool],
) -> Outcome:
    """Carry out one attempt that is written down and whose precheck was passed.

    Args:
        journal: where the receipt is made durable before verify; None for a page, which its outcome tells.
        checked: the precheck's answer, kept with the attempt; `precheck` gives it.
        may_go_on: asked between every two steps; False is the kill switch or a lost lease.
    """
    progress = _Progress(precheck=checked)
    try:
        async with asyncio.timeout(max(0.0, ctx.seconds_left)):
            return await _steps(executor, ctx, journal, progress, may_go_on)
    except TimeoutError:
        progress.in_doubt(ctx)
        detail = f"not done within {executor.spec.deadline_seconds:g} s"
        return await _undone(
            executor, ctx, progress.ended(OutcomeStatus.FAILED, OutcomeReason.DEADLINE, detail)
        )
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - any ending of foreign code becomes one value
        return await _undone(executor, ctx, _failure(error, progress, ctx))


async def precheck(
    executor: Executor, ctx: ActionContext, *, max_instances: int, within_seconds: float
) -> Check:
    """Ask whether execute may go on, read-only; an error or silence is a no with its reason.

    Args:
        max_instances: blast radius that the guard permits; more instances than that are a no.
    """
    try:
        async with asyncio.timeout(min(within_seconds, ctx.seconds_left)):
            check = bounded(await _tried(lambda: executor.precheck(ctx), ctx, _Progress()))
    except TimeoutError:
        return Check(ok=False, reason=f"the precheck did not end within {within_seconds:g} s", instances=0)
    except Exception as error:  # noqa: BLE001 - as in run
        return Check(ok=False, reason=redact(f"{type(error).__name__}: {error}")[:500], instances=0)
    if check.ok and check.instances > max_instances:
        reason = f"would touch {check.instances} instances, {max_instances} are permitted"
        return replace(check, ok=False, reason=reason)
    return check


async def diagnose(executor: Executor, ctx: ActionContext, within_seconds: float) -> JsonObject:
    """Collect evidence before anything is changed; what can't be had is said, not raised."""
    try:
        async with asyncio.timeout(min(within_seconds, ctx.seconds_left)):
            return bounded_facts(await executor.diagnose(ctx))
    except TimeoutError:
        return {"error": f"not collected within {within_seconds:g} s"}
    except Exception as error:  # noqa: BLE001 - as in run
        return {"error": redact(f"{type(error).__name__}: {error}")[:500]}


async def recover(executor: Executor, ctx: ActionContext, receipt: Receipt) -> Check:
    """Ask the symptom about an attempt that another process began; never executes.

    Args:
        receipt: what was kept; a partial one when the process died between begin and receipt.
    """
    try:
        async with asyncio.timeout(max(0.0, ctx.seconds_left)):
            return bounded(await executor.verify(ctx, receipt))
    except TimeoutError:
        return Check(ok=False, reason="verification did not end within the deadline")
    except Exception as error:  # noqa: BLE001 - as in run
        return Check(ok=False, reason=redact(f"{type(error).__name__}: {error}")[:500])


async def undo(executor: Executor, ctx: ActionContext, receipt: Receipt | None) -> RollbackStatus:
    """Take a change back, if there is one and it can be."""
    if receipt is None or receipt.planned or executor.spec.read_only:
        return RollbackStatus.NOT_NEEDED
    if not executor.spec.reversible:
        return RollbackStatus.IMPOSSIBLE
    # A deadline of its own: a change must not stay because the forward path used up the time.
    own = replace(ctx, deadline_at=ctx.clock.monotonic() + _ROLLBACK_SECONDS)
    try:
        async with asyncio.timeout(_ROLLBACK_SECONDS):
            check = await _tried(lambda: executor.rollback(own, receipt), own, _Progress())
    except Exception as error:  # noqa: BLE001 - as in run
        ctx.log.warning("executor.spoke", said=f"rollback failed: {redact(str(error))[:300]}")
        return RollbackStatus.FAILED
    return RollbackStatus.DONE if check.ok else RollbackStatus.FAILED


async def _steps(
    executor: Executor,
    ctx: ActionContext,
    journal: Journal | None,
    progress: _Progress,
    may_go_on: Callable[[], bool],
) -> Outcome:
    if not may_go_on():
        return progress.ended(OutcomeStatus.INTERRUPTED, OutcomeReason.KILL_SWITCH, "before execute")
    progress.executing = True
    receipt = await _timed("execute", progress, ctx, _tried(lambda: executor.execute(ctx), ctx, progress))
    progress.receipt = _bounded_receipt(receipt)
    if receipt.planned:
        return progress.ended(OutcomeStatus.PLANNED, OutcomeReason.DRY_RUN)
    if journal is not None:
        await journal.keep(progress.receipt)
    if not may_go_on():
        return progress.ended(OutcomeStatus.INTERRUPTED, OutcomeReason.KILL_SWITCH, "before verify")
    verified = await _timed(
        "verify", progress, ctx, _tried(lambda: executor.verify(ctx, receipt), ctx, progress)
    )
    progress.verification = bounded(verified)
    if verified.ok:
        return progress.ended(OutcomeStatus.SUCCEEDED, OutcomeReason.VERIFIED, verified.reason)
    failed = progress.ended(OutcomeStatus.FAILED, OutcomeReason.VERIFY_FAILED, verified.reason)
    if not may_go_on():
        return replace(failed, status=OutcomeStatus.INTERRUPTED, reason=OutcomeReason.KILL_SWITCH)
    return await _undone(executor, ctx, failed)


async def _timed(step: str, progress: _Progress, ctx: ActionContext, work: Awaitable[T]) -> T:
    began = ctx.clock.monotonic()
    try:
        return await work
    finally:
        progress.timings[step] = round(ctx.clock.monotonic() - began, 4)


async def _tried(step: Callable[[], Awaitable[T]], ctx: ActionContext, progress: _Progress) -> T:
    """Repeat a step on TransientError with backoff and full jitter while the deadline leaves time."""
    wait = _FIRST_WAIT_SECONDS
    for number in range(1, MAX_TRIES + 1):
        try:
            return await step()
        except TransientError as error:
            pause = error.retry_after_seconds or random.uniform(wait / 2, wait)  # noqa: S311 - jitter, no secret
            if number == MAX_TRIES or pause >= ctx.seconds_left:
                raise
            progress.retries += 1
            ctx.log.info(
                "attempt.retried",
                try_number=number,
                wait_seconds=round(pause, 3),
                error=redact(error.message)[:300],
            )
            await ctx.clock.sleep(pause)
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
    raise AssertionError("unreachable: the last try returns or raises")


def _failure(error: Exception, progress: _Progress, ctx: ActionContext) -> Outcome:
    if isinstance(error, TransientError | PermanentError) and error.receipt_facts is not None:
        progress.receipt = _bounded_receipt(
            Receipt(action="", at=ctx.clock.now(), facts=dict(error.receipt_facts), partial=True)
        )
    if isinstance(error, TransientError):
        return progress.ended(OutcomeStatus.FAILED, OutcomeReason.TRANSIENT_EXHAUSTED, error.message)
    if isinstance(error, PermanentError):
        return progress.ended(OutcomeStatus.FAILED, OutcomeReason.PERMANENT_ERROR, error.message)
    progress.in_doubt(ctx)
    ctx.log.warning("executor.spoke", said="unexpected error", exc_info=error)
    return progress.ended(
        OutcomeStatus.FAILED, OutcomeReason.UNEXPECTED_ERROR, f"{type(error).__name__}: {error}"
    )


async def _undone(executor: Executor, ctx: ActionContext, outcome: Outcome) -> Outcome:
    return replace(outcome, rollback=await undo(executor, ctx, outcome.receipt))


def bounded(check: Check) -> Check:
    """Keep a check's evidence small and free of secrets."""
    return replace(check, reason=redact(check.reason)[:500], facts=bounded_facts(check.facts))


def _bounded_receipt(receipt: Receipt) -> Receipt:
    return replace(receipt, facts=_clean(receipt.facts))


def bounded_facts(facts: JsonObject, limit: int = MAX_FACTS) -> JsonObject:
    """Take secrets out of evidence and cut what is too long to be kept."""
    cleaned: dict[str, Any] = _clean(facts)
    if len(str(cleaned)) <= limit:
        return cleaned
    return {
        key: value if len(str(value)) <= _MAX_FACT else f"{str(value)[:_MAX_FACT]}..."
        for key, value in cleaned.items()
    }


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return redact(str(value)) if isinstance(value, str) else value
