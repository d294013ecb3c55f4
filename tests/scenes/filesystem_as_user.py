"""Runs filesystem actions as another user with a few capabilities: `python filesystem_as_user.py ORDER`.

ORDER is JSON: uid, capabilities (numbers), settings, attempts. Everything is imported before the rights are
dropped, since the interpreter may lie where only root looks. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import codecs
import ctypes
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from actions.filesystem import Purge
from actions.filesystem_system import FilesystemSystem
from actions.fs_cold import MoveCold
from actions.fs_deleted import ReleaseDeletedOpen
from actions.fs_logs import RotateLogs, TruncateLog
from actions.fs_warm import WarmOrRebuild
from oncall_agent.contract import ActionError, SystemClock, SystemContext, Target
from oncall_agent.testing import RecordingLog, context_for
from oncall_agent.testing.harness import run_in_thread

KINDS = {
    kind.spec.id: kind
    for kind in (Purge, MoveCold, ReleaseDeletedOpen, RotateLogs, TruncateLog, WarmOrRebuild)
}
CLOCK = SystemClock()
KEEP_CAPABILITIES, AMBIENT, RAISE = 8, 47, 2
VERSION = 0x20080522


def drop(uid: int, capabilities: list[int]) -> None:
    """Become this user, with exactly these capabilities, children included."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    mask = sum(1 << number for number in capabilities)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("<Ii", VERSION, 0)
    if libc.capset(header, struct.pack("<6I", low, low, low, high, high, high)):
        raise OSError(ctypes.get_errno(), "capset")
    for number in capabilities:
        libc.prctl(AMBIENT, RAISE, number, 0, 0)
    # Its own files under /proc stay readable to it.
    libc.prctl(4, 1, 0, 0, 0)


async def warmed_up() -> None:
    """Use once what is imported at first use."""
    process = await asyncio.create_subprocess_exec("/bin/true")
    await process.wait()
    await asyncio.to_thread(subprocess.run, ["/bin/true"], timeout=5, check=True)
    codecs.lookup("ascii")


async def carried_out(order: dict[str, Any], one: dict[str, Any]) -> list[str]:
    """Give how each step of one attempt ended."""
    kind = KINDS[one["action"]]
    ctx = context_for(
        kind.spec.params.model_validate(one["params"]),
        Target("folder", "directory", address={"root": one["root"]}),
        clock=CLOCK,
        seconds=10.0,
        run_blocking=run_in_thread,
    )
    executor = kind(order["settings"])
    try:
        check = await executor.precheck(ctx)
        if not check.ok:
            return [f"precheck: {check.reason}"]
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
        undone = await executor.rollback(ctx, receipt) if kind.spec.reversible else verified
    except ActionError as error:
        return [f"{type(error).__name__}: {error}"]
    return [f"verify: {verified.ok} {verified.reason}", f"undo: {undone.ok} {undone.reason}"]


async def main(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out every attempt, then inspect."""
    ended = {one["action"]: await carried_out(order, one) for one in order["attempts"]}
    system = FilesystemSystem(order["settings"])
    ctx = SystemContext(CLOCK, RecordingLog(), CLOCK.monotonic() + 10, run_in_thread)
    found = await system.inspect(ctx, sorted(KINDS))
    try:
        Path(order["outside"]).write_text("x")
        outside = "written"
    except OSError as error:
        outside = error.strerror
    return {
        "ended": ended,
        "identity": found.identity,
        "missing": [one.name for one in found.privileges if one.needed_by and not one.held],
        "too_much": [one.name for one in found.privileges if one.held and not one.needed_by],
        "outside": outside,
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asyncio.run(warmed_up())
    drop(given["uid"], given["capabilities"])
    sys.stdout.write(json.dumps(asyncio.run(main(given))))
