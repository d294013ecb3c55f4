"""A file that is slow to make: made once, kept in the cache, never seen half-done, also by two runs at once."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Give the file, made now if it is not there: `make` writes beside it, a rename makes it visible.

    Older files of the same kind (the part of the name before the last dash) are removed.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            _make(path, make)
    return path


def _make(path: Path, make: Callable[[Path], None]) -> None:
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        make(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    kind = path.name.rpartition("-")[0]
    for older in path.parent.glob(f"{kind}-*{path.suffix}"):
        if older != path:
            older.unlink(missing_ok=True)
