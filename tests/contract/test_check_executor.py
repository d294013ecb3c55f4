"""The contract test must fail every executor that breaks its rules: each here breaks one, on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Executor,
    PermanentError,
    Receipt,
    RiskClass,
    Target,
    held,
)
from oncall_agent.testing import FakeClock, Harness, check_executor

SECRET = "hunter2-Qq"


@dataclass
class World:
    """A lamp that can be off; every press of the switch is counted."""

    is_on: bool = False
    presses: int = 0
    keys: set[str] = field(default_factory=set)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answers.set()


class Lamp(Executor):
    """Keeps every rule."""

    spec = ActionSpec(
        "lamp.switch_on", "Switch it on.", "lamp", RiskClass.R1, reversible=True, deadline_seconds=5.0
    )

    def __init__(self, world: World) -> None:
        super().__init__({})
        self.world = world

    async def precheck(self, ctx: ActionContext) -> Check:
        return Check(ok=not self.world.is_on)

    async def execute(self, ctx: ActionContext) -> Receipt:
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), planned=True)
        await self.press(ctx)
        return Receipt(self.spec.id, ctx.clock.now(), {"was_on": False})

    async def press(self, ctx: ActionContext) -> None:
        async with asyncio.timeout(ctx.seconds_left):
            await self.world.answers.wait()
        if ctx.idempotency_key not in self.world.keys:
            self.world.keys.add(ctx.idempotency_key)
            self.world.is_on, self.world.presses = True, self.world.presses + 1

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        async def sample() -> Check:
            return Check(ok=self.world.is_on, reason="" if self.world.is_on else "it is dark")

        return await held(ctx, sample, hold_seconds=1.0, within_seconds=ctx.seconds_left)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        self.world.is_on = False
        return Check(ok=True)


class ActsTwice(Lamp):
    async def press(self, ctx: ActionContext) -> None:
        self.world.is_on, self.world.presses = True, self.world.presses + 1


class ForgetsAtRestart(Lamp):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.keys: set[str] = set()

    async def press(self, ctx: ActionContext) -> None:
        if ctx.idempotency_key not in self.keys:
            self.keys.add(ctx.idempotency_key)
            self.world.is_on, self.world.presses = True, self.world.presses + 1


class AlwaysContent(Lamp):
    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        return Check(ok=True)


class NeverContent(Lamp):
    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        return Check(ok=False, reason="never")


class IgnoresDryRun(Lamp):
    async def execute(self, ctx: ActionContext) -> Receipt:
        await self.press(ctx)
        return Receipt(self.spec.id, ctx.clock.now(), planned=ctx.dry_run)


class PlansUnmarked(Lamp):
    async def execute(self, ctx: ActionContext) -> Receipt:
        if not ctx.dry_run:
            await self.press(ctx)
        return Receipt(self.spec.id, ctx.clock.now())


class PrecheckActs(Lamp):
    async def precheck(self, ctx: ActionContext) -> Check:
        self.world.presses += 1
        return Check(ok=True)


class LeaksIntoReceipt(Lamp):
    async def execute(self, ctx: ActionContext) -> Receipt:
        receipt = await super().execute(ctx)
        return Receipt(receipt.action, receipt.at, {"url": f"http://user:{SECRET}@lamp"}, receipt.planned)


class LeaksIntoLog(Lamp):
    async def press(self, ctx: ActionContext) -> None:
        ctx.log.info("lamp.switched", token=SECRET)
        await super().press(ctx)


class LeaksIntoError(Lamp):
    async def press(self, ctx: ActionContext) -> None:
        try:
            await super().press(ctx)
        except TimeoutError as error:
            raise PermanentError(f"no answer with {SECRET}") from error


class HangsForever(Lamp):
    async def press(self, ctx: ActionContext) -> None:
        await self.world.answers.wait()
        await super().press(ctx)


class VerifiesForever(Lamp):
    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        for _ in range(100):
            if self.world.is_on:
                return Check(ok=True)
            await ctx.clock.sleep(10.0)
        return Check(ok=False, reason="it is dark")


class RestoresNothing(Lamp):
    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        return Check(ok=True)


class TogglesBack(Lamp):
    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        self.world.is_on = not self.world.is_on
        return Check(ok=True)


class Exempt(RestoresNothing):
    spec = ActionSpec(
        "lamp.blow_up",
        "Once.",
        "lamp",
        RiskClass.R3,
        reversible=False,
        deadline_seconds=5.0,
        exemptions={"rollback_restores": "it is gone"},
    )


class ExemptFromNothing(Lamp):
    spec = ActionSpec(
        "lamp.excuse",
        "With an excuse that is no rule.",
        "lamp",
        RiskClass.R1,
        reversible=True,
        deadline_seconds=5.0,
        exemptions={"works": "no time"},
    )


def harness(kind: Callable[[World], Executor]) -> Harness:
    world = World()

    async def make_sick() -> None:
        world.is_on = False

    async def effects() -> int:
        return world.presses

    async def snapshot() -> Any:
        return world.is_on

    async def hang() -> None:
        world.answers.clear()

    async def release() -> None:
        world.answers.set()

    return Harness(
        factory=lambda: kind(world),
        target=Target("hall", "lamp"),
        make_sick=make_sick,
        count_effects=effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=SECRET,
        clock=FakeClock(),
        deadline_seconds=0.05,
    )


async def test_an_executor_that_keeps_every_rule_passes() -> None:
    scorecard = await check_executor(harness(Lamp))
    assert {result.status for result in scorecard.rules.values()} == {"done"}, str(scorecard)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("idempotent", ActsTwice),
        ("idempotent", ForgetsAtRestart),
        ("verify_fails_when_sick", AlwaysContent),
        ("verify_fails_when_sick", NeverContent),
        ("dry_run", IgnoresDryRun),
        ("dry_run", PlansUnmarked),
        ("dry_run", PrecheckActs),
        ("secrets_redacted", LeaksIntoReceipt),
        ("secrets_redacted", LeaksIntoLog),
        ("secrets_redacted", LeaksIntoError),
        ("deadline_honoured", HangsForever),
        ("deadline_honoured", VerifiesForever),
        ("rollback_restores", RestoresNothing),
        ("rollback_restores", TogglesBack),
        ("exemptions", ExemptFromNothing),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_wrong_executor_fails_its_rule(rule: str, kind: type[Executor]) -> None:
    scorecard = await check_executor(harness(kind))
    assert rule in scorecard.failures, str(scorecard)
    assert not scorecard.ok


async def test_an_exemption_stands_with_its_reason() -> None:
    scorecard = await check_executor(harness(Exempt))
    assert scorecard.ok, str(scorecard)
    assert (scorecard.rules["rollback_restores"].status, scorecard.rules["rollback_restores"].reason) == (
        "exempt",
        "it is gone",
    )


async def test_a_harness_without_a_secret_proves_nothing_of_secrets() -> None:
    world = harness(Lamp)
    scorecard = await check_executor(Harness(**{**world.__dict__, "secret": ""}))
    assert "secrets_redacted" in scorecard.failures


async def test_the_scorecard_is_shown_as_it_is_returned() -> None:
    shown: list[str] = []
    scorecard = await check_executor(harness(Lamp), show=shown.append)
    assert shown == [str(scorecard)]
