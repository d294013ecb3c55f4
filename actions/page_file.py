"""The file of pages: one JSON line per step of a page, readable with `tail`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from cachetools import LRUCache

State = Literal["absent", "kept", "sent"]
_TAIL_BYTES = 2_097_152


class PageFile:
    """Appends durably and finds out by key what became of a page. Blocking: run it in a thread."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._lock = threading.Lock()
        self._sent: LRUCache[str, bool] = LRUCache(4096)

    def append(self, line: dict[str, Any]) -> None:
        """Write one line and wait for the disk."""
        text = json.dumps(line, ensure_ascii=True, sort_keys=True) + "\n"
        with self._lock:
            self._rotate(len(text))
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, text.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def remember(self, key: str) -> None:
        """Note in memory that a page has left, in case the disk refuses the line."""
        with self._lock:
            self._sent[key] = True

    def state_of(self, key: str) -> State:
        """Say what the newest 2 MiB of the file (or memory) know of a page."""
        with self._lock:
            if key in self._sent:
                return "sent"
        state: State = "absent"
        for line in self._lines():
            if key in line and _key_of(line) == key:
                state = "sent" if '"state": "sent"' in line else "kept"
        return state

    def _lines(self) -> Iterator[str]:
        for path in (self._path.with_name(self._path.name + ".1"), self._path):
            try:
                with path.open("rb") as stream:
                    stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                    yield from stream.read(_TAIL_BYTES).decode(errors="replace").splitlines()
            except FileNotFoundError:
                continue

    def _rotate(self, added: int) -> None:
        try:
            is_full = self._path.stat().st_size + added > self._max_bytes
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return
        if is_full:
            self._path.replace(self._path.with_name(self._path.name + ".1"))


def _key_of(line: str) -> str | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None  # The line that a crash or the cut of the tail left half.
    return value.get("key") if isinstance(value, dict) else None
