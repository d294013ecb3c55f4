"""One run: every configured system side by side, the drills of a system one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from oncall_agent.contract import SCORECARD, ActionContext, Clock, Executor, System, SystemContext, Target
from oncall_agent.errors import ActionError
from oncall_agent.pools import Pools
from oncall_agent.settings.model import Settings
from oncall_agent.validation.drilling import carry_out
from oncall_agent.validation.inspecting import Judged, Sample, inspected, judge, latency, said
from oncall_agent.validation.plan import PlannedDrill, SystemPlan
from oncall_agent.validation.results import (
    ActionStanding,
    Finding,
    Kind,
    Report,
    SystemAnswer,
    Verdict,
)

_INSPECT_SECONDS = 30.0
_PING_SECONDS = 10.0
_SAMPLES = 5
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class World:
    """What a run needs from outside.

    Attributes:
        executors: open, by action id.
        off: action id -> why it can't be used here.
        show: called with each finding as it is made; for the live display.
        new_id: gives ids that sort by time.
    """

    settings: Settings
    config: str
    systems: Mapping[str, System]
    executors: Mapping[str, Executor]
    off: Mapping[str, str]
    pools: Pools
    clock: Clock
    log: Any
    new_id: Callable[[], str]
    show: Callable[[Finding], None] = lambda _: None


@dataclass(slots=True)
class _Gathered:
    findings: list[Finding] = field(default_factory=list)
    answers: list[SystemAnswer] = field(default_factory=list)


class Suite:
    """A planned run; `run` gives its report, also when it was interrupted."""

    def __init__(self, world: World, plans: Sequence[SystemPlan]) -> None:
        self._world, self._plans = world, plans
        self._id = world.new_id()
        self._log = world.log.bind(validation_id=self._id)
        self._got = _Gathered()

    async def run(self, stopping: asyncio.Event | None = None) -> Report:
        """Ask and drill everything planned; end early, with what was found, once `stopping` is set."""
        world = self._world
        started_at = world.clock.now()
        environment = world.settings.validation.environment
        self._log.info("suite.started", environment=environment, systems=[p.name for p in self._plans])
        interrupted = await self._all(stopping or asyncio.Event())
        report = Report(
            id=self._id,
            config=world.config,
            environment=environment,
            started_at=started_at,
            ended_at=world.clock.now(),
            findings=tuple(sorted(self._got.findings, key=lambda found: (found.system, found.id))),
            systems=tuple(sorted(self._got.answers, key=lambda answer: answer.system)),
            interrupted=interrupted,
        )
        report = replace(report, actions=self._standings(report))
        self._log.info("suite.ended", verdict=report.verdict.value, findings=len(report.findings))
        return report

    async def _all(self, stopping: asyncio.Event) -> bool:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(plan: SystemPlan) -> None:
            async with limit:
                await self._system(plan)

        async def everything() -> None:
            async with asyncio.TaskGroup() as group:
                for plan in self._plans:
                    group.create_task(one(plan))

        work, stop = asyncio.ensure_future(everything()), asyncio.ensure_future(stopping.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return True
        work.result()
        return False

    async def _system(self, plan: SystemPlan) -> None:
        system = self._world.systems.get(plan.name)
        if system is None:
            self._note(plan.name, self._began(), self._without_system(plan.name))
            return
        if not await self._asked(system, plan):
            return
        for planned in plan.drills:
            await self._drill(planned)

    def _without_system(self, name: str) -> Judged:
        """Say why a configured system can't be asked: broken here, or nothing knows how to ask it."""
        reason = self._world.off.get(name)
        if reason is None:
            return Judged(Kind.REACHABILITY, Verdict.SKIPPED, "no inspection of this system exists yet")
        return Judged(Kind.REACHABILITY, Verdict.FAILED, said(reason))

    async def _asked(self, system: System, plan: SystemPlan) -> bool:
        check_id, at = self._began()
        ctx = self._context(plan.name, check_id, _INSPECT_SECONDS)
        sample = await inspected(system, ctx, plan.actions)
        if isinstance(sample, Judged):
            self._note(plan.name, (check_id, at), sample)
            return sample.verdict is Verdict.SKIPPED
        answer = sample.inspection
        self._got.answers.append(SystemAnswer(plan.name, answer.product, answer.version, answer.identity))
        await self._judge(plan, sample)
        return True

    async def _judge(self, plan: SystemPlan, sample: Sample) -> None:
        limits = self._world.settings.validation
        for judged in judge(sample, limits):
            self._note(plan.name, self._began(), judged, seconds=sample.seconds)
        began = self._began()
        self._note(plan.name, began, await self._latency(plan, began[0]))

    async def _latency(self, plan: SystemPlan, check_id: str) -> Judged:
        executor = next((self._world.executors[a] for a in plan.actions if a in self._world.executors), None)
        if executor is None:
            return Judged(Kind.LATENCY, Verdict.SKIPPED, "it has no action to ask through")
        clock, seconds = self._world.clock, []
        for _ in range(_SAMPLES):
            began = clock.monotonic()
            try:
                async with asyncio.timeout(_PING_SECONDS):
                    check = await executor.ping(self._ping_context(executor, check_id))
            except (ActionError, TimeoutError) as error:
                return Judged(Kind.LATENCY, Verdict.FAILED, said(str(error) or "no answer in time"))
            if not check.ok:
                return Judged(Kind.LATENCY, Verdict.FAILED, said(check.reason))
            seconds.append(clock.monotonic() - began)
        return latency(seconds, self._world.settings.validation)

    async def _drill(self, planned: PlannedDrill) -> None:
        spec, began = planned.kind.spec, self._began()
        executor = self._world.executors.get(spec.action)
        refusal = planned.refusal
        if not refusal and executor is None:
            refusal = f"{spec.action} is off: {self._world.off.get(spec.action, 'not installed')}"
        if refusal or executor is None:
            self._note(spec.system, began, Judged(Kind.DRILL, Verdict.SKIPPED, said(refusal)), drill=planned)
            return
        settings = self._world.settings
        drill = planned.kind(
            settings.backends.get(spec.system, {}), settings.validation.sandboxes.get(spec.system, {})
        )
        ctx = self._context(spec.system, began[0], spec.deadline_seconds, drill=spec.id)
        drilled = await carry_out(drill, executor, ctx, check_id=began[0])
        judged = Judged(Kind.DRILL, drilled.verdict, drilled.reason, drilled.facts)
        self._note(
            spec.system,
            began,
            judged,
            drill=planned,
            recovery_seconds=drilled.recovery_seconds,
            unproven=executor.spec.unproven,
        )

    def _began(self) -> tuple[str, float]:
        return self._world.new_id(), self._world.clock.now()

    def _note(
        self,
        system: str,
        began: tuple[str, float],
        judged: Judged,
        *,
        drill: PlannedDrill | None = None,
        seconds: float | None = None,
        recovery_seconds: float | None = None,
        unproven: str = "",
    ) -> None:
        check_id, at = began
        found = Finding(
            id=check_id,
            system=system,
            kind=judged.kind,
            name=drill.kind.spec.id if drill else judged.kind.value,
            verdict=judged.verdict,
            reason=judged.reason,
            scenario=drill.kind.spec.scenario if drill else "",
            action=drill.kind.spec.action if drill else "",
            started_at=at,
            seconds=self._world.clock.now() - at if seconds is None else seconds,
            recovery_seconds=recovery_seconds,
            unproven=unproven,
            facts=judged.facts,
        )
        self._got.findings.append(found)
        self._log.info(
            "suite.checked",
            check_id=check_id,
            system=system,
            name=found.name,
            verdict=found.verdict.value,
            reason=found.reason,
            seconds=round(found.seconds, 3),
        )
        self._world.show(found)

    def _context(self, system: str, check_id: str, seconds: float, **bound: Any) -> SystemContext:
        world = self._world
        return SystemContext(
            clock=world.clock,
            log=self._log.bind(check_id=check_id, system=system, **bound),
            deadline_at=world.clock.monotonic() + seconds,
            run_blocking=world.pools.of(system).run,
        )

    def _ping_context(self, executor: Executor, check_id: str) -> ActionContext:
        ctx = self._context(executor.spec.system, check_id, _PING_SECONDS)
        return ActionContext(
            target=Target(name="unknown", kind=executor.spec.target_kind),
            params=None,
            idempotency_key=check_id,
            attempt_id=check_id,
            started_at=ctx.clock.now(),
            deadline_at=ctx.deadline_at,
            clock=ctx.clock,
            log=ctx.log,
            run_blocking=ctx.run_blocking,
        )

    def _standings(self, report: Report) -> tuple[ActionStanding, ...]:
        drills = {found.action: found.verdict for found in report.findings if found.kind is Kind.DRILL}
        specs = [
            self._world.executors[action].spec
            for plan in self._plans
            for action in plan.actions
            if action in self._world.executors
        ]
        return tuple(
            ActionStanding(
                spec.id,
                drills.get(spec.id),
                spec.unproven,
                {rule: spec.exemptions.get(rule, "done") for rule in SCORECARD},
            )
            for spec in specs
        )
