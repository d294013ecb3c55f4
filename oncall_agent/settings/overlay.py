"""The environment over the file: `ONCALL_AGENT__SERVER__PORT=9000` sets `server.port`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oncall_agent.settings.builder import MAX_DEPTH, ValuePath
from oncall_agent.settings.document import Document
from oncall_agent.settings.problems import Place, Problem

PREFIX = "ONCALL_AGENT__"
_SEPARATOR = "__"


@dataclass(frozen=True, slots=True)
class Overlaid:
    """What is in force: the values of the file with those of the environment over them."""

    document: Document
    value: Any
    variables: Mapping[ValuePath, str]
    problems: tuple[Problem, ...]

    def place(self, path: ValuePath) -> Place:
        """Give where a value comes from: a variable of the environment, or a line of the file."""
        for length in range(len(path), 0, -1):
            name = self.variables.get(path[:length])
            if name is not None:
                return Place(f"environment variable {name}", 0)
        return self.document.place(path)


def overlay(document: Document, environ: Mapping[str, str]) -> Overlaid:
    """Lay the variables that begin with the prefix over a document; the file itself stays as it is.

    Lists and objects are given as JSON, `null` unsets; everything else is text that the key's type reads.
    """
    value = _copied(document.value)
    variables: dict[ValuePath, str] = {}
    problems: list[Problem] = []
    for name in sorted(environ):
        if name.startswith(PREFIX):
            try:
                path = _set(value, name, _value(environ[name]))
                variables[path] = name
            except ValueError as error:
                problems.append(Problem(Place(f"environment variable {name[:128]}", 0), (), str(error)))
    return Overlaid(document, value, variables, tuple(problems))


def _copied(value: Any) -> Any:
    """Copy what aliases share too, so that a variable changes the one place that it names."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _value(text: str) -> Any:
    if text == "null":
        return None
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # The text is not repeated: it may hold a password.
        raise ValueError("not JSON, although it begins like a list or an object") from None
    if _is_deeper(value, MAX_DEPTH):
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return value


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (
                outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()
            )
        ]
        if not level:
            return False
    return True


def _set(value: Any, name: str, new: Any) -> ValuePath:
    parts = name.removeprefix(PREFIX).split(_SEPARATOR)
    if not all(parts):
        raise ValueError("the name of a key is missing between two underscores")
    path: list[str] = []
    for position, part in enumerate(parts):
        if not isinstance(value, dict):
            where = ".".join(path)
            raise ValueError(  # noqa: TRY004 - a finding, not a programming error
                f"{where} is not a mapping: set it as a whole, lists and objects as JSON"
            )
        key = _key_like(part, value)
        path.append(key)
        if position == len(parts) - 1:
            value[key] = new
        elif value.get(key) is None:
            value[key] = {}
        value = value[key]
    return tuple(path)


def _key_like(part: str, known: Mapping[str, Any]) -> str:
    """Give the key as the file writes it, else in lower case: variables are in upper case by custom."""
    folded = part.casefold()
    return next((key for key in known if key.casefold() == folded), part.lower())
