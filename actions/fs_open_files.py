"""Which files are in use by a process of this machine: descriptors and memory maps, from /proc."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = "/proc"


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """Device and inode of every file in use, as far as this process may look.

    Attributes:
        is_complete: no process hid its files; otherwise the kernel is asked for each file by a write lease.
    """

    seen: frozenset[tuple[int, int]]
    is_complete: bool

    @classmethod
    def of_this_machine(cls) -> Self:
        """Look at every process once."""
        seen: set[tuple[int, int]] = set()
        is_complete = True
        for name in os.listdir(_PROC):  # noqa: PTH208 - names, not paths
            if name.isdecimal() and int(name) != os.getpid():
                is_complete = _look_at(f"{_PROC}/{name}", seen) and is_complete
        return cls(frozenset(seen), is_complete)

    def has(self, root: int, path: tuple[str, ...], device: int, inode: int) -> bool:
        """Say whether a file below `root` is in use; True also when that can't be found out."""
        if (device, inode) in self.seen:
            return True
        return not self.is_complete and not _leasable(root, path)


def _look_at(process: str, seen: set[tuple[int, int]]) -> bool:
    try:
        descriptors = os.listdir(f"{process}/fd")  # noqa: PTH208 - names, not paths
    except PermissionError:
        return False
    except OSError:
        return True  # It has ended.
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            found = Path(f"{process}/fd/{descriptor}").stat()
            seen.add((found.st_dev, found.st_ino))
    with contextlib.suppress(OSError):
        _look_at_maps(process, seen)
    return True


def _look_at_maps(process: str, seen: set[tuple[int, int]]) -> None:
    with Path(f"{process}/maps").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            parts = line.split(maxsplit=5)
            if len(parts) > 4 and parts[4] != "0":  # noqa: PLR2004 - the column of the inode
                major, _, minor = parts[3].partition(":")
                seen.add((os.makedev(int(major, 16), int(minor, 16)), int(parts[4])))


def _leasable(root: int, path: tuple[str, ...]) -> bool:
    """Ask the kernel: it grants a write lease only on a file that nobody else has open."""
    folder = os.dup(root)
    try:
        for name in path[:-1]:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = below
        descriptor = os.open(
            path[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
        )
    except OSError:
        return False
    finally:
        os.close(folder)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
