"""What runs inside a drill's containers: nothing but sh, sleep, test, rm and dd."""

from __future__ import annotations

_SECOND = 1_000_000_000
_REST = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"

# A signal that comes before the trap is set is lost: the container is healthy only from then on.
_READY = ": > /tmp/ready"

IDLE = _REST
CRASH = "sleep 0.2; exit 3"
HANGING = f"rm -f /tmp/hung; trap ': > /tmp/hung' USR1; {_READY}; {_REST}"
HEALTH = {
    "test": ["CMD-SHELL", "test -e /tmp/ready && test ! -e /tmp/hung"],
    "interval": _SECOND,
    "timeout": 10 * _SECOND,
    "retries": 1,
}
# The load outlives a start: only more memory helps. Its process is the container's first, so that the engine
# sees whose end it was, and it keeps what it took: nobody reads the other end of the pipe.
_PIPE = "test -p /tmp/pipe || mkfifo /tmp/pipe; sleep 3600 < /tmp/pipe &"
_LOAD = f"{_PIPE} exec dd if=/dev/zero of=/tmp/pipe bs=40M count=1 2>/dev/null"
HOGGING = f"trap ': > /tmp/load; {_LOAD}' USR1; if test -e /tmp/load; then {_LOAD}; fi; {_READY}; {_REST}"


def fill_script(size: int, name: str) -> str:
    """Give what writes so many bytes into the container's own layer; equal layers would be kept once."""
    return f"echo {name} > /name && dd if=/dev/zero of=/filling bs=1024 count={size // 1024} 2>/dev/null"
