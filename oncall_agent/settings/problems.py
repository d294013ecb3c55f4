"""What is wrong with a configuration: every finding with file, line and key, all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from oncall_agent.errors import ConfigError

MAX_REPORTED = 200
_MAX_REASON = 400


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; line 0 when it stands in no line, such as an environment variable."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding, at a place, about the key that `path` leads to."""

    place: Place
    path: tuple[str | int, ...]
    reason: str

    def error(self) -> ConfigError:
        """Give it as an error."""
        return ConfigError(
            self.reason[:_MAX_REASON], file=self.place.file, line=self.place.line, key=dotted(self.path)
        )


class ConfigErrors(ConfigError):  # noqa: N818 - several of them
    """The configuration has errors: all of them, one per line; never empty.

    Attributes:
        errors: in the order of files and lines.
    """

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(sorted(errors, key=lambda error: (error.file, error.line)))
        shown = [str(error) for error in self.errors[:MAX_REPORTED]]
        if len(self.errors) > MAX_REPORTED:
            shown.append(f"and {len(self.errors) - MAX_REPORTED} more")
        super().__init__("\n".join(shown))


def dotted(path: Iterable[str | int]) -> str:
    """Give a path as people write it: `targets[2].probes[0].url`; long keys are cut."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:64]}" if text else part[:64]
    return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Give `, did you mean 'x'?` when something known is close, else empty text."""
    close = difflib.get_close_matches(name[:64], [text for text in known if text != name], n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def explain(
    error: ValidationError, value: Any, model: type[BaseModel]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Give (path, reason) for each thing that pydantic objects to, each path once.

    The reasons never repeat what was written: it may be a secret pasted where a reference belongs.
    """
    seen: set[tuple[str | int, ...]] = set()
    for found in error.errors(include_url=False, include_input=False):
        kind = found["type"]
        path, standing = _path_in(value, found["loc"], keeps_last=kind in ("missing", "extra_forbidden"))
        if path in seen:
            continue
        seen.add(path)
        if kind == "extra_forbidden":
            name = str(path[-1]) if path else ""
            yield path, f"unknown key{did_you_mean(name, _keys_at(model, path[:-1]))}"
        elif kind == "union_tag_invalid":
            yield (*path, "kind"), f"should be one of {found['ctx']['expected_tags']}"
        else:
            yield path, _reason(kind, found["msg"], standing)


_REASONS = {
    "missing": "is required",
    "model_type": "a mapping is expected",
    "model_attributes_type": "a mapping is expected",
    "dict_type": "a mapping is expected",
    "tuple_type": "a list is expected",
    "list_type": "a list is expected",
    "too_short": "must not be empty",
    "union_tag_not_found": "the key 'kind' is required",
}


def _reason(kind: str, message: str, standing: Any) -> str:
    if kind == "string_type":
        quotes = ": put it in quotes" if isinstance(standing, int | float) else ""
        return f"text is expected{quotes}"
    return _REASONS.get(kind) or message.removeprefix("Value error, ").replace("Input should", "should")


def _path_in(
    value: Any, loc: tuple[str | int, ...], *, keeps_last: bool
) -> tuple[tuple[str | int, ...], Any]:
    """Give the path in what was written: pydantic's place also names the variants of unions."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        if _has(value, part):
            value = value[part]
            path.append(part)
        elif keeps_last and position == len(loc) - 1:
            path.append(part)
    return tuple(path), value


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _keys_at(model: type[BaseModel], path: Iterable[str | int]) -> set[str]:
    """Give the keys that are known where `path` leads; what is no key of a group (names, indexes) is passed over."""
    groups = {model}
    for part in path:
        inner = {group for outer in groups for group in _groups_under(outer, part)}
        groups = inner or groups
    return {field.alias or name for group in groups for name, field in group.model_fields.items()}


def _groups_under(group: type[BaseModel], part: str | int) -> Iterator[type[BaseModel]]:
    for name, field in group.model_fields.items():
        if part in (name, field.alias):
            yield from _groups_in(field.annotation)


def _groups_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _groups_in(inner)
