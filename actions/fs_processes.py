"""Which processes of this machine hold which files, and which processes a declared service is. From /proc; blocking."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actions.fs_settings import Holder
from oncall_agent.contract import PermanentError

_PROC = Path("/proc")
_MAX_PIDS = 256
_STARTED_AT = 19  # the 22nd field of /proc/<pid>/stat, counted after the command's name


@dataclass(frozen=True, slots=True)
class Process:
    """One process; the number alone may be another's by the time it is used."""

    pid: int
    started: int
    name: str


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that has a file open for writing; `appends`: each write goes to the end, wherever that is."""

    pid: int
    appends: bool


@dataclass(frozen=True, slots=True)
class Writers:
    """Who writes a file, as far as this process may look."""

    seen: tuple[Writer, ...]
    hidden: int
    """Processes that did not show their files."""


def process(pid: int) -> Process | None:
    """Give a running process, None when it is gone or a zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return None if fields[0] in "ZX" else Process(pid, int(fields[_STARTED_AT]), name)


def writers_of(device: int, inode: int) -> Writers:
    """Give every process that has this file open for writing."""
    seen: list[Writer] = []
    hidden = 0
    for pid in _pids():
        try:
            for descriptor, found in _open_files(pid):
                if (found.st_dev, found.st_ino) == (device, inode):
                    seen += _as_writer(pid, descriptor)
        except PermissionError:
            hidden += 1
    return Writers(tuple(seen), hidden)


def deleted_bytes(pid: int, device: int) -> int:
    """Give the bytes on a filesystem that only this process still keeps: deleted, but open.

    Raises:
        PermissionError: the process does not show its files.
    """
    files = {
        found.st_ino: found.st_blocks * 512
        for _, found in _open_files(pid)
        if found.st_dev == device and not found.st_nlink and stat.S_ISREG(found.st_mode)
    }
    return sum(files.values())


def processes_of(holder: Holder) -> tuple[Process, ...]:
    """Give the running processes of a declared service; never init and never this one.

    Raises:
        PermanentError: the pid file can't be read, or holds no number.
    """
    if holder.pid_file:
        pids = [_pid_in(holder.pid_file)]
    elif holder.unit:
        pids = [pid for pid in _pids() if _is_in_unit(pid, holder.unit)]
    else:
        pids = [pid for pid in _pids() if _runs(pid, holder.program or "")]
    if len(pids) > _MAX_PIDS:
        raise PermanentError(f"{len(pids)} processes are more than one service has")
    found = (process(pid) for pid in pids if pid not in (1, os.getpid()))
    return tuple(one for one in found if one is not None)


def send(one: Process, name: str) -> bool:
    """Send a signal to exactly this process; False when it is gone or another has its number.

    Raises:
        PermanentError: it is not ours to signal.
    """
    try:
        descriptor = os.pidfd_open(one.pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor keeps the number from being given to another from here on.
        if process(one.pid) != one:
            return False
        signal.pidfd_send_signal(descriptor, signal.Signals[f"SIG{name}"])
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise PermanentError(f"process {one.pid} ({one.name}) may not be signalled by us") from error
    finally:
        os.close(descriptor)
    return True


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir(_PROC) if name.isdecimal())  # noqa: PTH208 - names, not paths


def _open_files(pid: int) -> Iterator[tuple[str, os.stat_result]]:
    folder = _PROC / str(pid) / "fd"
    try:
        descriptors = os.listdir(folder)  # noqa: PTH208 - names, not paths
    except (FileNotFoundError, ProcessLookupError):
        return
    for descriptor in descriptors:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield descriptor, (folder / descriptor).stat()


def _as_writer(pid: int, descriptor: str) -> list[Writer]:
    with contextlib.suppress(OSError, StopIteration):
        lines = (_PROC / str(pid) / "fdinfo" / descriptor).read_text(encoding="ascii").splitlines()
        flags = int(next(line for line in lines if line.startswith("flags:")).split()[1], 8)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            return [Writer(pid, bool(flags & os.O_APPEND))]
    return []


def _pid_in(path: str) -> int:
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")[:32].strip()
        return int(text)
    except FileNotFoundError:
        raise PermanentError("the pid file is not there: the service does not run") from None
    except (OSError, ValueError) as error:
        raise PermanentError("the pid file can't be read") from error


def _is_in_unit(pid: int, unit: str) -> bool:
    with contextlib.suppress(OSError):
        lines = (_PROC / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        return any(unit in line.partition("::")[2].split("/") or unit in line.split("/") for line in lines)
    return False


def _runs(pid: int, program: str) -> bool:
    with contextlib.suppress(OSError):
        return str((_PROC / str(pid) / "exe").readlink()).removesuffix(" (deleted)") == program
    return False
