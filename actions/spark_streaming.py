"""Starting a structured streaming application again from its checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from actions.spark_masters import VERSION_KEY, Application
from actions.spark_settings import APPLICATION, Submission, submission_of
from actions.spark_streams import batch_of, unreadable
from actions.spark_submit import SubmitExecutor
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    RiskClass,
    TransientError,
)
from oncall_agent.models import JsonObject

T = TypeVar("T")
_POLL_SECONDS = 0.5


class StreamParams(Params):
    """What must hold afterwards."""

    until: Literal["progress"] = "progress"
    """A stream never comes to its end."""
    end_running: bool = True
    """End the application first when it still runs, its query being dead."""
    stable_seconds: float = Field(5.0, ge=0, le=600)
    """After its first new batch it must go on for so long."""


class RestartStreaming(SubmitExecutor):
    """Starts a streaming application again from its checkpoint."""

    spec = ActionSpec(
        id="spark.restart_streaming",
        summary="Start a Spark streaming application again from its checkpoint.",
        target_kind=APPLICATION,
        params=StreamParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=300.0,
        cost=0.15,
        family="restart",
    )

    async def plan(self, ctx: ActionContext, what: Submission) -> Mapping[str, Any]:
        """Refuse without a readable checkpoint, or when another version of the code wrote it."""
        if not what.checkpoint:
            raise PermanentError("the submission names no checkpoint")
        reason = await self._look(ctx, unreadable, what)
        if reason:
            raise PermanentError(reason)
        if what.version:
            await self._same_version(ctx, what)
        return {"batch_before": await self._look(ctx, batch_of, what)}

    async def lock(self, ctx: ActionContext) -> str:
        """Let one that runs be ended, when that is wanted."""
        active = await self.active(ctx)
        late = [one for one in active if one.started_at > ctx.started_at]
        blocking = late or (() if ctx.params.end_running and len(active) == 1 else active)
        return f"{blocking[0].id} of that name is {blocking[0].state}" if blocking else ""

    async def make_way(self, ctx: ActionContext) -> None:
        """End the one that runs and wait until it has let go of the checkpoint."""
        for one in await self.active(ctx):
            await self.master.kill(ctx.seconds_left, one)
        while await self.active(ctx):
            if ctx.seconds_left < _POLL_SECONDS:
                raise TransientError("the former run does not end")
            await ctx.clock.sleep(_POLL_SECONDS)

    async def moving(
        self, ctx: ActionContext, application: Application, facts: JsonObject, first: list[int]
    ) -> Check:
        """Say whether its batches advance."""
        what = submission_of(ctx.target, self.cluster.settings)
        batch = await self._look(ctx, batch_of, what) if what else -1
        if not first:
            first.append(batch)
        ok = batch > first[0]
        return Check(
            ok=ok, reason="" if ok else f"its batches stand at {batch}", facts={**facts, "batch": batch}
        )

    async def _same_version(self, ctx: ActionContext, what: Submission) -> None:
        active = await self.active(ctx)
        if active:
            last, base = active[0].id, await self.master.ui_of(ctx.seconds_left, active[0])
            had = await self.pages.properties(ctx.seconds_left, base, last)
        else:
            _, last, had = await self.before(ctx, what)
        wrote = had.get(VERSION_KEY, "")
        if wrote != what.version:
            raise PermanentError(
                f"the checkpoint was written by version {wrote[:80] or 'unknown'} ({last or 'no former run'}), "
                f"not by {what.version}"
            )

    async def _look(self, ctx: ActionContext, question: Callable[[Path], T], what: Submission) -> T:
        """Ask the checkpoint's files; a file server that hangs must not hang the attempt."""
        try:
            async with asyncio.timeout(
                max(0.05, min(ctx.seconds_left, self.cluster.settings.timeout_seconds))
            ):
                return await ctx.run_blocking(question, Path(what.checkpoint))
        except TimeoutError:
            raise TransientError("the checkpoint's files do not answer in time") from None
        except OSError as error:
            raise PermanentError(f"the checkpoint can't be read: {type(error).__name__}") from None
