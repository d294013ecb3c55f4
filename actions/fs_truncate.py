"""Taking the head off a log that is being written, and putting it back: in place, the writer notices nothing. Blocking.

Where the filesystem can remove and insert whole blocks (ext4, XFS) both are one step for the writer, and no line
is lost. Elsewhere (tmpfs, NFS) the rest is copied down; a line written in the moment between the last copy and
the truncation is lost, as with every copy-and-truncate.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actions.fs_folders import descended, opened
from actions.fs_processes import Writers, writers_of
from actions.fs_record import CHUNK_BYTES, Record
from oncall_agent.contract import PermanentError

_COLLAPSE, _INSERT = 0x08, 0x20
_CAN_NOT = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM})
_SHOWN = 10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True, slots=True)
class Log:
    """A log file as it is now."""

    size: int
    device: int
    inode: int
    block: int
    links: int

    def spare(self, keep_tail: int) -> int:
        """Give the bytes that may go: whole blocks before the tail."""
        return max(0, (self.size - keep_tail) // self.block * self.block)


def parts_of(path: str) -> tuple[str, ...]:
    """Give a relative path as its names.

    Raises:
        PermanentError: it leads elsewhere.
    """
    parts = tuple(path.split("/"))
    if any(part in ("", ".", "..") for part in parts):
        raise PermanentError("the log must be named by a plain path below its root")
    return parts


@contextmanager
def log_in(root: str, path: str) -> Iterator[int]:
    """Open a log below its root for reading and writing, following no link and leaving the filesystem nowhere.

    Raises:
        PermanentError: there is no such file, or it is something else.
    """
    parts = parts_of(path)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with opened(root) as top, descended(top, parts[:-1]) as folder:
            device = os.fstat(top).st_dev
            descriptor = os.open(parts[-1], flags, dir_fd=folder)
    except OSError as error:
        raise PermanentError(f"the log can't be opened: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_dev != device:
            raise PermanentError("the log is no regular file of its root's filesystem")
        yield descriptor
    finally:
        os.close(descriptor)


def look_at(descriptor: int) -> Log:
    """Give what an open log is now."""
    found = os.fstat(descriptor)
    block = max(os.fstatvfs(descriptor).f_bsize, 512)
    return Log(found.st_size, found.st_dev, found.st_ino, block, found.st_nlink)


def refusal(log: Log, writers: Writers, keep_tail: int) -> str:
    """Give the reason why a log may not be cut, or an empty text."""
    if log.links != 1:
        return "the log has other names: it may belong elsewhere"
    if not log.spare(keep_tail):
        return "the log is not longer than what is to be kept"
    if not writers.seen:
        hidden = f" that is visible to us ({writers.hidden} hide their files)" if writers.hidden else ""
        return f"no process{hidden} writes the log: remove it by other means"
    if not all(writer.appends for writer in writers.seen):
        return "a writer does not append: it would go on at its old place and leave a hole"
    return ""


def facts_of(log: Log, writers: Writers, keep_tail: int) -> dict[str, Any]:
    """Give the evidence to keep."""
    pids = sorted({writer.pid for writer in writers.seen})[:_SHOWN]
    return {"bytes": log.size, "inode": log.inode, "cut": log.spare(keep_tail), "writers": pids}


def writers_on(descriptor: int) -> Writers:
    """Give who writes an open log; our own descriptor does not count."""
    found = os.fstat(descriptor)
    seen = writers_of(found.st_dev, found.st_ino)
    return Writers(tuple(one for one in seen.seen if one.pid != os.getpid()), seen.hidden)


def cut_head(descriptor: int, count: int) -> None:
    """Remove the first `count` bytes, a multiple of the block."""
    if _fallocate(descriptor, _COLLAPSE, count):
        return
    at = 0
    while chunk := os.pread(descriptor, CHUNK_BYTES, count + at):
        _write_all(descriptor, chunk, at)
        at += len(chunk)
    os.ftruncate(descriptor, at)


def starts_with(descriptor: int, record: Record, name: str) -> bool:
    """Say whether an open log still begins with what was saved of it."""
    first = next(record.chunks(name), b"")
    return bool(first) and os.pread(descriptor, len(first), 0) == first


def put_head(descriptor: int, record: Record, head: str, tail: str, count: int, size: int) -> None:
    """Put the saved head back before what is in the log now; may be repeated after a crash.

    Args:
        size: the log's length when this was first begun.
    """
    if os.fstat(descriptor).st_size < size + count and not _fallocate(descriptor, _INSERT, count):
        # The writer's next line goes behind the room that is made here.
        record.save(tail, descriptor, 0, size)
        os.ftruncate(descriptor, size + count)
        _copy(descriptor, record, tail, count)
    _copy(descriptor, record, head, 0)
    os.fsync(descriptor)


def _copy(descriptor: int, record: Record, name: str, at: int) -> None:
    for chunk in record.chunks(name):
        _write_all(descriptor, chunk, at)
        at += len(chunk)


def _fallocate(descriptor: int, mode: int, count: int) -> bool:
    if _libc.fallocate(descriptor, mode, 0, count) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CAN_NOT:
        return False
    raise OSError(number, os.strerror(number))


def _write_all(descriptor: int, chunk: bytes, at: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
