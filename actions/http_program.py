"""Running a program of the operator: an argument list without a shell, bounded in time and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from oncall_agent.contract import PermanentError, TransientError

_SAID_BYTES = 8_192
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def run_program(argv: Sequence[str], seconds: float) -> str:
    """Give what it says on both streams.

    Raises:
        PermanentError: it can't be run, or ends with something else than 0; with the end of what it said.
        TransientError: it does not end in time, and was killed.
    """
    name = Path(argv[0]).name
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": _PATH, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        raise PermanentError(f"{name} can't be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(max(seconds, 0.05)):
            said = await _tail(process)
            code = await process.wait()
    except TimeoutError:
        raise TransientError(f"{name} does not end in time") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code:
        raise PermanentError(f"{name} refuses: {said.strip()[-300:]}")
    return said


async def _tail(process: asyncio.subprocess.Process) -> str:
    said = b""
    while process.stdout and (chunk := await process.stdout.read(4_096)):
        said = (said + chunk)[-_SAID_BYTES:]
    return said.decode(errors="replace")
