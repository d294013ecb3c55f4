"""The root file system of the document engine that FerretDB stands on: DocumentDB in PostgreSQL.

Debian has it in its unstable suite only, so it never touches this machine's own packages: it lies in a folder
of the cache, under a name that is a digest of what it was made from, and its programs run with that as root.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

from backends import image_archive
from backends.base import MissingBackendError, require_command
from backends.processes import run_quietly

SUITE = "sid"
PACKAGES = ("postgresql-18", "postgresql-18-documentdb")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TIMEOUT_SECONDS = 900.0


def recipe() -> str:
    """A digest of what the folder is made from."""
    parts = [platform.machine(), SUITE, *PACKAGES, *image_archive.LEFT_OUT, _source_line()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build(cache: Path) -> Path:
    """The folder, from the cache or made now; raises MissingBackendError when it cannot be made."""
    folder = cache / "roots" / f"documentdb-{recipe()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".documentdb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _make(folder)
    return folder


def _make(folder: Path) -> None:
    for older in folder.parent.glob("*documentdb-*"):
        shutil.rmtree(older, ignore_errors=True)
    partial = folder.with_name(f".{os.getpid()}.{folder.name}")
    try:
        _bootstrap(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _bootstrap(target: Path) -> None:
    argv = [require_command("mmdebstrap"), "--quiet", "--variant=minbase", "--format=directory"]
    argv += [f"--include={','.join(PACKAGES)}"]
    argv += [f"--aptopt={option}" for option in image_archive._apt_options()]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in image_archive.LEFT_OUT]
    with tempfile.NamedTemporaryFile("w", suffix=".list") as listed:
        listed.write(f"{_source_line()}\n")
        listed.flush()
        run_quietly([*argv, SUITE, str(target), listed.name], timeout_seconds=TIMEOUT_SECONDS)


def _source_line() -> str:
    """The unstable suite on the mirror that this machine's own packages come from."""
    text = image_archive._sources().read_text(encoding="utf-8")
    found = re.search(r"^(?:URIs:\s*|deb\s+(?:\[[^\]]*\]\s+)?)(\S+)", text, re.MULTILINE)
    if found is None:
        raise MissingBackendError("the Debian package sources name no mirror")
    return f"deb [signed-by={KEYRING}] {found[1]} {SUITE} main"
