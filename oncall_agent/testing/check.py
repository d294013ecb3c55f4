"""The contract test: one function per rule of the scorecard, each against a world that can be looked at.

A rule fails by raising `BrokenRuleError`; whatever else an executor raises fails it, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from oncall_agent.contract import SCORECARD, ActionContext, Check, Executor, Receipt
from oncall_agent.errors import ActionError
from oncall_agent.testing.harness import Harness
from oncall_agent.testing.scorecard import RuleResult, Scorecard

_GRACE_SECONDS = 1.0
_PATIENCE_SECONDS = 20.0


class BrokenRuleError(AssertionError):
    """The executor breaks the contract."""


async def check_executor(harness: Harness, *, show: Callable[[str], object] | None = print) -> Scorecard:
    """Give the scorecard of an executor, and show it.

    Args:
        harness: the executor's world.
        show: takes the printed scorecard; None keeps it quiet.

    Example:
        scorecard = await check_executor(harness)
        assert scorecard.ok, scorecard
    """
    spec = harness.factory().spec
    rules = {}
    for name in SCORECARD:
        reason = spec.exemptions.get(name)
        rules[name] = RuleResult("exempt", reason) if reason else await _result(_RULES[name], harness)
    unknown = set(spec.exemptions) - set(SCORECARD)
    if unknown:
        rules["exemptions"] = RuleResult("failed", f"no such rules: {sorted(unknown)}")
    scorecard = Scorecard(spec.id, rules)
    if show is not None:
        show(str(scorecard))
    return scorecard


async def _result(rule: Callable[[Harness], Awaitable[None]], harness: Harness) -> RuleResult:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await rule(harness)
    except BrokenRuleError as error:
        return RuleResult("failed", str(error))
    except Exception as error:  # noqa: BLE001 - foreign code: whatever it raises fails the rule
        return RuleResult("failed", f"{type(error).__name__}: {error}")
    return RuleResult("done")


async def _dry_run(harness: Harness) -> None:
    await harness.make_sick()
    count, world = await harness.count_effects(), await harness.snapshot()
    ctx, _ = harness.context(dry_run=True)
    async with harness.factory() as executor:
        await executor.ping(ctx)
        await executor.diagnose(ctx)
        _expect(isinstance(await executor.precheck(ctx), Check), "precheck gives no Check")
        receipt = await executor.execute(ctx)
        _expect(receipt.planned, "a dry run's receipt must be marked planned")
        await executor.verify(_short(ctx), receipt)
    _expect(await harness.count_effects() == count, "a dry run, or a read-only step, acted")
    _expect(await harness.snapshot() == world, "a dry run, or a read-only step, changed the world")


async def _idempotent(harness: Harness) -> None:
    await harness.make_sick()
    before = await harness.count_effects()
    ctx, _ = harness.context()
    async with harness.factory() as executor:
        _expect((await executor.precheck(ctx)).ok, "precheck refuses the fault that the action mends")
        first = await executor.execute(ctx)
        _expect(not first.planned, "a real execution's receipt is marked planned")
        acted = await harness.count_effects() - before
        # A wait acts never, a page once; everything else has to act.
        _expect(
            acted == 1 or (executor.spec.read_only and acted == 0), f"execute acted {acted} times, not once"
        )
        await executor.execute(ctx)
        count = await harness.count_effects() - before
        _expect(count == acted, "a second execute under the same key acted again")
    async with harness.factory() as other:
        await other.execute(ctx)
        count = await harness.count_effects() - before
        _expect(count == acted, "after a restart, execute under the same key acted again")


async def _verify_fails_when_sick(harness: Harness) -> None:
    await harness.make_sick()
    ctx, _ = harness.context()
    async with harness.factory() as executor:
        receipt = await executor.execute(ctx)
        well = await executor.verify(ctx, receipt)
        _expect(well.ok, f"verify does not see the fix: {well.reason}")
        await harness.make_sick()
        sick = await executor.verify(_short(ctx), receipt)
    _expect(not sick.ok, "verify is content with a sick target")
    _expect(bool(sick.reason), "verify gives no reason")


async def _rollback_restores(harness: Harness) -> None:
    _expect(harness.factory().spec.reversible, "the action is not reversible: declare the exemption")
    await harness.make_sick()
    world = await harness.snapshot()
    ctx, _ = harness.context()
    async with harness.factory() as executor:
        receipt = await executor.execute(ctx)
        _expect(await harness.snapshot() != world, "execute changed nothing that the snapshot shows")
    async with harness.factory() as other:
        for turn in ("rollback", "a second rollback"):
            undone = await other.rollback(ctx, receipt)
            _expect(undone.ok, f"{turn} says: {undone.reason}")
            _expect(await harness.snapshot() == world, f"{turn} does not restore what was before")


async def _deadline_honoured(harness: Harness) -> None:
    await harness.make_sick()
    ctx, _ = harness.context()
    async with harness.factory() as executor:
        receipt = await executor.execute(ctx)
        await harness.make_sick()
        late = _short(ctx, seconds=5.0)
        with suppress(ActionError):  # a last question cut short is a named end, and in time
            await executor.verify(late, receipt)
        over = ctx.clock.monotonic() - late.deadline_at
        _expect(over <= _GRACE_SECONDS, f"verify went on {over:.0f} s beyond the deadline")
        if harness.hang is not None:
            await _hanging(harness, executor)


async def _hanging(harness: Harness, executor: Executor) -> None:
    ctx, _ = harness.context(seconds=harness.deadline_seconds)
    await (harness.hang or harness.make_sick)()
    began = time.monotonic()
    limit = asyncio.timeout(harness.deadline_seconds + _GRACE_SECONDS)
    try:
        async with limit:
            await executor.execute(ctx)
    except (TimeoutError, ActionError):
        _expect(not limit.expired(), "execute hangs with its backend")
    finally:
        if harness.release is not None:
            await harness.release()
    _expect(
        time.monotonic() - began <= harness.deadline_seconds + _GRACE_SECONDS, "execute blocks the event loop"
    )


async def _secrets_redacted(harness: Harness) -> None:
    _expect(bool(harness.secret), "the harness plants no secret: plant one or declare the exemption")
    await harness.make_sick()
    said: list[object] = []
    ctx, log = harness.context()
    async with harness.factory() as executor:
        said += [
            executor,
            await executor.ping(ctx),
            await executor.diagnose(ctx),
            await executor.precheck(ctx),
        ]
        receipt = await executor.execute(ctx)
        said += [receipt, await executor.verify(_short(ctx), receipt)]
        if executor.spec.reversible:
            said.append(await executor.rollback(ctx, receipt))
        said += await _failing(harness, executor, receipt)
    said += [log.lines]
    for one in said:
        _expect(harness.secret not in f"{one!r} {one}", f"the secret stands in {type(one).__name__}")


async def _failing(harness: Harness, executor: Executor, receipt: Receipt) -> list[object]:
    if harness.hang is None:
        return []
    ctx, log = harness.context(seconds=harness.deadline_seconds)
    await harness.make_sick()
    await harness.hang()
    said: list[object] = [log.lines]
    for step in (
        lambda: executor.execute(ctx),
        lambda: executor.precheck(ctx),
        lambda: executor.verify(ctx, receipt),
    ):
        try:
            said.append(await asyncio.wait_for(step(), harness.deadline_seconds + _GRACE_SECONDS))
        except Exception as error:  # noqa: BLE001 - what it says is what is looked at
            said += [str(error), repr(error), repr(error.__cause__), getattr(error, "receipt_facts", None)]
    if harness.release is not None:
        await harness.release()
    return said


def _short(ctx: ActionContext, seconds: float = 20.0) -> ActionContext:
    """Give the context with a deadline soon."""
    return replace(ctx, deadline_at=ctx.clock.monotonic() + seconds)


def _expect(holds: bool, broken: str) -> None:
    if not holds:
        raise BrokenRuleError(broken)


_RULES: dict[str, Callable[[Harness], Awaitable[None]]] = {
    "dry_run": _dry_run,
    "idempotent": _idempotent,
    "verify_fails_when_sick": _verify_fails_when_sick,
    "rollback_restores": _rollback_restores,
    "deadline_honoured": _deadline_honoured,
    "secrets_redacted": _secrets_redacted,
}
