"""A service that writes a log line every few milliseconds and opens its log anew on HUP: what drills are made with.

`python -m actions.fs_drill_writer LOG PID_FILE`; it ends by TERM, or with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

_PAUSE_SECONDS = 0.02


def main(log: str, pid_file: str) -> int:
    """Write until told to end."""
    parent, must_reopen = os.getppid(), True

    def reopen(_number: int, _frame: object) -> None:
        nonlocal must_reopen
        must_reopen = True

    signal.signal(signal.SIGHUP, reopen)
    Path(pid_file).write_text(str(os.getpid()), encoding="ascii")
    descriptor = -1
    while os.getppid() == parent:
        if must_reopen:
            must_reopen = False
            if descriptor >= 0:
                os.close(descriptor)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        with contextlib.suppress(OSError):  # A full disk: the line is lost, the service is not.
            os.write(descriptor, b"drill: one more line\n")
        time.sleep(_PAUSE_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
