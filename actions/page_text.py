"""What people read when they are paged: plain, bounded text made of what the attempt knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oncall_agent.contract import ActionContext

MAX_TITLE = 200
MAX_BODY = 8_000
_MAX_LINE = 400
_MAX_DEPTH = 4
_MAX_ENTRIES = 50
_FIRST = ("id", "class", "severity", "state", "opened_at", "reason", "link", "summary")


def title_of(ctx: ActionContext) -> str:
    """Give one line: severity, title, target."""
    severity = str(ctx.incident.get("severity", "warning")).upper()
    title = str(ctx.incident.get("title") or ctx.incident.get("id") or "incident")
    return _line(f"[{severity}] {title} on {ctx.target.name}")[:MAX_TITLE]


def body_of(ctx: ActionContext) -> str:
    """Give everything collected, the most important lines first, cut at a fixed length."""
    lines = [
        f"target: {_line(ctx.target.name)} ({_line(ctx.target.kind)})",
        f"attempt: {_line(ctx.attempt_id)}",
    ]
    note = getattr(ctx.params, "note", "")
    if note:
        lines.insert(0, _line(note))
    incident = dict(ctx.incident)
    for key in _FIRST:
        if key in incident:
            lines.extend(_lines(key, incident.pop(key), 0))
    for key, value in incident.items():
        lines.extend(_lines(str(key), value, 0))
    return _cut("\n".join(lines))


def _cut(text: str) -> str:
    if len(text) <= MAX_BODY:
        return text
    mark = "\n... (cut; the incident's page has the rest)"
    return text[: MAX_BODY - len(mark)] + mark


def _lines(key: str, value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        yield f"{indent}{_line(key)}:"
        for name in list(value)[:_MAX_ENTRIES]:
            yield from _lines(str(name), value[name], depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes) and depth < _MAX_DEPTH:
        yield f"{indent}{_line(key)}:"
        for item in value[-_MAX_ENTRIES:]:
            yield from _lines("-", item, depth + 1)
    else:
        yield f"{indent}{_line(key)}: {_line(str(value))}"


def _line(text: str) -> str:
    # Control characters of an alert must not reach a terminal or a chat channel.
    clean = "".join(character if character.isprintable() else " " for character in text[: _MAX_LINE + 1])
    return clean if len(clean) <= _MAX_LINE else clean[: _MAX_LINE - 3] + "..."
