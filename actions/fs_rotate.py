"""logrotate with a configuration of the operator: what it would rotate, doing it, and whether it was done. Blocking."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actions.fs_processes import writers_of
from actions.fs_settings import Rotation
from oncall_agent.contract import Check, PermanentError, TransientError
from oncall_agent.models import JsonObject

_CONSIDERED = re.compile(r"^considering log (/.*)$", re.MULTILINE)
_READ = re.compile(r"^reading config file (.+)$", re.MULTILINE)
_ERROR = re.compile(r"^error: .*$", re.MULTILINE)
_MAX_SAID, _MAX_LOGS = 65_536, 200


@dataclass(frozen=True, slots=True)
class RotatedLog:
    """A log that a configuration is about, as it was before."""

    path: str
    inode: int
    device: int
    size: int
    is_written: bool

    def facts(self) -> dict[str, Any]:
        """Give what a receipt keeps of it."""
        return {
            "path": self.path,
            "inode": self.inode,
            "device": self.device,
            "bytes": self.size,
            "written": self.is_written,
        }


def trouble_of(config: str) -> str:
    """Give the reason why a configuration may not be used, or an empty text: its scripts run with our rights."""
    for path in (Path(config), Path(config).parent):
        try:
            found = path.lstat()
        except OSError:
            return f"{path.name} can't be read"
        if stat.S_ISLNK(found.st_mode):
            return f"{path.name} is a link"
        if _may_be_changed(found):
            return f"{path.name} may be changed by others"
    return ""


def _may_be_changed(found: os.stat_result) -> bool:
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return False  # There nobody replaces what is another's.
    is_foreign = found.st_uid not in (0, os.geteuid())
    return is_foreign or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def listed(program: str, rotation: Rotation, root: str, seconds: float) -> list[RotatedLog]:
    """Ask logrotate, without rotating, which logs a configuration is about.

    Raises:
        PermanentError: it does not accept the configuration, or a log lies outside of the root.
    """
    said = _run([program, "--debug", "--state", rotation.state, rotation.config], seconds)
    reason = next(filter(None, map(trouble_of, _READ.findall(said))), "")
    if reason:
        raise PermanentError(f"the configuration: {reason}")
    paths = list(dict.fromkeys(_CONSIDERED.findall(said)))
    if len(paths) > _MAX_LOGS:
        raise PermanentError(f"the configuration is about more than {_MAX_LOGS} logs")
    for path in paths:
        if not os.path.realpath(path).startswith(f"{root}/"):
            raise PermanentError(f"the configuration is about a log outside of its root: {path}"[:300])
    return [_log(path) for path in paths if Path(path).is_file()]


def rotate(program: str, rotation: Rotation, seconds: float) -> None:
    """Force the rotation.

    Raises:
        PermanentError: logrotate says what went wrong.
        TransientError: it does not end in time.
    """
    _run([program, "--force", "--state", rotation.state, rotation.config], seconds)


def is_rotated(before: Sequence[JsonObject], *, asks_writers: bool = True) -> Check:
    """Say whether each log is a new file, or was emptied, and whether its writer has moved over to it."""
    for log in before:
        try:
            now = Path(log["path"]).stat()
        except OSError:
            return Check(ok=False, reason="there is no new file", facts={"log": log["path"]})
        is_new = (now.st_dev, now.st_ino) != (log["device"], log["inode"])
        if not is_new and now.st_size >= max(1, log["bytes"]):
            return Check(ok=False, reason="the log was not rotated", facts={"log": log["path"]})
        reason = _writers_reason(log, now) if asks_writers and is_new and log["written"] else ""
        if reason:
            return Check(ok=False, reason=reason, facts={"log": log["path"]})
    return Check(ok=bool(before), reason="" if before else "no log was rotated", facts={"logs": len(before)})


def _writers_reason(log: JsonObject, now: os.stat_result) -> str:
    if writers_of(log["device"], log["inode"]).seen:
        return "a process still writes the old file"
    return "" if writers_of(now.st_dev, now.st_ino).seen else "nobody writes the new file"


def _log(path: str) -> RotatedLog:
    found = Path(path).stat()
    return RotatedLog(
        path,
        found.st_ino,
        found.st_dev,
        found.st_size,
        bool(writers_of(found.st_dev, found.st_ino).seen),
    )


def _run(argv: list[str], seconds: float) -> str:
    try:
        ended = subprocess.run(  # noqa: S603 - the operator's program and files, no shell
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(seconds, 0.05),
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise TransientError("logrotate does not end in time") from None
    except OSError as error:
        raise PermanentError(f"logrotate can't be run: {error.strerror}") from error
    said = ended.stdout[:_MAX_SAID].decode(errors="replace")
    found = _ERROR.search(said)
    if ended.returncode or found:
        reason = found[0] if found else said.strip()[-200:]
        raise PermanentError(f"logrotate refuses: {reason[:300]}")
    return said
