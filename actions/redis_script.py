"""Redis scripts: end one that keeps the server busy."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.redis_client import KIND, BusyError, Client, Redis
from actions.redis_executor import RedisExecutor, sampled
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    held,
)
from oncall_agent.models import JsonObject


class ScriptParams(Params):
    """What counts as normal again."""

    max_latency_seconds: float = Field(0.1, gt=0, le=5)
    """A PING must not take longer."""
    hold_seconds: float = Field(1.0, ge=0, le=120)


class KillScript(RedisExecutor):
    """Ends a script that has written nothing and lets nobody else in."""

    spec = ActionSpec(
        id="redis.kill_script",
        summary="End a script or function that keeps the server busy and has written nothing.",
        target_kind=KIND,
        params=ScriptParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="a script that has written nothing can simply be run again",
        deadline_seconds=60.0,
        cost=0.02,
        family="kill",
        exemptions={"rollback_restores": "a script that has written nothing can simply be run again"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        # A busy server takes no name: a connection that gives one could not be opened now.
        self.redis = Redis(settings, name="")
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse while no script runs too long; whether it has written, only the server can say."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        said = await self._busy(ctx)
        return Check(ok=bool(said), reason="" if said else "no script keeps the server busy")

    async def execute(self, ctx: ActionContext) -> Receipt:
        """End it once; the server itself refuses when it has written."""
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return Receipt(self.spec.id, ctx.clock.now(), {**known, "already": True})
        said = await self._busy(ctx)
        facts: dict[str, Any] = {"was_busy": bool(said)}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if not said:
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "already": True})
        await self.ask(ctx, _kill_function if "FUNCTION KILL" in said else _kill_script)
        self._done[ctx.idempotency_key] = facts
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether PING answers as quickly as it should."""

        async def sample() -> Check:
            seconds = await self.latency(ctx)
            ok = seconds <= ctx.params.max_latency_seconds
            reason = "" if ok else f"PING takes {seconds:.2f} s"
            return Check(ok=ok, reason=reason, facts={"ping_seconds": round(seconds, 4)})

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    async def _busy(self, ctx: ActionContext) -> str:
        """Give what a busy server says, or an empty text."""
        try:
            await self.latency(ctx, self.redis.place(self.place(ctx).name))
        except BusyError as error:
            return error.message
        return ""


async def _kill_script(client: Client) -> None:
    await _ended(client.script_kill())


async def _kill_function(client: Client) -> None:
    await _ended(client.function_kill())


async def _ended(call: Any) -> None:
    """Await the kill; that nothing runs any more is as good."""
    try:
        await call
    except Exception as error:
        text = str(error)
        if "UNKILLABLE" in text or "write commands" in text:
            raise PermanentError(
                "the script has written: only a restart without saving would end it"
            ) from error
        if "NOTBUSY" not in text and "No scripts in execution" not in text:
            raise
