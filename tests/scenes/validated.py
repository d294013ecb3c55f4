"""A lamp that can be validated: a system that is inspected, and drills that put its lamps out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from oncall_agent.contract import (
    Check,
    Drill,
    DrillSpec,
    Grants,
    Inspection,
    PermanentError,
    Privilege,
    System,
    SystemContext,
    Target,
    Trial,
)
from oncall_agent.registry import Plugins
from oncall_agent.settings.load import Loaded, load
from oncall_agent.testing import FakeClock, RecordingLog
from oncall_agent.validation.compose import Options, validate
from oncall_agent.validation.results import Finding, Report
from scenes import lamp

WELL = Inspection(
    "Lamp", "3.1", identity="keeper", privileges=(Privilege("light", held=True, needed_by=("lamp.light",)),)
)


@dataclass
class Story:
    """What the lamp system says and does in this test."""

    inspection: Inspection = WELL
    error: Exception | None = None
    clock_off: float = 0.0
    inject_fails: bool = False
    clean_up_fails: bool = False
    cleaned: int = 0


STORY = Story()
ASK_ALL = Options()


class PutOut(Drill):
    """Puts the hall's lamp out."""

    spec = DrillSpec("lamp.put_out", "lamp.light", "service_crash_handling", "The hall's lamp is put out.")

    async def prepare(self, ctx: SystemContext) -> Trial:
        lamp.WORLD.lit["hall"] = True
        return Trial(Target("hall", "lamp"))

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        if STORY.inject_fails:
            raise PermanentError("the switch is stuck")
        lamp.WORLD.lit["hall"] = False

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        lit = lamp.WORLD.lit["hall"]
        return Check(ok=lit, reason="" if lit else "it is dark")

    async def clean_up(self, ctx: SystemContext) -> None:
        STORY.cleaned += 1
        if STORY.clean_up_fails:
            raise RuntimeError("the ladder is gone")


class PutOutNamed(PutOut):
    """The same for a lamp that the operator names."""

    spec = DrillSpec(
        "lamp.put_out_named", "lamp.light", "lamp", "The named lamp.", sandbox="named", sandbox_keys=("lamp",)
    )


class LampSystem(System):
    name: ClassVar[str] = "lamp"
    drills = (PutOut, PutOutNamed)

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        if STORY.error is not None:
            raise STORY.error
        return replace(STORY.inspection, server_time=ctx.clock.now() + STORY.clock_off)

    def grants(self, actions: Sequence[str]) -> Grants:
        return Grants("text", f"may: {', '.join(actions)}\n", "Tell the keeper.")


def plugins() -> Plugins:
    found = lamp.plugins()
    return Plugins(found.actions, found.probers, found.off, {"lamp": LampSystem})


def loaded(folder: Path, **validation: Any) -> Loaded:
    groups = {"environment": "staging", **validation}
    return load(lamp.write(folder, validation=groups, backends={"lamp": {}}), {})


async def run(
    folder: Path, *, options: Options = ASK_ALL, clock: FakeClock | None = None, **validation: Any
) -> tuple[Report, RecordingLog, list[Finding]]:
    log, shown = BoundLog(), []
    report = await validate(
        loaded(folder, **validation),
        plugins(),
        options,
        clock=clock or FakeClock(),
        log=log,
        show=shown.append,
    )
    return report, log, shown


class BoundLog(RecordingLog):
    """Keeps what was bound with each line, as structlog does."""

    def __init__(self, lines: list[Any] | None = None, **bound: Any) -> None:
        super().__init__()
        self.lines = [] if lines is None else lines
        self._bound = bound

    def bind(self, **fields: Any) -> BoundLog:
        return BoundLog(self.lines, **{**self._bound, **fields})

    def info(self, event: str, **fields: Any) -> None:
        super().info(event, **{**self._bound, **fields})

    def warning(self, event: str, **fields: Any) -> None:
        super().warning(event, **{**self._bound, **fields})
