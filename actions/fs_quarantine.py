"""Moving files aside and back through folder descriptors. Blocking; no symbolic link is ever followed.

A quarantine lies below its root on the same filesystem, so that moving is renaming: `.oncall-quarantine/<key>/`
with the file `expires_at` and the folder `tree`, which mirrors where the files were. A crash half-way leaves
nothing that has to be guessed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actions.fs_folders import descended, exists, inside, made, opened, write
from actions.fs_open_files import OpenFiles
from oncall_agent.contract import PermanentError, Target

QUARANTINE = ".oncall-quarantine"
_MAX_DEPTH = 64
_MAX_SEEN = 1_000_000
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Which files may go: name pattern, when changed (epoch seconds), and how much at most."""

    glob: str
    changed_before: float
    max_bytes: int
    max_files: int
    changed_after: float = 0.0


@dataclass(frozen=True, slots=True)
class _Found:
    path: tuple[str, ...]
    size: int
    changed_at: float
    device: int
    inode: int


def root_of(target: Target, roots: Sequence[str]) -> str:
    """Give the folder of a target, if it is on the list and is really what it says.

    Raises:
        PermanentError: it is not a listed root, or a link leads there.
    """
    path = target.address.get("root")
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise PermanentError(f"target {target.name}: the address must have an absolute root")
    real = os.path.realpath(path)
    if real != os.path.normpath(path):
        raise PermanentError("the folder is reached through a link")
    if real not in map(os.path.normpath, roots):
        raise PermanentError("the folder is not a listed root")
    if not Path(real).is_dir():
        raise PermanentError("there is no such folder")
    return real


def space_of(path: str) -> dict[str, Any]:
    """Give how full a filesystem is; what is in quarantine below the path counts as free."""
    room = os.statvfs(path)
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    held = tree_bytes(f"{path}/{QUARANTINE}")
    used = max(0, total - free - held)
    return {
        "total_bytes": total,
        "free_bytes": free,
        "quarantine_bytes": held,
        "used": round(used / total, 4) if total else 0.0,
        "free": round(free / total, 4) if total else 1.0,
    }


def tree_bytes(path: str, skip: str = "") -> int:
    """Give the bytes of all files below a folder, 0 when there is none."""
    try:
        with opened(path) as folder:
            return sum(found.size for found in _walk(folder, (), os.fstat(folder).st_dev, skip))
    except FileNotFoundError:
        return 0


def count_of(root: str) -> int:
    """Give how many files are below a folder, quarantine aside."""
    with opened(root) as folder:
        return sum(1 for _ in _walk(folder, (), os.fstat(folder).st_dev, QUARANTINE))


def files_in(root: str, limits: Limits) -> tuple[list[tuple[str, int]], bool]:
    """Give path and size of the files that may go, oldest first, and whether the limits left some out."""
    with opened(root) as folder:
        found, is_cut = _choose(folder, limits)
    return [("/".join(one.path), one.size) for one in found], is_cut


class Quarantine:
    """The files that one attempt moved aside."""

    def __init__(self, root: str, key: str) -> None:
        self._root = root
        self._name = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()

    def plan(self, limits: Limits) -> dict[str, Any]:
        """Say which files would go, oldest first."""
        with opened(self._root) as root:
            chosen, is_cut = _choose(root, limits)
        shown = ["/".join(found.path)[:300] for found in chosen[:_SHOWN]]
        return {
            "files": len(chosen),
            "bytes": sum(one.size for one in chosen),
            "is_cut": is_cut,
            "shown": shown,
        }

    def fill(self, limits: Limits, expires_at: float) -> dict[str, Any]:
        """Move them, once: a quarantine that a former call completed is left as it is."""
        with opened(self._root) as root, made(root, QUARANTINE) as store, made(store, self._name) as own:
            if not exists(own, "complete"):
                write(own, "expires_at", repr(expires_at))
                with made(own, "tree") as tree:
                    is_cut = self._move_all(root, tree, limits)
                write(own, "complete", str(int(is_cut)))
        return {**self.held(), "quarantine": f"{QUARANTINE}/{self._name}", "is_cut": self._was_cut()}

    def held(self) -> dict[str, Any]:
        """Say how many files, and bytes, are in it."""
        sizes: list[int] = []
        with contextlib.suppress(FileNotFoundError), self._own() as (_, own), inside(own, "tree") as tree:
            sizes = [found.size for found in _walk(tree, (), os.fstat(tree).st_dev, "")]
        return {"files": len(sizes), "bytes": sum(sizes)}

    def restore(self) -> dict[str, Any]:
        """Move everything back; an empty or absent quarantine is restored already."""
        restored = left = 0
        with contextlib.suppress(FileNotFoundError), opened(self._root) as root, self._own() as (store, own):
            with inside(own, "tree") as tree:
                for found in list(_walk(tree, (), os.fstat(tree).st_dev, "")):
                    done = _move(tree, root, found)
                    restored, left = restored + done, left + (not done)
            if not left:
                shutil.rmtree(self._name, dir_fd=store)
        return {"restored": restored, "left": left}

    @staticmethod
    def sweep(root: str, now: float, *, is_urgent: bool) -> int:
        """Remove for good what is out of its time, or all of it when urgent; give how many quarantines went."""
        gone = 0
        with (
            contextlib.suppress(FileNotFoundError),
            opened(root) as folder,
            inside(folder, QUARANTINE) as store,
        ):
            for name in os.listdir(store):  # noqa: PTH208 - of a descriptor
                with inside(store, name) as own:
                    # In a hurry only complete ones: another attempt may just be filling its own.
                    is_due = _expires_at(own) <= now or (is_urgent and exists(own, "complete"))
                if is_due:
                    shutil.rmtree(name, dir_fd=store)
                    gone += 1
        return gone

    def _move_all(self, root: int, tree: int, limits: Limits) -> bool:
        # What a crashed call under the same key moved already counts towards the limits.
        held = self.held()
        left = replace(
            limits, max_bytes=limits.max_bytes - held["bytes"], max_files=limits.max_files - held["files"]
        )
        chosen, is_cut = _choose(root, left)
        for found in chosen:
            _move(root, tree, found)
        return is_cut

    def _was_cut(self) -> bool:
        with self._own() as (_, own):
            return bool(_read_float(own, "complete"))

    @contextmanager
    def _own(self) -> Iterator[tuple[int, int]]:
        """Open the folder of all quarantines and this one's."""
        with (
            opened(self._root) as root,
            inside(root, QUARANTINE) as store,
            inside(store, self._name) as own,
        ):
            yield store, own


def _choose(root: int, limits: Limits) -> tuple[list[_Found], bool]:
    """Give the files that may go, oldest first, and whether the limits left some out."""
    device = os.fstat(root).st_dev
    fits = [
        found
        for found in _walk(root, (), device, QUARANTINE)
        if limits.changed_after <= found.changed_at <= limits.changed_before
        and fnmatch.fnmatchcase(found.path[-1], limits.glob)
    ]
    fits.sort(key=lambda found: found.changed_at)
    opened = OpenFiles.of_this_machine() if fits else OpenFiles(frozenset(), is_complete=True)
    chosen: list[_Found] = []
    total = 0
    for found in fits:
        if len(chosen) >= limits.max_files or total + found.size > limits.max_bytes:
            return chosen, True
        if not opened.has(root, found.path, found.device, found.inode):
            chosen.append(found)
            total += found.size
    return chosen, False


def _walk(folder: int, path: tuple[str, ...], device: int, skip: str) -> Iterator[_Found]:
    """Give every regular file below, on this device only."""
    if len(path) >= _MAX_DEPTH:
        return
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name != skip or path]
    for name in names[:_MAX_SEEN]:
        try:
            seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if seen.st_dev != device:
            continue
        if stat.S_ISREG(seen.st_mode):
            yield _Found((*path, name), seen.st_size, seen.st_mtime, seen.st_dev, seen.st_ino)
        elif stat.S_ISDIR(seen.st_mode):
            # A link put in its place meanwhile makes the opening fail: O_NOFOLLOW.
            with contextlib.suppress(OSError), inside(folder, name) as below:
                yield from _walk(below, (*path, name), device, skip)


def _move(source: int, destination: int, found: _Found) -> bool:
    """Rename one file with its folders; False when it is not the one that was seen, or its place is taken."""
    try:
        with (
            descended(source, found.path[:-1]) as here,
            descended(destination, found.path[:-1], make=True) as there,
        ):
            name = found.path[-1]
            seen = os.stat(name, dir_fd=here, follow_symlinks=False)
            if (seen.st_dev, seen.st_ino) != (found.device, found.inode) or exists(there, name):
                return False
            os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno in (40, 18):  # ELOOP: a link in the path; EXDEV: another filesystem.
            return False
        raise
    return True


def _expires_at(own: int) -> float:
    return _read_float(own, "expires_at", float("inf")) if exists(own, "expires_at") else float("inf")


def _read_float(folder: int, name: str, otherwise: float = 0.0) -> float:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        return float(os.read(descriptor, 64))
    except ValueError:
        return otherwise
    finally:
        os.close(descriptor)
