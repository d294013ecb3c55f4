"""Tells systemd how the daemon is: ready, stopping, alive. Silent where no systemd listens."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> bool:
    """Send state lines such as `READY=1`; False when nobody listens.

    Source: sd_notify(3), the datagram protocol of `NOTIFY_SOCKET`.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True


def watchdog_seconds() -> float | None:
    """Give how often systemd wants to hear from us at least, None when it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    owner = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or owner != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000
