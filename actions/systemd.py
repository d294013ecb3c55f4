"""systemd units: restart, and clearing the failed state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.systemd_bus import Bus, MissingUnitError
from actions.systemd_journal import last_lines, starts_since
from actions.systemd_units import (
    DENIED,
    KIND,
    Unit,
    is_given_up,
    judge,
    name_of,
    objection,
    own_unit,
    unit_of,
)
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Executor,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    TransientError,
    held,
)
from oncall_agent.models import JsonObject

_HOUR_SECONDS = 3_600.0
_UNIT = "org.freedesktop.systemd1.Unit"
_SERVICE = "org.freedesktop.systemd1.Service"
_MODE = "fail"
"""Never replaces what somebody else has asked systemd to do with the unit."""


class UnitParams(Params):
    """How long the unit must be well."""

    stable_seconds: float = Field(10.0, ge=0, le=600)
    """Without a break: longer than the unit needs to crash again."""


class RestartParams(UnitParams):
    """How to restart."""

    reset: bool = False
    """Clear the failed state and the start counter first, so that a start limit does not stand in the way."""


async def read_unit(bus: Bus, name: str, seconds: float) -> Unit:
    """Ask systemd for a unit; one that is not loaded is looked up on disk."""
    path = (await bus.manager(seconds, "LoadUnit", "s", name))[0]
    properties = await bus.properties(seconds, path, _UNIT)
    return unit_of(properties, await bus.properties(seconds, path, _SERVICE))


class UnitExecutor(Executor):
    """What both actions share: the bus, the unit, its objections and its diagnostics."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.bus = Bus(settings)
        self._denied = (*DENIED, *self.bus.settings.protected, own_unit() or DENIED[0])

    async def __aexit__(self, *_: object) -> None:
        self.bus.close()

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether systemd answers on the bus."""
        try:
            found = await self.bus.properties(
                ctx.seconds_left, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
            )
        except (TransientError, PermanentError) as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True, reason=f"systemd {found.get('Version')}")

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the unit's state and its last lines in the journal."""
        name = name_of(ctx.target)
        found: dict[str, Any] = {}
        try:
            found["unit"] = (await self.read(ctx)).as_facts()
        except (TransientError, PermanentError) as error:
            found["reason"] = error.message
        lines = await last_lines(self.bus.settings, name, ctx.seconds_left)
        return {**found, "journal": "can't be read from here" if lines is None else lines}

    async def read(self, ctx: ActionContext) -> Unit:
        """Give the target's unit as it is now."""
        return await read_unit(self.bus, name_of(ctx.target), ctx.seconds_left)

    async def objected(self, ctx: ActionContext) -> tuple[Unit | None, str]:
        """Give the unit and why it may not be touched: absent, protected, not listed, busy."""
        try:
            unit = await self.read(ctx)
        except MissingUnitError as error:
            return None, error.message
        reason = objection(unit, self.bus.settings.units, self._denied)
        return unit, "the target is protected" if ctx.target.protected else reason

    async def until(self, ctx: ActionContext, judged: Callable[[Unit], Check]) -> Check:
        """Poll until the unit was as wanted for `stable_seconds`."""

        async def sample() -> Check:
            try:
                return judged(await self.read(ctx))
            except (TransientError, PermanentError) as error:
                return Check(ok=False, reason=error.message)

        hold = ctx.params.stable_seconds
        return await held(
            ctx, sample, hold_seconds=hold, within_seconds=ctx.seconds_left, interval_seconds=0.25
        )


class RestartUnit(UnitExecutor):
    """Restarts a service that failed, hangs or misbehaves."""

    spec = ActionSpec(
        id="systemd.restart_unit",
        summary="Restart a systemd service.",
        target_kind=KIND,
        params=RestartParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="a restart can't be taken back; the unit runs as it is configured",
        deadline_seconds=180.0,
        cost=0.05,
        family="restart",
        exemptions={
            "rollback_restores": "a restart can't be taken back",
            "secrets_redacted": "it is given no secret",
        },
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        # Attempt -> invocation before it: tells a repeat in this process that the first call came through.
        self._before: LRUCache[str, str] = LRUCache(4096)
        self._ours: LRUCache[str, tuple[float, ...]] = LRUCache(1024)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse units that are absent, protected, not listed, busy, at their start limit or started too often."""
        unit, reason = await self.objected(ctx)
        if unit is None or reason:
            return Check(ok=False, reason=reason)
        starts = await self._starts(ctx, unit)
        facts = {**unit.as_facts(), "invocation_before": unit.invocation, "starts_within_an_hour": starts}
        if is_given_up(unit, ctx.clock.now()) and not ctx.params.reset:
            reason = "the unit has run into its start limit: its failed state must be cleared first"
        elif starts > self.bus.settings.max_restarts_per_hour:
            reason = f"started {starts} times within an hour"
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Restart it, unless it was started since the attempt began."""
        unit, reason = await self.objected(ctx)
        known = self._before.get(ctx.idempotency_key)
        if unit is not None and _is_done(unit, known, ctx.started_at):
            facts = {"already": True, **({"invocation_before": known} if known else {})}
            return Receipt(self.spec.id, ctx.clock.now(), facts)
        if unit is None or reason:
            raise PermanentError(reason)
        facts = {"unit": unit.id, "invocation_before": unit.invocation}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        self._before[ctx.idempotency_key] = unit.invocation
        if unit.active == "failed" and ctx.params.reset:
            await self.bus.manager(ctx.seconds_left, "ResetFailedUnit", "s", unit.id)
        await self.bus.manager(ctx.seconds_left, "RestartUnit", "ss", unit.id, _MODE)
        self._ours[unit.id] = (*self._ours.get(unit.id, ())[-50:], ctx.clock.now())
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it was started anew and this very run has gone on for `stable_seconds`."""
        before, last = receipt.facts.get("invocation_before"), ""

        def judged(unit: Unit) -> Check:
            nonlocal last
            check, is_same = judge(unit, invocation_before=before), unit.invocation == last or not last
            last = unit.invocation
            return (
                check
                if is_same or not check.ok
                else Check(ok=False, reason="the unit keeps crashing", facts=check.facts)
            )

        return await self.until(ctx, judged)

    async def _starts(self, ctx: ActionContext, unit: Unit) -> int:
        """Count the starts of the last hour: by the journal, else by what systemd and this process remember."""
        since = ctx.clock.now() - _HOUR_SECONDS
        counted = await starts_since(self.bus.settings, unit.id, since, ctx.seconds_left)
        ours = sum(at >= since for at in self._ours.get(unit.id, ()))
        remembered = ours + (unit.restarts if unit.began_at >= since else 0)
        return max(remembered, counted or 0)


def _is_done(unit: Unit, known: str | None, started_at: float) -> bool:
    """Say whether a former call of this attempt came through; systemd's own restarts do not count."""
    if known is not None:
        return unit.invocation != known or unit.is_busy
    return unit.restarts == 0 and unit.active in ("active", "activating") and unit.began_at > started_at


class ResetFailed(UnitExecutor):
    """Clears the failed state, so that the unit may be started again and no longer counts as failed."""

    spec = ActionSpec(
        id="systemd.reset_failed",
        summary="Clear the failed state and the start counter of a systemd service.",
        target_kind=KIND,
        params=UnitParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="the record of the failure stays in the journal only",
        deadline_seconds=60.0,
        cost=0.02,
        family="other",
        exemptions={
            "rollback_restores": "a cleared failed state can't be put back; the journal keeps the failure",
            "secrets_redacted": "it is given no secret",
        },
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a unit that has not failed, and those that may not be touched."""
        unit, reason = await self.objected(ctx)
        if unit is None or reason:
            return Check(ok=False, reason=reason)
        if unit.active != "failed":
            reason = f"the unit is {unit.active}, not failed"
        return Check(ok=not reason, reason=reason, facts=unit.as_facts())

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Clear it; a unit that is not failed is left alone."""
        unit, reason = await self.objected(ctx)
        if unit is None or reason:
            raise PermanentError(reason)
        facts = {"unit": unit.id, "result_before": unit.result}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if unit.active == "failed":
            await self.bus.manager(ctx.seconds_left, "ResetFailedUnit", "s", unit.id)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the unit is no longer failed and stays so."""

        def judged(unit: Unit) -> Check:
            ok = unit.active != "failed"
            return Check(
                ok=ok, reason="" if ok else f"the unit has failed ({unit.result})", facts=unit.as_facts()
            )

        return await self.until(ctx, judged)
