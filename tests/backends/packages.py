"""Debian packages, installed only when missing, in one transaction for all backends."""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from backends.base import MissingBackendError, Need, find_command
from backends.processes import run_quietly

POLICY_FILE = Path("/usr/sbin/policy-rc.d")
APT_TIMEOUT_SECONDS = 900.0


def missing_packages(needs: Iterable[Need]) -> list[str]:
    """The packages whose proof is not on this machine, in order, each once."""
    return list(dict.fromkeys(need.package for need in needs if not need.is_met()))


def install(packages: Sequence[str]) -> str | None:
    """Install the packages; None when all went well, else one sentence why it did not."""
    if not packages:
        return None
    apt = find_command("apt-get")
    if apt is None:
        return "not a Debian machine (no apt-get); missing: " + " ".join(packages)
    prefix = _privilege()
    if prefix is None:
        return "installing needs root or password-less sudo: apt-get install " + " ".join(packages)
    command = [
        *prefix,
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        apt,
        "-q",
        "-y",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]
    with _no_service_starts(enabled=os.geteuid() == 0):
        _run([*command, "update"])
        return _run([*command, "--no-install-recommends", "install", *packages])


def _privilege() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    sudo = find_command("sudo")
    if sudo is not None and _run([sudo, "-n", "true"]) is None:
        return [sudo, "-n"]
    return None


def _run(argv: Sequence[str]) -> str | None:
    try:
        run_quietly(argv, timeout_seconds=APT_TIMEOUT_SECONDS)
    except MissingBackendError as error:
        return str(error)
    return None


@contextlib.contextmanager
def _no_service_starts(*, enabled: bool) -> Iterator[None]:
    """Keep freshly installed servers from being started by their packages on well-known ports."""
    if not enabled or POLICY_FILE.exists():
        yield
        return
    POLICY_FILE.write_text("#!/bin/sh\nexit 101\n")
    POLICY_FILE.chmod(POLICY_FILE.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    try:
        yield
    finally:
        POLICY_FILE.unlink(missing_ok=True)
