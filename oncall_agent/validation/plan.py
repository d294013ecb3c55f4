"""What a run may ask and break: plain decisions over the configuration, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from oncall_agent.contract import Drill, System
from oncall_agent.rules.freeze import is_frozen
from oncall_agent.settings.load import CORE_SYSTEMS
from oncall_agent.settings.model import Runbook, Settings, ValidationSettings


@dataclass(frozen=True, slots=True)
class ProductionDrill:
    """A person's word that one drill may be run on production.

    Attributes:
        drill: its id.
        target: the system's sandbox as the person typed it; must equal the one that is configured.
        confirmed_by: who typed the confirmation.
        passed_on_staging: ids of the drills that passed in the staging report that was shown.
    """

    drill: str
    target: str
    confirmed_by: str
    passed_on_staging: frozenset[str]


@dataclass(frozen=True, slots=True)
class PlannedDrill:
    """A drill that could be run, or the reason why it is not."""

    kind: type[Drill]
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class SystemPlan:
    """What is asked of one system."""

    name: str
    actions: tuple[str, ...]
    drills: tuple[PlannedDrill, ...]


def configured_systems(settings: Settings, runbooks: Iterable[Runbook]) -> tuple[str, ...]:
    """Give the systems that this configuration leads to: a group in `backends`, or an action of a runbook."""
    named = {candidate.action.partition(".")[0] for book in runbooks for candidate in book.candidates}
    return tuple(sorted((named | set(settings.backends)) - set(CORE_SYSTEMS)))


def plan(
    settings: Settings,
    systems: Mapping[str, type[System]],
    actions: Iterable[str],
    *,
    wanted: Sequence[str],
    production: ProductionDrill | None,
    now: float,
) -> tuple[SystemPlan, ...]:
    """Give what is to be asked, system by system.

    Args:
        systems: installed, by name.
        actions: ids of the installed actions.
        wanted: names of systems.
    """
    by_system: dict[str, list[str]] = {}
    for action in sorted(actions):
        by_system.setdefault(action.partition(".")[0], []).append(action)
    return tuple(
        SystemPlan(
            name,
            tuple(by_system.get(name, ())),
            tuple(
                PlannedDrill(drill, refusal(drill, settings.validation, production, now))
                for drill in (systems[name].drills if name in systems else ())
            ),
        )
        for name in wanted
    )


def refusal(
    drill: type[Drill], settings: ValidationSettings, production: ProductionDrill | None, now: float
) -> str:
    """Give the reason why a drill may not be run; empty when it may."""
    spec = drill.spec
    if not any(fnmatchcase(spec.id, pattern) for pattern in settings.drills):
        return "not allowed by validation.drills"
    named = settings.sandboxes.get(spec.system, {})
    lacking = [key for key in spec.sandbox_keys if key not in named]
    if spec.sandbox == "named" and lacking:
        keys = ", ".join(f"validation.sandboxes.{spec.system}.{key}" for key in lacking)
        return f"no sandbox is named: {keys}"
    if settings.environment == "staging":
        return ""
    return _production_refusal(drill, settings, production, now)


def sandbox_name(drill: type[Drill], settings: ValidationSettings) -> str:
    """Give what a person has to type to confirm a drill on production: the sandbox's values, or the system."""
    spec = drill.spec
    named = settings.sandboxes.get(spec.system, {})
    return " ".join(str(named[key]) for key in spec.sandbox_keys if key in named) or spec.system


def _production_refusal(
    drill: type[Drill], settings: ValidationSettings, production: ProductionDrill | None, now: float
) -> str:
    spec = drill.spec
    if production is None or production.drill != spec.id:
        return "drills are refused on production: run them on staging, then one by --production-drill"
    if spec.id not in production.passed_on_staging:
        return "staging first: the staging report that was given does not show it passed"
    if not production.confirmed_by:
        return "no person confirmed it"
    if production.target != sandbox_name(drill, settings):
        return f"confirmed for {production.target!r}, not for {sandbox_name(drill, settings)!r}"
    if is_frozen(settings.change_windows, now) is None:
        return "outside every window of validation.change_windows"
    return ""
