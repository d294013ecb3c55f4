"""Faults of what an application does: it runs out of memory, or its query dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

from actions.spark_drills import SparkDrill, drill_spec
from actions.spark_masters import Sent
from actions.spark_streams import batch_of
from oncall_agent.contract import PermanentError, SystemContext, Trial
from oncall_agent.models import JsonObject

_GREEDY, _STREAM = "greedy_submission", "stream_submission"
_BATCHES = 3
_LOOK_SECONDS = 5.0
_STILL_SECONDS = 5.0


class OutOfMemory(SparkDrill):
    """An application whose executor is ended for want of memory."""

    key = _GREEDY
    spec = drill_spec(
        "executor_out_of_memory",
        "spark.retry_with_resources",
        "high_memory_response",
        "A sandbox application loses its executor, which ran out of memory.",
        _GREEDY,
    )

    def params(self) -> JsonObject:
        """Twice the memory is enough."""
        return {"memory_factor": 2.0, "until": "finished"}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Submit the sandbox and wait until the history server knows how it ended."""
        if not self.cluster.history:
            raise PermanentError("backends.spark.history_url is not set: nothing would show what it lacked")
        await self.submit(ctx)
        await self.until(ctx, self._has_failed, "the application to run out of memory")

    async def sickness(self, ctx: SystemContext) -> str:
        """Ask the history server how the last run that this drill brought about ended."""
        if not self.sent:
            return ""
        losses = await self._losses(ctx)
        if losses is None:
            return "the application has not ended yet"
        return losses[0] if losses else ""

    async def _has_failed(self, ctx: SystemContext) -> bool:
        sent: Sent = await self.cluster.master.sent(ctx.seconds_left, self.sent[-1])
        if sent.has_succeeded:
            raise PermanentError(f"{self.what.app_name} did not run out of memory: give it more entries")
        return sent.is_over and bool(await self._losses(ctx))

    async def _losses(self, ctx: SystemContext) -> tuple[str, ...] | None:
        pages, history = self.cluster.pages, self.cluster.history
        last = await pages.ended(ctx.seconds_left, history, self.what.app_name)
        return None if last is None else await pages.losses(ctx.seconds_left, history, last)


class DeadStream(SparkDrill):
    """A streaming application whose query has died while it runs on."""

    key = _STREAM
    spec = drill_spec(
        "dead_stream",
        "spark.restart_streaming",
        "dead_stream",
        "The query of a sandbox application fails, and the application stays behind without it.",
        _STREAM,
    )

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._batch, self._since, self._is_broken = -1, 0.0, False

    def params(self) -> JsonObject:
        """A few seconds of progress are enough."""
        return {"stable_seconds": 1.0}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Submit the sandbox, let it take some batches, and wait until it stands still."""
        self._is_broken = True
        before = await self._newest()
        await self.submit(ctx, str(_BATCHES))

        async def has_stopped(ctx: SystemContext) -> bool:
            is_sick = bool(await self.sickness(ctx))
            return is_sick and self._batch >= before + _BATCHES

        await self.until(ctx, has_stopped, "the query to die")

    async def sickness(self, ctx: SystemContext) -> str:
        """Look at the checkpoint: a query that lives begins a batch a second."""
        if not self._is_broken:
            return ""
        await self._look(ctx)
        still = ctx.clock.monotonic() - self._since
        return f"no batch has begun for {still:.0f} s" if still > _STILL_SECONDS else ""

    async def _look(self, ctx: SystemContext) -> None:
        newest = await self._newest()
        if newest != self._batch:
            self._batch, self._since = newest, ctx.clock.monotonic()

    async def _newest(self) -> int:
        checkpoint = self.what.checkpoint
        if not checkpoint:
            raise PermanentError(f"the submission {self.sandbox[self.key]} names no checkpoint")
        try:
            return await asyncio.wait_for(asyncio.to_thread(batch_of, Path(checkpoint)), _LOOK_SECONDS)
        except OSError:
            return -1
