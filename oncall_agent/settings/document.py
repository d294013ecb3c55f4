"""YAML text as plain values with the line of every key: the part of the loader that meets hostile text.

Scalars follow the core schema of YAML 1.2, so `17:00`, `no` and `2026-12-24` stay the text that was written.
Size, depth and the number of values after expanding aliases are bounded; nothing is constructed but
mappings, lists, text, numbers, booleans and null.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from oncall_agent.settings.builder import Builder, UnreadableError, ValuePath
from oncall_agent.settings.problems import Place, Problem

MAX_BYTES = 4 * 1024 * 1024

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Document:
    """One file: its value, the line of each key and item, and what is wrong without making it unreadable."""

    file: str
    value: Any
    lines: dict[ValuePath, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def place(self, path: ValuePath) -> Place:
        """Give where a value stands; for one that is not written, the closest thing around it."""
        for length in range(len(path), -1, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return Place(self.file, line)
        return Place(self.file, 1)


def read(path: Path, name: str) -> Document:
    """Read one YAML file, called `name` in messages; what is wrong stands in `problems`, never in an exception."""
    try:
        return parse(_bytes_of(path), name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Document(name, None, {}, (Problem(Place(name, 0), (), f"can't be read: {reason}"),))


def _bytes_of(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("a directory" if path.is_dir() else "not a regular file")
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def parse(content: bytes, name: str) -> Document:
    """Understand the content of one YAML file; see `read`."""
    builder = Builder()
    problems: list[Problem] = []
    try:
        for event in yaml.parse(_text_of(content), Loader=_LOADER):
            builder.take(event)
        if not builder.has_value:
            raise UnreadableError(1, "the file is empty")  # noqa: TRY301
    except UnreadableError as error:
        problems.append(Problem(Place(name, error.line), (), error.reason))
    except yaml.YAMLError as error:
        line, reason = _explain(error, content)
        problems.append(Problem(Place(name, line), (), reason))
    found = [Problem(Place(name, line), path, reason) for line, path, reason in builder.problems]
    value = None if problems else builder.value
    return Document(name, value, builder.lines, (*found, *problems))


def _text_of(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise UnreadableError(1, f"larger than {MAX_BYTES // 1_048_576} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(content[: error.start].count(b"\n") + 1, "not UTF-8 text") from error
    strange = _UNPRINTABLE.search(text)
    if strange is not None:
        line = text.count("\n", 0, strange.start()) + 1
        raise UnreadableError(line, f"the control character U+{ord(strange.group()):04X} is not allowed")
    return text


def _explain(error: yaml.YAMLError, content: bytes) -> tuple[int, str]:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    lines = content.split(b"\n")
    line = min(mark.line + 1 if mark is not None else 1, len(lines))
    written = lines[line - 1]
    if written[: len(written) - len(written.lstrip())].count(b"\t"):
        return line, "indented by a tab: YAML takes spaces only"
    return line, f"not YAML: {getattr(error, 'problem', None) or 'not understood'}"[:200]
