"""The runner turns any ending of an executor into one outcome, and undoes what did not help."""

from __future__ import annotations

import asyncio

import pytest

from oncall_agent import runner
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Executor,
    Receipt,
    RiskClass,
    Secret,
    Target,
)
from oncall_agent.contract.secret import remember
from oncall_agent.errors import PermanentError, TransientError
from oncall_agent.models import OutcomeReason, OutcomeStatus, RollbackStatus
from oncall_agent.testing import FakeClock, RecordingLog


class Scripted(Executor):
    """Does in each step what the test wrote down, and notes the calls."""

    spec = ActionSpec(
        id="test.act",
        summary="For tests.",
        target_kind="*",
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=5.0,
    )

    def __init__(self, **steps):
        super().__init__({})
        self.steps, self.calls = steps, []

    async def _step(self, name, default):
        self.calls.append(name)
        step = self.steps.get(name, default)
        step = step.pop(0) if isinstance(step, list) else step
        if isinstance(step, BaseException):
            raise step
        return await step() if callable(step) else step

    async def precheck(self, ctx):
        return await self._step("precheck", Check(ok=True, facts={"old": 1}))

    async def execute(self, ctx):
        return await self._step("execute", Receipt("test.act", 1.0, {"done": True}))

    async def verify(self, ctx, receipt):
        return await self._step("verify", Check(ok=True, reason="well"))

    async def rollback(self, ctx, receipt):
        self.undone = receipt
        return await self._step("rollback", Check(ok=True))


class Irreversible(Scripted):
    spec = ActionSpec(
        id="test.act",
        summary="For tests.",
        target_kind="*",
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="it is a test",
        deadline_seconds=5.0,
    )


class Journal:
    def __init__(self):
        self.kept = []

    async def keep(self, receipt):
        self.kept.append(receipt)


def context(clock=None, seconds=5.0):
    clock = clock or FakeClock()
    return ActionContext(
        target=Target("t", "k"),
        params=None,
        idempotency_key="key",
        attempt_id="a",
        started_at=clock.now(),
        deadline_at=clock.monotonic() + seconds,
        clock=clock,
        log=RecordingLog(),
    )


async def carry_out(executor, journal=None, may_go_on=lambda: True, ctx=None):
    ctx = ctx or context()
    checked = Check(ok=True, facts={"old": 1})
    return await runner.run(executor, ctx, journal or Journal(), checked=checked, may_go_on=may_go_on)


async def test_a_verified_fix_succeeds_and_its_receipt_is_kept_before_verify():
    journal, executor = Journal(), Scripted()
    outcome = await carry_out(executor, journal)
    assert (outcome.status, outcome.reason) == (OutcomeStatus.SUCCEEDED, OutcomeReason.VERIFIED)
    assert [receipt.facts for receipt in journal.kept] == [{"done": True}]
    assert executor.calls == ["execute", "verify"]


@pytest.mark.parametrize(
    ("steps", "reason", "rollback"),
    [
        pytest.param(
            {"verify": Check(ok=False, reason="still sick")},
            OutcomeReason.VERIFY_FAILED,
            RollbackStatus.DONE,
            id="not-healed-is-undone",
        ),
        pytest.param(
            {"verify": Check(ok=False), "rollback": Check(ok=False)},
            OutcomeReason.VERIFY_FAILED,
            RollbackStatus.FAILED,
            id="undo-fails",
        ),
        pytest.param(
            {"execute": PermanentError("no such thing")},
            OutcomeReason.PERMANENT_ERROR,
            RollbackStatus.NOT_NEEDED,
            id="untouched-needs-no-undo",
        ),
        pytest.param(
            {"execute": PermanentError("half", receipt_facts={"step": 1})},
            OutcomeReason.PERMANENT_ERROR,
            RollbackStatus.DONE,
            id="half-done-is-undone",
        ),
        pytest.param(
            {"execute": ZeroDivisionError("bug")},
            OutcomeReason.UNEXPECTED_ERROR,
            RollbackStatus.DONE,
            id="a-bug-in-execute-is-undone-by-the-snapshot",
        ),
        pytest.param(
            {"execute": [TransientError("away") for _ in range(runner.MAX_TRIES)]},
            OutcomeReason.TRANSIENT_EXHAUSTED,
            RollbackStatus.NOT_NEEDED,
            id="backend-stays-away",
        ),
        pytest.param(
            {"verify": Check(ok=False), "rollback": RuntimeError("boom")},
            OutcomeReason.VERIFY_FAILED,
            RollbackStatus.FAILED,
            id="undo-raises",
        ),
    ],
)
async def test_every_failure_is_one_outcome(steps, reason, rollback):
    outcome = await carry_out(Scripted(**steps))
    assert (outcome.status, outcome.reason, outcome.rollback) == (OutcomeStatus.FAILED, reason, rollback)


async def test_transient_errors_are_repeated_inside_the_deadline():
    executor = Scripted(execute=[TransientError("away"), Receipt("test.act", 1.0)])
    outcome = await carry_out(executor)
    assert (outcome.status, outcome.retries) == (OutcomeStatus.SUCCEEDED, 1)


async def test_a_wait_longer_than_the_deadline_is_not_waited_for():
    clock = FakeClock()
    executor = Scripted(execute=TransientError("later", retry_after_seconds=60.0))
    outcome = await carry_out(executor, ctx=context(clock))
    assert (outcome.reason, clock.monotonic()) == (OutcomeReason.TRANSIENT_EXHAUSTED, 0.0)


async def test_an_irreversible_fix_that_did_not_help_stays_and_says_so():
    outcome = await carry_out(Irreversible(verify=Check(ok=False)))
    assert outcome.rollback is RollbackStatus.IMPOSSIBLE


async def test_a_hanging_execute_ends_at_the_deadline_and_is_undone_by_the_snapshot():
    async def hang():
        await asyncio.Event().wait()

    executor = Scripted(execute=hang)
    outcome = await carry_out(executor, ctx=context(seconds=0.01))
    assert (outcome.reason, outcome.rollback) == (OutcomeReason.DEADLINE, RollbackStatus.DONE)
    assert executor.undone.facts == {"old": 1}


async def test_the_kill_switch_before_execute_touches_nothing():
    executor = Scripted()
    outcome = await carry_out(executor, may_go_on=lambda: False)
    assert (outcome.status, outcome.receipt, executor.calls) == (OutcomeStatus.INTERRUPTED, None, [])


async def test_the_kill_switch_after_execute_leaves_the_receipt_for_verification_and_undoes_nothing():
    answers = iter([True, False])
    executor = Scripted()
    outcome = await carry_out(executor, may_go_on=lambda: next(answers))
    assert (outcome.status, executor.calls) == (OutcomeStatus.INTERRUPTED, ["execute"])
    assert outcome.receipt is not None


async def test_cancellation_is_the_only_thing_raised():
    async def hang():
        await asyncio.Event().wait()

    running = asyncio.create_task(carry_out(Scripted(execute=hang)))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_planned_receipt_ends_without_verify():
    executor = Scripted(execute=Receipt("test.act", 1.0, planned=True))
    outcome = await carry_out(executor)
    assert (outcome.status, executor.calls) == (OutcomeStatus.PLANNED, ["execute"])


@pytest.mark.parametrize(
    ("answer", "ok", "word"),
    [
        pytest.param(Check(ok=True, instances=1), True, "", id="fits"),
        pytest.param(Check(ok=True, instances=3), False, "3 instances", id="too-many-instances"),
        pytest.param(Check(ok=False, reason="protected"), False, "protected", id="refused"),
        pytest.param(RuntimeError("boom"), False, "boom", id="raises"),
        pytest.param(PermanentError("gone"), False, "gone", id="permanent"),
    ],
)
async def test_a_precheck_is_a_yes_only_if_it_says_so(answer, ok, word):
    check = await runner.precheck(Scripted(precheck=answer), context(), max_instances=1, within_seconds=1.0)
    assert check.ok is ok
    assert word in check.reason


async def test_a_precheck_that_hangs_is_a_no():
    async def hang():
        await asyncio.Event().wait()

    check = await runner.precheck(Scripted(precheck=hang), context(), max_instances=1, within_seconds=0.01)
    assert (check.ok, "did not end" in check.reason) == (False, True)


async def test_recovery_verifies_and_never_executes():
    executor = Scripted()
    check = await runner.recover(executor, context(), Receipt("test.act", 1.0, partial=True))
    assert (check.ok, executor.calls) == (True, ["verify"])


async def test_secrets_never_reach_the_outcome():
    remember(Secret("hunter2-hunter2"))
    executor = Scripted(
        execute=Receipt("test.act", 1.0, {"url": ["http://hunter2-hunter2@host"]}),
        verify=Check(ok=False, reason="hunter2-hunter2 was wrong", facts={"k": "hunter2-hunter2"}),
    )
    outcome = await carry_out(executor)
    assert "hunter2" not in repr(outcome)


async def test_evidence_is_bounded():
    check = await runner.recover(
        Scripted(verify=Check(ok=True, facts={"log": "x" * 100_000})), context(), Receipt("test.act", 1.0)
    )
    assert len(str(check.facts)) < runner.MAX_FACTS
