"""Faults on a sandbox unit: `config/systemd/oncall-agent-sandbox.service`, or one that behaves like it.

The unit reads its mode from a file, the gate, several times a second; the drill writes there. So a drill needs
no right on the bus that the actions do not need.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from actions.systemd import read_unit
from actions.systemd_bus import Bus
from actions.systemd_units import KIND, START_LIMIT, Unit, is_given_up, judge, name_of
from oncall_agent.contract import Check, Drill, DrillSpec, PermanentError, SystemContext, Target, Trial
from oncall_agent.models import JsonObject

_KEYS = ("unit", "gate")
_POLL_SECONDS = 0.05


class SandboxDrill(Drill):
    """What the three drills share: the sandbox unit, its gate, and waiting for what the gate asked for."""

    mode: ClassVar[str]
    result: ClassVar[str]
    params: ClassVar[JsonObject] = {"stable_seconds": 2.0}

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._bus = Bus(settings)

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Look the sandbox unit up, and start it when it stands still."""
        missing = [key for key in _KEYS if not isinstance(self.sandbox.get(key), str)]
        if missing:
            raise PermanentError(f"name the sandbox: {', '.join(missing)} (see the page on systemd)")
        target = Target("sandbox", KIND, address={"unit": self.sandbox["unit"]})
        name_of(target)
        await self._set(ctx, "ok")
        await self._revive(ctx)
        check = judge(await self._read(ctx))
        if not check.ok:
            raise PermanentError(f"the sandbox must be well before the drill: {check.reason}")
        return Trial(target, self.params, {"unit": self.sandbox["unit"]})

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Ask for the fault, wait until systemd has seen it, and let the next start succeed."""
        await self._set(ctx, self.mode)
        try:
            while not self._is_broken(await self._read(ctx)):
                if ctx.seconds_left <= 0:
                    raise PermanentError(f"the sandbox did not come to {self.result}")
                await ctx.clock.sleep(_POLL_SECONDS)
        finally:
            await self._set(ctx, "ok")

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether the unit runs."""
        return judge(await self._read(ctx))

    async def clean_up(self, ctx: SystemContext) -> None:
        """Leave the unit running, as it was found; it is the operator's own."""
        if all(isinstance(self.sandbox.get(key), str) for key in _KEYS):
            await self._set(ctx, "ok")
            await self._revive(ctx)
        self._bus.close()

    async def _revive(self, ctx: SystemContext) -> None:
        unit = await self._read(ctx)
        if unit.load != "loaded" or judge(unit).ok:
            return
        if unit.active == "failed":
            await self._bus.manager(ctx.seconds_left, "ResetFailedUnit", "s", unit.id)
        await self._bus.manager(ctx.seconds_left, "RestartUnit", "ss", unit.id, "replace")
        while not judge(await self._read(ctx)).ok and ctx.seconds_left > 0:
            await ctx.clock.sleep(_POLL_SECONDS)

    def _is_broken(self, unit: Unit) -> bool:
        return unit.active == "failed" and unit.result == self.result

    async def _read(self, ctx: SystemContext) -> Unit:
        return await read_unit(self._bus, str(self.sandbox["unit"]), ctx.seconds_left)

    async def _set(self, ctx: SystemContext, mode: str) -> None:
        await ctx.run_blocking(_write, Path(self.sandbox["gate"]), mode)


def _write(gate: Path, mode: str) -> None:
    try:
        gate.write_text(f"{mode}\n", encoding="ascii")
    except OSError as error:
        raise PermanentError(f"the sandbox's gate can't be written: {type(error).__name__}") from error


class FailedUnit(SandboxDrill):
    """The unit ends with an error once."""

    mode, result = "fail", "exit-code"
    spec = DrillSpec(
        id="systemd.failed_unit",
        action="systemd.restart_unit",
        scenario="service_crash_handling",
        summary="The sandbox unit has failed.",
        sandbox="named",
        sandbox_keys=_KEYS,
    )


class StartLimit(SandboxDrill):
    """The unit crashes until systemd gives it up; only then may its failed state be cleared."""

    mode, result = "crash", START_LIMIT
    spec = DrillSpec(
        id="systemd.start_limit",
        action="systemd.reset_failed",
        scenario="service_crash_handling",
        summary="The sandbox unit has crashed until systemd gave it up.",
        sandbox="named",
        sandbox_keys=_KEYS,
    )

    def _is_broken(self, unit: Unit) -> bool:
        return is_given_up(unit, unit.changed_at)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether the unit may be started again."""
        unit = await self._read(ctx)
        ok = unit.active != "failed"
        return Check(
            ok=ok, reason="" if ok else f"the unit is given up ({unit.result})", facts=unit.as_facts()
        )


class HungUnit(SandboxDrill):
    """The unit stops answering its watchdog and is killed."""

    mode, result = "hang", "watchdog"
    spec = DrillSpec(
        id="systemd.hung_unit",
        action="systemd.restart_unit",
        scenario="service_crash_handling",
        summary="The sandbox unit hung and was ended by its watchdog.",
        sandbox="named",
        sandbox_keys=_KEYS,
    )
