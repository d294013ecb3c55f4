"""Faults of applications that the drills submit themselves, from submissions that the operator names."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar

from actions.spark_executor import Cluster
from actions.spark_masters import Application
from actions.spark_settings import APPLICATION, Submission
from oncall_agent.contract import (
    Check,
    Drill,
    DrillSpec,
    PermanentError,
    SystemContext,
    Target,
    TransientError,
    Trial,
)
from oncall_agent.models import JsonObject

_POLL_SECONDS = 0.25
_DEADLINE_SECONDS = 180.0
_STUCK_SECONDS = 1.0


class SparkDrill(Drill):
    """Submits what the operator named for it, under its own name; ends whatever of that name is left."""

    key: ClassVar[str] = "submission"
    """Which of the sandbox's submissions it takes."""

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self.cluster = Cluster(settings)
        self.number = f"drill-{uuid.uuid4().hex[:12]}"
        self._is_open = False
        self.sent: list[str] = []

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Look the submission up; an application of its name that runs already is somebody's own."""
        what = self.what
        await self.cluster.http.session.__aenter__()
        self._is_open = True
        if await self.active(ctx):
            raise PermanentError(f"an application {what.app_name} runs already: name a sandbox of its own")
        await self.make_well(ctx)
        address = {"application": what.app_name, "submission": str(self.sandbox[self.key])}
        return Trial(Target("sandbox", APPLICATION, address=address), self.params())

    async def clean_up(self, ctx: SystemContext) -> None:
        """End every application of the sandbox's name."""
        if not self._is_open:
            return
        try:
            for submission in self.sent:
                await self.cluster.master.withdraw(ctx.seconds_left, submission)
            for one in await self.active(ctx):
                await self.cluster.master.kill(ctx.seconds_left, one)
            await self.until(ctx, self.is_gone, "the sandbox to end")
        finally:
            self._is_open = False
            await self.cluster.http.session.__aexit__(None, None, None)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Ask the cluster."""
        try:
            reason = await self.sickness(ctx)
        except TransientError as error:
            reason = error.message
        return Check(ok=not reason, reason=reason)

    @abstractmethod
    async def sickness(self, ctx: SystemContext) -> str:
        """Give what is wrong with the sandbox, or an empty text."""

    async def make_well(self, ctx: SystemContext) -> None:
        """Bring the sandbox into its healthy state; by default nothing has to run."""

    @abstractmethod
    def params(self) -> JsonObject:
        """Give the action's parameters."""

    @property
    def what(self) -> Submission:
        """The submission that the operator named.

        Raises:
            PermanentError: there is none of that name.
        """
        named = str(self.sandbox.get(self.key, ""))
        found = self.cluster.settings.submissions.get(named)
        if found is None:
            raise PermanentError(
                f"validation.sandboxes.spark.{self.key} names no submission of backends.spark"
            )
        return found

    async def active(self, ctx: SystemContext) -> tuple[Application, ...]:
        """Give the applications of the sandbox's name that have not ended, newest first."""
        found = await self.cluster.master.applications(ctx.seconds_left, self.what.app_name)
        return tuple(one for one in found if not one.is_over)

    async def submit(self, ctx: SystemContext, *more: str) -> str:
        """Submit the sandbox, its arguments followed by these."""
        changed = self.what.model_copy(update={"arguments": (*self.what.arguments, *more)})
        attempt = f"{self.number}-{len(self.sent)}"
        sent = await self.cluster.master.submit(ctx.seconds_left, changed, attempt, {})
        self.sent.append(sent)
        return sent

    async def until(
        self, ctx: SystemContext, is_so: Callable[[SystemContext], Awaitable[bool]], what: str
    ) -> None:
        """Wait until it is so.

        Raises:
            TransientError: it was not, until the deadline.
        """
        while True:
            try:
                if await is_so(ctx):
                    return
            except TransientError:
                # An application's pages come and go while it starts.
                pass
            if ctx.seconds_left <= _POLL_SECONDS:
                raise TransientError(f"waited in vain for {what}")
            await ctx.clock.sleep(_POLL_SECONDS)

    async def old_stages(self, ctx: SystemContext) -> int | None:
        """Give how many stages run for too long; None when no application runs."""
        active = await self.active(ctx)
        if not active:
            return None
        base = await self.cluster.master.ui_of(ctx.seconds_left, active[0])
        found = await self.cluster.pages.running(ctx.seconds_left, base, active[0].id, "stage")
        return sum(ctx.clock.now() - one.began_at > _STUCK_SECONDS for one in found)

    async def runs(self, ctx: SystemContext) -> bool:
        """Say whether an application of the sandbox's name runs."""
        return any(one.state == "RUNNING" for one in await self.active(ctx))

    async def is_gone(self, ctx: SystemContext) -> bool:
        """Say whether none does."""
        return not await self.active(ctx)


def drill_spec(fault: str, action: str, scenario: str, summary: str, key: str = "submission") -> DrillSpec:
    """Give the declaration of a drill whose sandbox is a submission that the operator names."""
    return DrillSpec(
        f"spark.{fault}",
        action,
        scenario,
        summary,
        sandbox="named",
        sandbox_keys=(key,),
        deadline_seconds=_DEADLINE_SECONDS,
    )


class StuckStage(SparkDrill):
    """A stage that does not end by itself."""

    spec = drill_spec(
        "stuck_stage", "spark.kill_job_or_stage", "stuck_stage", "A stage of a sandbox application hangs."
    )

    def params(self) -> JsonObject:
        """Its age is known to be too great."""
        return {"min_seconds": _STUCK_SECONDS, "stable_seconds": 1.0}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Submit the sandbox with its stuck stage."""
        await self.submit(ctx, "stuck")
        await self.until(ctx, self._is_stuck, "the stage to be stuck")

    async def _is_stuck(self, ctx: SystemContext) -> bool:
        return bool(await self.old_stages(ctx))

    async def sickness(self, ctx: SystemContext) -> str:
        """Ask the application's pages."""
        found = await self.old_stages(ctx)
        if found is None:
            return "the application has ended with its stage" if self.sent else ""
        return "a stage is stuck" if found else ""


class RunawayApplication(SparkDrill):
    """An application that does not end in its time."""

    spec = drill_spec(
        "runaway_application",
        "spark.kill_application",
        "runaway_application",
        "A sandbox application runs beyond its time.",
    )

    def params(self) -> JsonObject:
        """Any age is too much."""
        return {"sla_seconds": 0.0, "stable_seconds": 1.0}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Submit the sandbox."""
        await self.submit(ctx)
        await self.until(ctx, self.runs, "the application to run")

    async def sickness(self, ctx: SystemContext) -> str:
        """Ask the master."""
        active = await self.active(ctx)
        return f"{active[0].id} is {active[0].state}" if active else ""


class CrashedApplication(SparkDrill):
    """An application whose driver was ended."""

    spec = drill_spec(
        "crashed_application",
        "spark.resubmit",
        "service_crash_handling",
        "The driver of a sandbox application is ended.",
    )

    def params(self) -> JsonObject:
        """A first step is enough."""
        return {"until": "progress", "stable_seconds": 1.0}

    async def make_well(self, ctx: SystemContext) -> None:
        """Submit the sandbox."""
        await self.submit(ctx)
        await self.until(ctx, self.runs, "the application to run")

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """End its driver."""
        await self.cluster.master.withdraw(ctx.seconds_left, self.sent[-1])
        await self.until(ctx, self.is_gone, "the application to end")

    async def sickness(self, ctx: SystemContext) -> str:
        """Ask the master."""
        return "" if await self.runs(ctx) else "no application of the name runs"
