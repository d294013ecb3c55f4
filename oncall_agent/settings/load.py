"""Reading the configuration: one YAML file, its folder of runbooks, the environment over it.

Called by the command line and the daemon. Never resolves a secret and never needs an executor to be
installed; what needs them is `check_actions`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oncall_agent.models import Target
from oncall_agent.settings.actions import Checked, check_actions
from oncall_agent.settings.checks import names_in, settings_findings
from oncall_agent.settings.document import read
from oncall_agent.settings.model import Runbook, Settings
from oncall_agent.settings.overlay import Overlaid, overlay
from oncall_agent.settings.problems import ConfigErrors, Place, Problem, explain
from oncall_agent.settings.runbook_files import RunbookFiles, read_runbooks
from oncall_agent.settings.targets import targets_of

CORE_SYSTEMS = ("escalate", "watch")
"""Always offered: to page a human and to wait need no runbook."""

__all__ = ["CORE_SYSTEMS", "Checked", "ConfigErrors", "Loaded", "check_actions", "load"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used.

    Attributes:
        runbooks: in the order of file names, then of their place in the file.
        targets: by name, with the defaults filled in.
        path: the main file.
        origin: knows where each value was written; for messages only.
        files: knows where each runbook was written; for messages only.
    """

    settings: Settings
    runbooks: tuple[Runbook, ...]
    targets: Mapping[str, Target]
    path: Path
    origin: Overlaid
    files: RunbookFiles

    @property
    def systems(self) -> frozenset[str]:
        """Systems that this configuration leads to: by a runbook, a probe or a group of settings."""
        acting = {
            candidate.action.partition(".")[0] for book in self.runbooks for candidate in book.candidates
        }
        probed = {probe.kind for target in self.settings.targets for probe in target.probes}
        return frozenset({*CORE_SYSTEMS, *self.settings.backends, *acting, *probed})

    def place(self, *path: str | int) -> Place:
        """Give where a value of the main file was written."""
        return self.origin.place(path)


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Give the configuration that stands in a file, its runbook folder and the environment.

    Raises:
        ConfigErrors: something is wrong; holds all findings with file, line and key. Nothing that was
            written in place of a secret is repeated.
    """
    origin = overlay(read(path, str(path)), environ)
    problems = [*origin.document.problems, *origin.problems]
    settings = None
    if isinstance(origin.value, dict):
        settings, found = _settings_of(origin)
        problems += found
    elif not problems:
        problems.append(
            Problem(Place(str(path), 1), (), "a mapping is expected at the top; {} takes every default")
        )
    files = _runbooks_of(path, origin)
    problems += files.problems
    if problems or settings is None:
        raise ConfigErrors(problem.error() for problem in dict.fromkeys(problems))
    return Loaded(settings, files.runbooks, targets_of(settings.targets), path, origin, files)


def _settings_of(origin: Overlaid) -> tuple[Settings | None, list[Problem]]:
    findings = list(settings_findings(origin.value))
    known = {path for path, _ in findings}
    settings = None
    try:
        settings = Settings.model_validate(origin.value)
    except ValidationError as error:
        for path, reason in explain(error, origin.value, Settings):
            named = path or _named_by(reason)
            # Two targets of one name are found by the model too, but without the line of the second.
            if not any(other[: len(named)] == named for other in known):
                findings.append((named, reason))
    return settings, [Problem(origin.place(path), path, reason) for path, reason in findings]


def _named_by(reason: str) -> tuple[str | int, ...]:
    """Give the key that a rule over several keys names first in its reason."""
    first = reason.split(" ", 1)[0]
    return tuple(first.split(".")) if "." in first else ()


def _runbooks_of(path: Path, origin: Overlaid) -> RunbookFiles:
    value: Mapping[str, Any] = origin.value if isinstance(origin.value, dict) else {}
    folder = value.get("runbooks")
    if folder is not None and not isinstance(folder, str):
        return RunbookFiles()
    place = origin.place(("runbooks",)) if folder is not None else None
    return read_runbooks(
        path.parent / (folder or "runbooks"), asked_at=place, targets=names_in(value.get("targets"))
    )
