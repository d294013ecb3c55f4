"""Moving files to another filesystem and back: copied, compared, and only then removed. Blocking.

Files keep their names below the destination. What an attempt moved stands in its record, one entry per file,
written before the original goes: a crash leaves a file twice, never nowhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actions.fs_folders import descended, exists, opened
from oncall_agent.contract import PermanentError

_CHUNK_BYTES = 1_048_576
_PART = ".oncall-part"


@dataclass(frozen=True, slots=True)
class Moved:
    """One file that was moved."""

    path: str
    size: int
    sha256: str


def room_of(path: str) -> int:
    """Give the free bytes of a filesystem."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def are_apart(source: str, destination: str) -> bool:
    """Say whether two folders lie on different filesystems: else moving frees nothing."""
    return Path(source).stat().st_dev != Path(destination).stat().st_dev


def copied(source: str, destination: str, path: str) -> Moved | None:
    """Copy one file with its times and rights, and read the copy back; None when its place is taken.

    Raises:
        PermanentError: the copy is not the original.
    """
    with _file(source, path) as (origin, _), _place(destination, path) as (folder, name):
        if exists(folder, name):
            return None
        found = os.fstat(origin)
        digest = _copy(origin, folder, name + _PART, found)
        with _opened_file(folder, name + _PART) as copy:
            is_same = _digest(copy) == digest and os.fstat(origin).st_mtime_ns == found.st_mtime_ns
        if not is_same:
            os.unlink(name + _PART, dir_fd=folder)
            raise PermanentError(f"the copy of {path} is not the original"[:300])
        os.rename(name + _PART, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
        return Moved(path, found.st_size, digest)


def digest_of(root: str, path: str) -> str:
    """Give the digest of a file, empty when it is not there."""
    try:
        with _file(root, path) as (descriptor, _):
            return _digest(descriptor)
    except OSError:
        return ""


def removed(root: str, moved: Moved) -> bool:
    """Remove a file that is still what was moved; False when it is not."""
    try:
        with _file(root, moved.path) as (descriptor, folder):
            if os.fstat(descriptor).st_size != moved.size or _digest(descriptor) != moved.sha256:
                return False
            os.unlink(moved.path.rpartition("/")[2], dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _copy(origin: int, folder: int, name: str, found: os.stat_result) -> str:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    seen = hashlib.sha256()
    copy = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        while chunk := os.read(origin, _CHUNK_BYTES):
            seen.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(copy, view) :]
        with contextlib.suppress(PermissionError):
            os.fchown(copy, found.st_uid, found.st_gid)
        os.fchmod(copy, stat.S_IMODE(found.st_mode))
        os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
        os.fsync(copy)
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(copy)
    return seen.hexdigest()


def _digest(descriptor: int) -> str:
    seen, at = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, at):
        seen.update(chunk)
        at += len(chunk)
    return seen.hexdigest()


@contextmanager
def _file(root: str, path: str) -> Iterator[tuple[int, int]]:
    parts = tuple(path.split("/"))
    with (
        opened(root) as top,
        descended(top, parts[:-1]) as folder,
        _opened_file(folder, parts[-1]) as descriptor,
    ):
        yield descriptor, folder


@contextmanager
def _place(root: str, path: str) -> Iterator[tuple[int, str]]:
    parts = tuple(path.split("/"))
    with opened(root) as top, descended(top, parts[:-1], make=True) as folder:
        yield folder, parts[-1]


@contextmanager
def _opened_file(folder: int, name: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PermanentError(f"{name} is no regular file"[:300])
        yield descriptor
    finally:
        os.close(descriptor)


def as_facts(moved: Moved) -> dict[str, Any]:
    """Give an entry of the record."""
    return {"path": moved.path, "size": moved.size, "sha256": moved.sha256}
