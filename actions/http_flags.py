"""Feature flags of a declared flag service."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.http_declared import Flag
from actions.http_executor import HttpExecutor, declared
from actions.http_templates import Scalar, same
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
)
from oncall_agent.models import JsonObject


class ToggleParams(Params):
    """Which flag, and its new value."""

    flag: str = Field(min_length=1, max_length=64)
    """A name under `backends.http.flags`."""
    value: Scalar
    """One of the flag's values."""


class ToggleFlag(HttpExecutor):
    """Sets a flag; rollback sets what it was."""

    spec = ActionSpec(
        id="http.toggle_flag",
        summary="Set a feature flag that the operator has declared.",
        target_kind="*",
        params=ToggleParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=45.0,
        cost=0.05,
        family="call",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, Any] = LRUCache(8192)

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the first flag can be read."""
        for flag in self.conf.flags.values():
            value = await self.look(ctx, flag.read, flag.secret_headers)
            return Check(ok=True, reason=f"{len(self.conf.flags)} flags", facts={"value": value})
        return Check(ok=True, reason="no flags")

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the flag's value."""
        flag = declared(self.conf.flags, ctx.params.flag, "flag")
        return {"value": await self.look(ctx, flag.read, flag.secret_headers)}

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse flags and values that are not declared, and a flag that has the value."""
        if ctx.target.protected:
            return Check(ok=False, reason="the target is protected")
        try:
            flag = self._flag(ctx)
        except PermanentError as error:
            return Check(ok=False, reason=error.message)
        before = await self.look(ctx, flag.read, flag.secret_headers)
        facts = {"flag": ctx.params.flag, "before": before, "wanted": ctx.params.value}
        if same(before, ctx.params.value):
            return Check(ok=False, reason="the flag has that value", facts=facts)
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set it, unless it is set."""
        flag = self._flag(ctx)
        now = await self.look(ctx, flag.read, flag.secret_headers)
        facts: dict[str, Any] = {"flag": ctx.params.flag, "wanted": ctx.params.value, "before": now}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if not same(now, ctx.params.value):
            self._before.setdefault(ctx.idempotency_key, now)
            await self._write(ctx, flag, ctx.params.value, ctx.idempotency_key)
        # None: a former process set it, and what was before stands with that attempt's precheck.
        return Receipt(
            self.spec.id, ctx.clock.now(), {**facts, "before": self._before.get(ctx.idempotency_key)}
        )

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Read it back, and ask for the symptom where one is declared."""
        flag = self._flag(ctx)

        async def change() -> Check:
            now = await self.look(ctx, flag.read, flag.secret_headers)
            ok = same(now, ctx.params.value)
            return Check(ok=ok, reason="" if ok else f"the flag is {now!r}", facts={"value": now})

        return await self.settled(ctx, change, flag.symptom, flag.secret_headers)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set what it was."""
        flag, before = self._flag(ctx), receipt.facts.get("before")
        if before is None:
            return Check(ok=False, reason="what the flag was is not known")
        now = await self.look(ctx, flag.read, flag.secret_headers)
        if not same(now, before):
            await self._write(ctx, flag, before, f"{ctx.idempotency_key}-undo")
            now = await self.look(ctx, flag.read, flag.secret_headers)
        ok = same(now, before)
        return Check(ok=ok, reason="" if ok else f"the flag is {now!r}", facts={"value": now})

    async def _write(self, ctx: ActionContext, flag: Flag, value: Any, key: str) -> None:
        answer = await self.send(ctx, flag.write, flag.secret_headers, {"value": value}, key=key)
        answer.check(flag.write.expect_status)

    def _flag(self, ctx: ActionContext) -> Flag:
        flag = declared(self.conf.flags, ctx.params.flag, "flag")
        if not any(same(ctx.params.value, value) for value in flag.values):
            raise PermanentError("the flag may not have that value")
        return flag
