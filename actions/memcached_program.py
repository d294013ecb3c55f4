"""Restarting a node by systemctl or kubectl: an argument list of our own making, never a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from pathlib import Path

from actions.memcached_settings import MemcachedNode, MemcachedSettings
from oncall_agent.contract import PermanentError

_SAID_BYTES = 2_048
_PASSED_ON = ("HOME", "KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
_PATH = "/usr/local/bin:/usr/bin:/bin"


def argv_of(node: MemcachedNode, conf: MemcachedSettings) -> list[str]:
    """Give the command that restarts a node which is a unit or a pod, empty when it is neither."""
    if node.unit:
        return [conf.systemctl, "restart", node.unit]
    if node.pod:
        namespace, _, name = node.pod.partition("/")
        return [conf.kubectl, "--namespace", namespace, "delete", "pod", name, "--wait=true"]
    return []


def trouble_of(program: str) -> str:
    """Give the reason why a program may not be run, or an empty text."""
    try:
        found = Path(os.path.realpath(program)).stat()
    except OSError:
        return f"{program} is not there"
    if not stat.S_ISREG(found.st_mode) or not os.access(program, os.X_OK):
        return f"{program} can't be run"
    return f"{program} may be changed by others" if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


async def run(argv: list[str], seconds: float) -> None:
    """Run it to its end.

    Raises:
        PermanentError: it can't be run, fails, or does not end in time; then it is killed.
    """
    env = {"PATH": _PATH, **{name: os.environ[name] for name in _PASSED_ON if name in os.environ}}
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise PermanentError(f"{argv[0]} can't be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds):
            said = await _tail(process)
            code = await process.wait()
    except TimeoutError:
        raise PermanentError(f"{Path(argv[0]).name} did not end in time") from None
    finally:
        # Also when this is cancelled, and with everything that it started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code:
        raise PermanentError(f"{Path(argv[0]).name} ended with {code}: {said[-200:]}")


async def _tail(process: asyncio.subprocess.Process) -> str:
    said = b""
    while process.stdout and (chunk := await process.stdout.read(65_536)):
        said = (said + chunk)[-_SAID_BYTES:]
    return said.decode(errors="replace").strip()
