"""Steps through folders by descriptor: no symbolic link is ever followed, nothing is looked up twice. Blocking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a folder."""
    folder = os.open(path, _FOLDER)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def inside(folder: int, name: str) -> Iterator[int]:
    """Open a folder in a folder."""
    below = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield below
    finally:
        os.close(below)


@contextmanager
def made(folder: int, name: str) -> Iterator[int]:
    """Open a folder in a folder, making it for this user alone when it is not there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    with inside(folder, name) as below:
        yield below


@contextmanager
def descended(folder: int, path: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
    """Open the folder at the end of a path."""
    if not path:
        yield folder
        return
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path[0], 0o700, dir_fd=folder)
    with inside(folder, path[0]) as below, descended(below, path[1:], make=make) as last:
        yield last


def exists(folder: int, name: str) -> bool:
    """Say whether a folder has an entry of this name."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def write(folder: int, name: str, text: str) -> None:
    """Write a file whole, and have it on disk before it is there under its name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(f"{name}.part", flags, 0o600, dir_fd=folder)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    # Whoever looks meanwhile, such as the sweeper, sees nothing or all of it.
    os.rename(f"{name}.part", name, src_dir_fd=folder, dst_dir_fd=folder)
