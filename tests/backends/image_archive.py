"""The root file system of the tests' Docker image, made from Debian packages without pulling anything.

It lies in the cache under a name that is a digest of everything it was built from.
"""

import hashlib
import os
import platform
import re
from pathlib import Path

from backends.base import MissingBackendError, require_command
from backends.processes import run_quietly

PACKAGES = ("python3", "procps", "curl", "redis-server")
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
BUILD_TIMEOUT_SECONDS = 600.0
APT_FOLDER = Path("/etc/apt")
PASSED_ON = re.compile(r'^(Acquire::(?:Check-Valid-Until|https?::Proxy\S*)) ("[^"]+");$', re.MULTILINE)


def recipe() -> str:
    """A digest of what the image is built from: system, packages, sources, what is left out."""
    parts = [_codename(), platform.machine(), *PACKAGES, *LEFT_OUT, _sources().read_text()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def archive_path(cache: Path) -> Path:
    """Where the archive of the present recipe lies, whether it is there or not."""
    return cache / "images" / f"base-{recipe()}.tar"


def build_archive(cache: Path) -> Path:
    """The archive, from the cache or built now; raises MissingBackendError when it cannot be built."""
    path = archive_path(cache)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.tar")
    try:
        run_quietly(_mmdebstrap(partial), timeout_seconds=BUILD_TIMEOUT_SECONDS)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    for older in path.parent.glob("base-*.tar"):
        if older != path and older.stem.count(".") == 0:
            older.unlink(missing_ok=True)
    return path


def _mmdebstrap(target: Path) -> list[str]:
    argv = [require_command("mmdebstrap"), "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    argv += [f"--aptopt={option}" for option in _apt_options()]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    return [*argv, _codename(), str(target), str(_sources())]


def _sources() -> Path:
    """The file that names Debian's own packages: it has this release and the component main."""
    release = re.compile(rf"(?:^|\s){re.escape(_codename())}(?:\s|$)", re.MULTILINE)
    listed = [APT_FOLDER / "sources.list", *sorted((APT_FOLDER / "sources.list.d").glob("*"))]
    for path in listed:
        text = (
            path.read_text(encoding="utf-8")
            if path.suffix in {".list", ".sources"} and path.is_file()
            else ""
        )
        if release.search(text) and re.search(r"\bmain\b", text):
            return path
    raise MissingBackendError("no Debian package sources to build the image from")


def _codename() -> str:
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "unknown")


def _apt_options() -> list[str]:
    """Options of this machine's apt without which its sources may not answer (proxy, validity dates)."""
    shown = run_quietly(["apt-config", "dump"])
    return [f"{key} {value};" for key, value in PASSED_ON.findall(shown)]
