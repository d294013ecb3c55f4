"""What the types can't say: patterns, time zones, names that must exist, names that must be unique.

Works on what was written, so that findings come together even when another part is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import ValidationError

from oncall_agent.settings.model import FreezeWindow
from oncall_agent.settings.patterns import is_pattern, pattern
from oncall_agent.settings.problems import did_you_mean
from oncall_agent.settings.windows import problems as window_problems

Finding = tuple[tuple[str | int, ...], str]
_STORE_URL = re.compile(r"(sqlite(\+pysqlite)?:///?|postgresql(\+psycopg2)?://)")
_CLASS = re.compile(r"[^/*]+")


def settings_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    """Give what is wrong in the main file beyond the types, as (path, reason)."""
    for check in _CHECKS:
        yield from check(value)


def runbook_findings(runbook: Mapping[str, Any], targets: Sequence[str]) -> Iterator[Finding]:
    """Give what is wrong in one runbook beyond the types, as (path, reason)."""
    for label, wanted in _mapping(runbook.get("match")).items():
        if isinstance(wanted, str) and is_pattern(wanted):
            yield from _refused(("match", label), lambda wanted=wanted: pattern(wanted))  # type: ignore[misc]
    name = runbook.get("class", runbook.get("alert_class"))
    if isinstance(name, str) and name and not _CLASS.fullmatch(name):
        yield (
            ("class",),
            "/ and * are not allowed in the name of a class: overrides are written class/action/target",
        )
    for position, candidate in enumerate(_list(runbook.get("candidates"))):
        target = _mapping(candidate).get("target")
        if isinstance(target, str) and target not in targets:
            yield ("candidates", position, "target"), f"no target of that name{did_you_mean(target, targets)}"


def names_in(entries: Any) -> list[str]:
    """Give the names of a list of mappings, as far as they are written as text."""
    return [name for entry in _list(entries) if isinstance(name := _mapping(entry).get("name"), str)]


def _target_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _repeated(value.get("targets"), ("targets",), "target")
    for position, target in enumerate(_list(value.get("targets"))):
        for label, wanted in _mapping(_mapping(target).get("match")).items():
            if isinstance(wanted, str) and is_pattern(wanted):
                yield (
                    ("targets", position, "match", label),
                    "targets are found by equal values, patterns are not possible",
                )


def _window_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    for group, key in (("guard", "freeze_windows"), ("validation", "change_windows")):
        windows = _mapping(value.get(group)).get(key)
        yield from _repeated(windows, (group, key), "window")
        for position, written in enumerate(_list(windows)):
            try:
                window = FreezeWindow.model_validate(written)
            except ValidationError:
                continue
            for field, reason in window_problems(window):
                yield (group, key, position, *([field] if field else [])), reason


def _token_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _repeated(_mapping(value.get("server")).get("tokens"), ("server", "tokens"), "token")


def _mapping_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    for name, source in _mapping(value.get("sources")).items():
        for field, expression in _mapping(_mapping(source).get("mapping")).items():
            if isinstance(expression, str):
                yield from _jmespath_finding(("sources", name, "mapping", field), expression)


def _jmespath_finding(path: tuple[str | int, ...], expression: str) -> Iterator[Finding]:
    try:
        jmespath.compile(expression)
    except (JMESPathError, ValueError, RecursionError) as error:
        yield path, f"not a JMESPath expression: {type(error).__name__}"


def _store_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    url = _mapping(value.get("store")).get("url")
    if isinstance(url, str) and not _STORE_URL.match(url):
        # The text is not repeated: it may hold a password.
        yield ("store", "url"), "should begin with sqlite:/// or postgresql+psycopg2://"


def _storm_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    storm = _mapping(_mapping(value.get("guard")).get("storm"))
    first, second = storm.get("reversible_only_at", 20), storm.get("stop_at", 100)
    if isinstance(first, int) and isinstance(second, int) and first > second:
        yield ("guard", "storm"), f"reversible_only_at ({first}) is above stop_at ({second})"


_CHECKS: tuple[Callable[[Mapping[str, Any]], Iterator[Finding]], ...] = (
    _target_findings,
    _window_findings,
    _token_findings,
    _mapping_findings,
    _store_findings,
    _storm_findings,
)


def _repeated(entries: Any, path: tuple[str | int, ...], word: str) -> Iterator[Finding]:
    seen: set[str] = set()
    for position, entry in enumerate(_list(entries)):
        name = _mapping(entry).get("name")
        if isinstance(name, str):
            if name in seen:
                yield (*path, position, "name"), f"another {word} has the name {name[:128]!r}"
            seen.add(name)


def _refused(path: tuple[str | int, ...], attempt: Callable[[], object]) -> Iterable[Finding]:
    try:
        attempt()
    except ValueError as error:
        return [(path, str(error))]
    return []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
