"""What one attempt has to remember beyond its process: a small folder of its own. Blocking.

It lies in a quarantine, next to what purges put there, and leaves with it at the end of its time.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from actions.fs_folders import exists, inside, made, opened, write
from actions.fs_quarantine import QUARANTINE
from oncall_agent.contract import PermanentError

CHUNK_BYTES = 1_048_576
_RECORD = "record.json"
_MAX_RECORD_BYTES = 262_144


class Record:
    """The memory of one attempt on one folder, found again by another process."""

    def __init__(self, base: str, root: str, key: str, seconds: float) -> None:
        self._base, self._seconds = base, seconds
        self._name = hashlib.blake2b(f"{root}\0{key}".encode(), digest_size=12).hexdigest()

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self._base}/{QUARANTINE}/{self._name}"

    def read(self) -> dict[str, Any]:
        """Give what was remembered; empty when nothing was."""
        with contextlib.suppress(FileNotFoundError), self._own() as own, _read(own, _RECORD) as stream:
            found: dict[str, Any] = json.loads(stream.read(_MAX_RECORD_BYTES))
            return found
        return {}

    def keep(self, facts: dict[str, Any], now: float) -> dict[str, Any]:
        """Remember this from now on, on disk; give it back."""
        with opened(self._base) as base, made(base, QUARANTINE) as store, made(store, self._name) as own:
            write(own, "expires_at", repr(now + self._seconds))
            write(own, f"{_RECORD}.new", json.dumps(facts))
            os.rename(f"{_RECORD}.new", _RECORD, src_dir_fd=own, dst_dir_fd=own)
            os.fsync(own)
        return facts

    def append(self, name: str, entry: dict[str, Any]) -> None:
        """Add one line to a list of the record, on disk."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._own() as own, os.fdopen(os.open(name, flags, 0o600, dir_fd=own), "ab") as stream:
            stream.write(json.dumps(entry).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def entries(self, name: str) -> list[dict[str, Any]]:
        """Give the lines of such a list; a last one that a crash left half-written is left out."""
        try:
            with self._own() as own, _read(own, name) as stream:
                lines = stream.read().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def save(self, name: str, source: int, start: int, count: int) -> None:
        """Compress a part of an open file into the record, and read it back before trusting it.

        Raises:
            PermanentError: it can't be written whole.
        """
        with self._own() as own:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(name, flags, 0o600, dir_fd=own), "wb") as stream:
                    written = _compress(stream, source, start, count)
                    os.fsync(stream.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=own)
                raise PermanentError(f"what is cut can't be saved ({error.strerror})") from error
        if self.digest(name) != written:
            raise PermanentError("what is cut was not saved as it is")

    def chunks(self, name: str) -> Iterator[bytes]:
        """Give a saved part again."""
        with self._own() as own, _read(own, name) as stream, gzip.open(stream) as plain:
            while chunk := plain.read(CHUNK_BYTES):
                yield chunk

    def digest(self, name: str) -> str:
        """Give the digest of a saved part, empty when it can't be read."""
        seen = hashlib.sha256()
        try:
            for chunk in self.chunks(name):
                seen.update(chunk)
        except (OSError, EOFError, zlib.error):
            return ""
        return seen.hexdigest()

    @contextmanager
    def _own(self) -> Iterator[int]:
        with opened(self._base) as base, inside(base, QUARANTINE) as store, inside(store, self._name) as own:
            yield own

    def is_there(self) -> bool:
        """Say whether anything is remembered."""
        try:
            with self._own() as own:
                return exists(own, _RECORD)
        except FileNotFoundError:
            return False


def _compress(stream: Any, source: int, start: int, count: int) -> str:
    seen, left = hashlib.sha256(), count
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=6, mtime=0) as packed:
        while left and (chunk := os.pread(source, min(CHUNK_BYTES, left), start + count - left)):
            seen.update(chunk)
            packed.write(chunk)
            left -= len(chunk)
    return seen.hexdigest()


@contextmanager
def _read(folder: int, name: str) -> Iterator[Any]:
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb") as stream:
        yield stream
