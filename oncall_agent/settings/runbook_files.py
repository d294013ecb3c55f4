"""The folder of runbooks: every `*.yaml` in it, each a list of runbooks or a mapping with the key `runbooks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oncall_agent.settings.builder import ValuePath
from oncall_agent.settings.checks import runbook_findings
from oncall_agent.settings.document import Document, read
from oncall_agent.settings.model import Runbook
from oncall_agent.settings.problems import Place, Problem, did_you_mean, explain

MAX_FILES = 1_000
_TOP: ValuePath = ()


@dataclass(frozen=True, slots=True)
class _Origin:
    document: Document
    path: ValuePath


@dataclass(frozen=True, slots=True)
class RunbookFiles:
    """The runbooks of a folder, what is wrong with them, and where each was written."""

    runbooks: tuple[Runbook, ...] = ()
    problems: tuple[Problem, ...] = ()
    origins: Mapping[str, _Origin] = field(default_factory=dict)

    def problem(self, runbook: str, path: ValuePath, reason: str) -> Problem:
        """Give a finding about a key of a runbook."""
        origin = self.origins[runbook]
        whole = (*origin.path, *path)
        return Problem(origin.document.place(whole), whole, reason)


class _Collector:
    """Takes file after file; a runbook that is wrong is left out, its findings are kept."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.runbooks: list[Runbook] = []
        self.problems: list[Problem] = []
        self.origins: dict[str, _Origin] = {}
        self._targets = targets

    def take(self, document: Document) -> None:
        self.problems += document.problems
        if document.problems and document.value is None:
            return
        value, path = document.value, _TOP
        if isinstance(value, dict):
            self._unknown_keys(document, value)
            value, path = value.get("runbooks"), ("runbooks",)
        if not isinstance(value, list):
            reason = "a list of runbooks is expected, or a mapping with the key 'runbooks'"
            self.problems.append(Problem(document.place(path), path, reason))
            return
        for position, written in enumerate(value):
            self._take_one(written, _Origin(document, (*path, position)))

    def _unknown_keys(self, document: Document, value: Mapping[str, Any]) -> None:
        for key in value:
            if key != "runbooks":
                reason = f"unknown key{did_you_mean(key, ['runbooks'])}"
                self.problems.append(Problem(document.place((key,)), (key,), reason))

    def _take_one(self, written: Any, origin: _Origin) -> None:
        findings = list(runbook_findings(written, self._targets)) if isinstance(written, dict) else []
        try:
            runbook = Runbook.model_validate(written)
        except ValidationError as error:
            findings += explain(error, written, Runbook)
        else:
            self._keep(runbook, origin)
        for path, reason in findings:
            whole = (*origin.path, *path)
            self.problems.append(Problem(origin.document.place(whole), whole, reason))

    def _keep(self, runbook: Runbook, origin: _Origin) -> None:
        first = self.origins.get(runbook.name)
        if first is None:
            self.runbooks.append(runbook)
            self.origins[runbook.name] = origin
            return
        there = first.document.place(first.path)
        path = (*origin.path, "name")
        reason = f"another runbook has the name {runbook.name!r}: {there.file}:{there.line}"
        self.problems.append(Problem(origin.document.place(path), path, reason))


def read_runbooks(folder: Path, *, asked_at: Place | None, targets: Sequence[str]) -> RunbookFiles:
    """Read the runbooks of a folder, by file name and place in the file.

    Args:
        folder: only files directly in it are read; hidden ones are passed over.
        asked_at: where the configuration names the folder; None if it does not, and then it may be missing.
        targets: names of the configured targets.
    """
    collector = _Collector(targets)
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except (OSError, ValueError) as error:
        if asked_at is not None or not isinstance(error, FileNotFoundError):
            reason = getattr(error, "strerror", None) or "not a path"
            place = asked_at or Place(str(folder), 0)
            collector.problems.append(Problem(place, ("runbooks",), f"the folder can't be read: {reason}"))
        names = []
    files = [name for name in names if name.endswith(".yaml")]
    for name in names:
        if name.endswith(".yml"):
            place = Place(str(folder / name), 0)
            collector.problems.append(Problem(place, (), "is not read: runbook files end in .yaml"))
    if len(files) > MAX_FILES:
        place = Place(str(folder), 0)
        collector.problems.append(Problem(place, (), f"{len(files)} files, at most {MAX_FILES} are read"))
    for name in files[:MAX_FILES]:
        collector.take(read(folder / name, str(folder / name)))
    return RunbookFiles(tuple(collector.runbooks), tuple(collector.problems), collector.origins)
