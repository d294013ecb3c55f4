"""The journal of one unit: its last lines, and how often it was started. Bounded, read-only, never fatal."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE

from actions.systemd_bus import SystemdSettings

_MAX_BYTES = 8_192
_STARTED = "MESSAGE_ID=39f53479d3a045ac8e11786248231fbf"
"""What systemd logs when a start is done (systemd.journal catalogue: SD_MESSAGE_UNIT_STARTED)."""
_MAX_STARTS = 1_000


async def last_lines(settings: SystemdSettings, unit: str, seconds: float) -> str | None:
    """Give the unit's last lines; None when the journal can't be read from here."""
    found = await _journalctl(settings, ["-n", "40", "-o", "short-iso", "-u", unit], seconds)
    return None if found is None else found[-_MAX_BYTES:].decode(errors="replace")


async def starts_since(settings: SystemdSettings, unit: str, since: float, seconds: float) -> int | None:
    """Give how often the unit was started since then; None when the journal can't tell."""
    query = ["-n", str(_MAX_STARTS), "-o", "cat", f"--since=@{int(since)}", f"UNIT={unit}", _STARTED]
    found = await _journalctl(settings, query, seconds)
    return None if found is None else len(found.splitlines())


async def _journalctl(settings: SystemdSettings, arguments: list[str], seconds: float) -> bytes | None:
    if not settings.journal:
        return None
    where = ["-D", settings.journal_directory] if settings.journal_directory else []
    try:
        process = await asyncio.create_subprocess_exec(
            "journalctl", "--no-pager", "-q", *where, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(max(0.05, min(seconds, settings.timeout_seconds))):
            output, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return output if process.returncode == 0 else None
