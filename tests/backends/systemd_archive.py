"""The root file system of a small Debian that boots: systemd, D-Bus, polkit, Python.

It lies in the cache under a name that is a digest of what it was made from.
"""

import hashlib
import platform
from pathlib import Path

from backends import image_archive
from backends.base import require_command
from backends.made_once import made_once
from backends.processes import run_quietly

PACKAGES = ("systemd", "systemd-sysv", "dbus", "polkitd", "python3", "procps")
USER, USER_ID = "oncall-agent", 64711
HOOKS = (f'chroot "$1" useradd --system --uid {USER_ID} {USER}',)
TIMEOUT_SECONDS = 900.0


def recipe() -> str:
    """A digest of what the archive is made from."""
    parts = [image_archive._codename(), platform.machine(), *PACKAGES, *HOOKS, *image_archive.LEFT_OUT]
    return hashlib.sha256("\n".join([*parts, image_archive._sources().read_text()]).encode()).hexdigest()[:16]


def build(cache: Path) -> Path:
    """The archive, from the cache or made now; raises MissingBackendError when it cannot be made."""
    return made_once(cache / "images" / f"systemd-{recipe()}.tar", _bootstrapped)


def _bootstrapped(target: Path) -> None:
    argv = [require_command("mmdebstrap"), "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    argv += [f"--aptopt={option}" for option in image_archive._apt_options()]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in image_archive.LEFT_OUT]
    argv += [f"--customize-hook={hook}" for hook in HOOKS]
    argv += [image_archive._codename(), str(target), str(image_archive._sources())]
    run_quietly(argv, timeout_seconds=TIMEOUT_SECONDS)
