"""The configuration against what is installed: do the actions and probes exist, do their parameters fit?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from oncall_agent.contract.executor import ActionSpec
from oncall_agent.contract.prober import Prober
from oncall_agent.errors import ConfigError
from oncall_agent.settings.model import Runbook, RunbookCandidate
from oncall_agent.settings.problems import Problem, did_you_mean, explain

if TYPE_CHECKING:
    from oncall_agent.settings.load import Loaded

PROBE_PREFIX = "probe:"
Finding = tuple[tuple[str | int, ...], str]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found: errors make the configuration unusable, warnings say what is switched off here."""

    errors: tuple[ConfigError, ...]
    warnings: tuple[ConfigError, ...]


@dataclass(frozen=True, slots=True)
class _Installed:
    """What this machine has, and what it lacks though it is known (name or system -> reason)."""

    specs: Mapping[str, ActionSpec]
    probers: Mapping[str, type[Prober]]
    off: Mapping[str, str]

    def why_off(self, name: str) -> str | None:
        return self.off.get(name) or self.off.get(name.partition(".")[0])

    def like_action(self, name: str) -> str:
        return did_you_mean(name, [*self.specs, *self.off])


class _Findings:
    def __init__(self) -> None:
        self.errors: list[ConfigError] = []
        self.warnings: list[ConfigError] = []

    def unknown(self, problem: Problem, off: str | None) -> None:
        """Keep a finding about a name that is not there: a warning if it is known why."""
        if off is None:
            self.errors.append(problem.error())
        else:
            self.warnings.append(Problem(problem.place, problem.path, f"switched off here: {off}").error())


def check_actions(
    loaded: Loaded,
    specs: Mapping[str, ActionSpec],
    probers: Mapping[str, type[Prober]],
    off: Mapping[str, str] | None = None,
) -> Checked:
    """Say what in the configuration does not fit the installed actions and probers.

    Args:
        loaded: a configuration without errors of its own.
        specs: the actions that can be carried out, by id.
        probers: the kinds of probes that can be read.
        off: action id, system or `probe:<kind>` -> why it is known but can't be used on this machine.
    """
    installed, findings = _Installed(specs, probers, off or {}), _Findings()
    for runbook in loaded.runbooks:
        _check_runbook(loaded, runbook, installed, findings)
    _check_probes(loaded, installed, findings)
    _check_names(loaded, installed, findings)
    return Checked(tuple(findings.errors), tuple(findings.warnings))


def _check_runbook(loaded: Loaded, runbook: Runbook, installed: _Installed, findings: _Findings) -> None:
    for position, candidate in enumerate(runbook.candidates):
        path = ("candidates", position)
        spec = installed.specs.get(candidate.action)
        if spec is None:
            reason = f"no action of that name{installed.like_action(candidate.action)}"
            problem = loaded.files.problem(runbook.name, (*path, "action"), reason)
            findings.unknown(problem, installed.why_off(candidate.action))
            continue
        found = (*_kind_findings(loaded, runbook, candidate, spec), *_params_findings(candidate, spec))
        for inner, reason in found:
            findings.errors.append(loaded.files.problem(runbook.name, (*path, *inner), reason).error())


def _params_findings(candidate: RunbookCandidate, spec: ActionSpec) -> Iterator[Finding]:
    for path, reason in _fits(spec.params, candidate.params):
        yield ("params", *path), reason


def _kind_findings(
    loaded: Loaded, runbook: Runbook, candidate: RunbookCandidate, spec: ActionSpec
) -> Iterator[Finding]:
    if spec.target_kind == "*":
        return
    if candidate.target is not None:
        kind: str | None = loaded.targets[candidate.target].kind
    else:
        kind = runbook.target_kind
    if kind is not None and kind != spec.target_kind:
        yield ("action",), f"works on targets of kind {spec.target_kind}, not {kind}"


def _check_probes(loaded: Loaded, installed: _Installed, findings: _Findings) -> None:
    for position, target in enumerate(loaded.settings.targets):
        for number, probe in enumerate(target.probes):
            path = ("targets", position, "probes", number)
            prober = installed.probers.get(probe.kind)
            if prober is None:
                reason = f"no probe of that kind{did_you_mean(probe.kind, installed.probers)}"
                problem = Problem(loaded.place(*path, "kind"), (*path, "kind"), reason)
                findings.unknown(problem, installed.off.get(PROBE_PREFIX + probe.kind))
                continue
            for inner, reason in _fits(prober.params, dict(probe.model_extra or {})):
                whole = (*path, *inner)
                findings.errors.append(Problem(loaded.place(*whole), whole, reason).error())


def _check_names(loaded: Loaded, installed: _Installed, findings: _Findings) -> None:
    """Find names of actions and systems that would be passed over in silence because nothing has that name."""
    settings = loaded.settings
    rules = [
        (("autonomy", "rules", n, "action"), rule.action) for n, rule in enumerate(settings.autonomy.rules)
    ]
    cooldowns = [
        (("guard", "cooldown_seconds", action), action) for action in settings.guard.cooldown_seconds
    ]
    for path, action in (*rules, *cooldowns):
        if action != "*" and action not in installed.specs:
            reason = f"no action of that name{installed.like_action(action)}"
            findings.unknown(Problem(loaded.place(*path), path, reason), installed.why_off(action))
    systems = {spec.system for spec in installed.specs.values()} | {*installed.probers}
    for system in settings.backends:
        if system not in systems:
            path = ("backends", system)
            reason = f"no action or probe uses it{did_you_mean(system, systems)}"
            findings.unknown(Problem(loaded.place(*path), path, reason), _system_off(system, installed.off))


def _system_off(system: str, off: Mapping[str, str]) -> str | None:
    names = {name.removeprefix(PROBE_PREFIX).partition(".")[0]: reason for name, reason in off.items()}
    return names.get(system)


def _fits(model: type[BaseModel], params: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        model.model_validate(params)
    except ValidationError as error:
        yield from explain(error, params, model)
