"""One drill: make the sandbox sick, let the action heal it, look at the symptom, undo, remove the sandbox.

The action goes through the same runner as an attempt of the daemon; only the database is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from oncall_agent import runner
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    Check,
    Drill,
    Executor,
    PermanentError,
    SystemContext,
    Trial,
    UnfitSandboxError,
)
from oncall_agent.models import OutcomeStatus, RollbackStatus
from oncall_agent.validation.inspecting import said
from oncall_agent.validation.results import Verdict

_SYMPTOM_SECONDS = 30.0
_POLL_SECONDS = 0.1
_CLEAN_UP_SECONDS = 60.0
_PRECHECK_SECONDS = 30.0


class DrillFailedError(Exception):
    """A step of the drill did not end as it has to; the message names the step."""


@dataclass(frozen=True, slots=True)
class Drilled:
    """How a drill ended."""

    verdict: Verdict
    reason: str
    recovery_seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


async def carry_out(drill: Drill, executor: Executor, ctx: SystemContext, *, check_id: str) -> Drilled:
    """Run a drill to its end; whatever happens, the sandbox is removed and the ending is a value."""
    facts: dict[str, Any] = {}
    seconds = drill.spec.deadline_seconds + executor.spec.deadline_seconds
    try:
        async with asyncio.timeout(seconds):
            drilled = await _healed(drill, executor, _within(ctx, seconds), check_id, facts)
    except DrillFailedError as error:
        drilled = Drilled(Verdict.FAILED, str(error), facts=facts)
    except UnfitSandboxError as error:
        drilled = Drilled(Verdict.SKIPPED, said(error.message), facts=facts)
    except ActionError as error:
        drilled = Drilled(Verdict.FAILED, said(error.message), facts=facts)
    except TimeoutError:
        drilled = Drilled(Verdict.FAILED, "the drill did not end in time", facts=facts)
    except Exception as error:  # noqa: BLE001 - foreign code: whatever it raises is a failed drill, not a crash
        drilled = Drilled(Verdict.FAILED, said(f"{type(error).__name__}: {error}"), facts=facts)
    finally:
        # Also when the run is being interrupted: a sandbox must not stay behind, broken.
        left = await asyncio.shield(_cleaned(drill, ctx))
    if left and drilled.verdict is Verdict.PASSED:
        return Drilled(Verdict.FAILED, f"cleaning up: {left}", drilled.recovery_seconds, drilled.facts)
    return drilled


async def _healed(
    drill: Drill, executor: Executor, ctx: SystemContext, check_id: str, facts: dict[str, Any]
) -> Drilled:
    trial = await _said_so(ctx, "prepared", lambda: drill.prepare(ctx))
    _expect((await drill.symptom(ctx, trial)).ok, "the sandbox is sick before anything was broken")
    await _said_so(ctx, "injected", lambda: drill.inject(ctx, trial))
    sick = await _until(ctx, lambda: drill.symptom(ctx, trial), well=False)
    facts["symptom"] = sick.reason
    action = _action_context(executor, trial, ctx, check_id)
    began = ctx.clock.monotonic()
    receipt = await _acted(executor, action, facts)
    await _until(ctx, lambda: drill.symptom(ctx, trial), well=True)
    seconds = ctx.clock.monotonic() - began
    ctx.log.info("drill.healed", seconds=round(seconds, 3))
    if executor.spec.reversible and not executor.spec.read_only:
        undone = await runner.undo(executor, action, receipt)
        facts["undo"] = undone.value
        _expect(undone is RollbackStatus.DONE, f"the undo ended as {undone.value}")
    return Drilled(Verdict.PASSED, f"healed in {seconds:.1f} s: {sick.reason}"[:500], seconds, facts)


async def _acted(executor: Executor, ctx: ActionContext, facts: dict[str, Any]) -> Any:
    facts["evidence"] = await runner.diagnose(executor, ctx, _PRECHECK_SECONDS)
    checked = await runner.precheck(
        executor, ctx, max_instances=executor.spec.blast_radius, within_seconds=_PRECHECK_SECONDS
    )
    _expect(checked.ok, f"precheck: {checked.reason}")
    outcome = await runner.run(executor, ctx, None, checked=checked, may_go_on=lambda: True)
    facts["timings"] = dict(outcome.timings)
    ctx.log.info(
        "drill.acted", status=outcome.status.value, reason=outcome.reason.value, detail=outcome.detail
    )
    detail = f"{outcome.reason.value} {outcome.detail}".strip()
    _expect(outcome.status is OutcomeStatus.SUCCEEDED, f"the action {outcome.status.value}: {detail}")
    return outcome.receipt


def _action_context(executor: Executor, trial: Trial, ctx: SystemContext, check_id: str) -> ActionContext:
    try:
        params = executor.spec.params.model_validate(dict(trial.params))
    except ValidationError as error:
        raise PermanentError(f"the drill's parameters do not fit the action: {error.errors()[0]}") from error
    return ActionContext(
        target=trial.target,
        params=params,
        idempotency_key=check_id,
        attempt_id=check_id,
        started_at=ctx.clock.now(),
        deadline_at=ctx.clock.monotonic() + executor.spec.deadline_seconds,
        clock=ctx.clock,
        log=ctx.log,
        run_blocking=ctx.run_blocking,
        incident={"id": check_id, "title": "validation drill", "class": "drill", "severity": "info"},
    )


async def _until(ctx: SystemContext, symptom: Callable[[], Awaitable[Check]], *, well: bool) -> Check:
    end = ctx.clock.monotonic() + _SYMPTOM_SECONDS
    while True:
        check = await symptom()
        if check.ok is well:
            return check
        if ctx.clock.monotonic() >= end:
            wanted = "well again" if well else "sick"
            raise DrillFailedError(f"the sandbox is not {wanted}: {check.reason}"[:500])
        await ctx.clock.sleep(_POLL_SECONDS)


async def _said_so(ctx: SystemContext, step: str, act: Callable[[], Awaitable[Any]]) -> Any:
    result = await act()
    ctx.log.info("drill.stepped", step=step)
    return result


async def _cleaned(drill: Drill, ctx: SystemContext) -> str:
    try:
        async with asyncio.timeout(_CLEAN_UP_SECONDS):
            await drill.clean_up(_within(ctx, _CLEAN_UP_SECONDS))
    except TimeoutError:
        return f"not done within {_CLEAN_UP_SECONDS:g} s"
    except Exception as error:  # noqa: BLE001 - as in carry_out
        return said(f"{type(error).__name__}: {error}")
    ctx.log.info("drill.stepped", step="cleaned")
    return ""


def _within(ctx: SystemContext, seconds: float) -> SystemContext:
    return replace(ctx, deadline_at=ctx.clock.monotonic() + seconds)


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise DrillFailedError(otherwise)
