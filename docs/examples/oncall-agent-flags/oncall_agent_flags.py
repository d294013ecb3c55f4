"""Turns a feature flag off: the flags of a service are a JSON file, `{"new-checkout": true}`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import Field

from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Executor,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    held,
)


class FlagParams(Params):
    """Which flag; typed, bounded, and the only thing that a runbook may choose."""

    flag: str = Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")
    hold_seconds: float = Field(2.0, ge=0, le=60)


class TurnOff(Executor):
    """Writes `false` for one flag and keeps what was there."""

    spec = ActionSpec(
        id="flags.turn_off",
        summary="Turn a feature flag off.",
        target_kind="flag_file",
        params=FlagParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=15.0,
        cooldown_seconds=600.0,
        cost=0.1,
        family="rollback",
        exemptions={"secrets_redacted": "it is given no secret"},
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a flag that is unknown or off; the facts are what rollback needs after a crash."""
        flags = await ctx.run_blocking(_read, _path_of(ctx))
        was = flags.get(ctx.params.flag)
        if was is not True:
            return Check(ok=False, reason=f"the flag is {'off' if was is False else 'unknown'}")
        return Check(ok=True, facts={"was": True})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Write once: a second call under the same key finds the flag off and writes nothing."""
        path, flag = _path_of(ctx), ctx.params.flag
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), {"would_turn_off": flag}, planned=True)
        await ctx.run_blocking(_write, path, flag, value=False)
        return Receipt(self.spec.id, ctx.clock.now(), {"was": True})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the flag is off and stays off: somebody else may turn it on again."""

        async def sample() -> Check:
            flags = await ctx.run_blocking(_read, _path_of(ctx))
            is_off = flags.get(ctx.params.flag) is False
            return Check(ok=is_off, reason="" if is_off else "the flag is not off", facts=flags)

        return await held(ctx, sample, hold_seconds=ctx.params.hold_seconds, within_seconds=ctx.seconds_left)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Turn it on again; safe to call twice."""
        await ctx.run_blocking(_write, _path_of(ctx), ctx.params.flag, value=bool(receipt.facts["was"]))
        return Check(ok=True)


def _path_of(ctx: ActionContext) -> Path:
    # From the operator's allow-list, never from an alert or a runbook.
    path = ctx.target.address.get("path")
    if not isinstance(path, str):
        raise PermanentError(f"target {ctx.target.name} has no path")
    return Path(path)


def _read(path: Path) -> dict[str, bool]:
    try:
        flags: dict[str, bool] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PermanentError(f"the flags can't be read: {type(error).__name__}") from error
    return flags


def _write(path: Path, flag: str, *, value: bool) -> None:
    flags = _read(path)
    if flags.get(flag) is value:
        return
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as stream:
        json.dump({**flags, flag: value}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
