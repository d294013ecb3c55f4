"""A log that remembers what was said."""

from __future__ import annotations

from typing import Any


class RecordingLog:
    """A `Log` that keeps `(level, name, fields)` in `lines`."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Keep it."""
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Keep it."""
        self.lines.append(("warning", event, fields))

    @property
    def names(self) -> list[str]:
        """The names of what was said, in order."""
        return [name for _, name, _ in self.lines]
