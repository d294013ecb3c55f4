"""The events of the YAML parser as plain values: bounded in depth and number, with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 64
MAX_VALUES = 200_000

_INT = re.compile(r"[-+]?[0-9]{1,40}\Z|0x[0-9a-fA-F]{1,32}\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}  # fmt: skip
_TEXT_TAG = "tag:yaml.org,2002:str"

ValuePath = tuple[str | int, ...]
"""Where a value stands: keys and indexes from the top."""


class UnreadableError(Exception):
    """The text can't be understood any further."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, reason


_MERGE = object()
_DISCARD = object()


@dataclass(frozen=True, slots=True)
class _Anchored:
    """A complete value that an alias can stand for: how many values it holds, how deeply they are nested."""

    value: Any
    size: int
    height: int


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is being read."""

    container: dict[str, Any] | list[Any]
    path: ValuePath
    line: int
    anchor: str | None
    key: Any = None
    size: int = 1
    height: int = 1
    merges: list[Any] = field(default_factory=list)
    is_kept: bool = True


class Builder:
    """Takes the parser's events one by one; keeps its own stack, so that depth can't exhaust Python's."""

    def __init__(self) -> None:
        self.value: Any = None
        self.has_value = False
        self.lines: dict[ValuePath, int] = {}
        self.problems: list[tuple[int, ValuePath, str]] = []
        self._frames: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}
        self._count = 0

    def take(self, event: Any) -> None:
        """Take the parser's next event.

        Raises:
            UnreadableError: a bound is reached, or it is something that no configuration needs.
        """
        step = _STEPS.get(type(event))
        if step is not None:
            step(self, event, event.start_mark.line + 1)

    def document(self, _event: Any, line: int) -> None:
        """Begin a document; there is only one."""
        if self.has_value:
            raise UnreadableError(line, "a second document begins: one file holds one document")

    def scalar(self, event: Any, line: int) -> None:
        """Take a key, or a value that is neither mapping nor list."""
        if self._wants_key:
            self._take_key(event, line)
            return
        if event.tag not in (None, "!", _TEXT_TAG):
            raise UnreadableError(line, "tags are not supported")
        value = _scalar(event.value) if event.implicit[0] and event.tag is None else event.value
        self._place(line)
        self._complete(_Anchored(value, 1, 0), event.anchor)

    def alias(self, event: Any, line: int) -> None:
        """Take the value that an anchor has named before."""
        if self._wants_key:
            raise UnreadableError(line, "a key must be text")
        if event.anchor not in self._anchors:
            raise UnreadableError(line, "an alias of an anchor that is not there or not complete")
        self._place(line)
        meant = self._anchors[event.anchor]
        if len(self._frames) + meant.height > MAX_DEPTH:
            raise UnreadableError(line, f"nested deeper than {MAX_DEPTH} levels")
        self._complete(meant, None)

    def start_mapping(self, event: Any, line: int) -> None:
        """Begin a mapping."""
        self._start({}, event, line)

    def start_list(self, event: Any, line: int) -> None:
        """Begin a list."""
        self._start([], event, line)

    def end(self, _event: Any, _line: int) -> None:
        """End the mapping or list that began last."""
        frame = self._frames.pop()
        for merged in frame.merges:
            self._merge(frame, merged)
        self._complete(_Anchored(frame.container, frame.size, frame.height), frame.anchor, counted=True)

    @property
    def _wants_key(self) -> bool:
        return (
            bool(self._frames)
            and self._frames[-1].key is None
            and isinstance(self._frames[-1].container, dict)
        )

    def _take_key(self, event: Any, line: int) -> None:
        frame, key = self._frames[-1], event.value
        if key == "<<" and event.implicit[0]:
            frame.key = _MERGE
        elif key in frame.container:
            first = self.lines.get((*frame.path, key), frame.line)
            self.problems.append((line, (*frame.path, key), f"the key stands twice, first in line {first}"))
            frame.key = _DISCARD
        else:
            frame.key = key
            if frame.is_kept:
                self.lines[*frame.path, key] = line

    def _start(self, container: dict[str, Any] | list[Any], event: Any, line: int) -> None:
        if self._wants_key:
            raise UnreadableError(line, "a key must be text")
        if event.tag not in (None, "!"):
            raise UnreadableError(line, "tags are not supported")
        if len(self._frames) >= MAX_DEPTH:
            raise UnreadableError(line, f"nested deeper than {MAX_DEPTH} levels")
        path, is_kept = self._place(line)
        self._anchors.pop(event.anchor or "", None)
        self._frames.append(_Frame(container, path, line, event.anchor, is_kept=is_kept))
        self._grow(1, line)

    def _place(self, line: int) -> tuple[ValuePath, bool]:
        """Note the line of the value that begins here; give its path and whether it will be kept."""
        if not self._frames:
            self.lines[()] = line
            return (), True
        frame = self._frames[-1]
        if isinstance(frame.container, list):
            path: ValuePath = (*frame.path, len(frame.container))
            if frame.is_kept:
                self.lines[path] = line
            return path, frame.is_kept
        is_kept = frame.is_kept and isinstance(frame.key, str)
        return ((*frame.path, frame.key) if is_kept else frame.path), is_kept

    def _complete(self, done: _Anchored, anchor: str | None, *, counted: bool = False) -> None:
        if anchor is not None:
            self._anchors[anchor] = done
        if not self._frames:
            self.value, self.has_value = done.value, True
            return
        frame = self._frames[-1]
        frame.size += done.size
        frame.height = max(frame.height, done.height + 1)
        if not counted:
            self._grow(done.size, frame.line)
        self._put(frame, done.value)

    @staticmethod
    def _put(frame: _Frame, value: Any) -> None:
        if isinstance(frame.container, list):
            frame.container.append(value)
        elif frame.key is _MERGE:
            frame.merges.append(value)
        elif frame.key is not _DISCARD:
            frame.container[frame.key] = value
        frame.key = None

    def _merge(self, frame: _Frame, merged: Any) -> None:
        for part in merged if isinstance(merged, list) else [merged]:
            if not isinstance(part, dict) or not isinstance(frame.container, dict):
                self.problems.append((frame.line, frame.path, "<< takes a mapping or a list of mappings"))
                return
            for key, value in part.items():
                frame.container.setdefault(key, value)

    def _grow(self, size: int, line: int) -> None:
        self._count += size
        if self._count > MAX_VALUES:
            raise UnreadableError(
                line, f"more than {MAX_VALUES} values, aliases counted as what they stand for"
            )


_STEPS: dict[type, Callable[[Builder, Any, int], None]] = {
    yaml.DocumentStartEvent: Builder.document,
    yaml.ScalarEvent: Builder.scalar,
    yaml.AliasEvent: Builder.alias,
    yaml.MappingStartEvent: Builder.start_mapping,
    yaml.SequenceStartEvent: Builder.start_list,
    yaml.MappingEndEvent: Builder.end,
    yaml.SequenceEndEvent: Builder.end,
}


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text, 16 if text.startswith("0x") else 10)
    return float(text) if _FLOAT.match(text) else text
