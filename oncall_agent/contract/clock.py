"""Time as an argument: rules get `now`, everything that waits gets a `Clock`."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from; tests pass one that they turn by hand."""

    def now(self) -> float:
        """Give the wall clock in seconds since the epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Give seconds from an arbitrary start that never go back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for that long."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Give the wall clock in seconds since the epoch (UTC)."""
        return time.time()  # noqa: TID251 - the one place that reads it

    def monotonic(self) -> float:
        """Give seconds from an arbitrary start that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for that long."""
        await asyncio.sleep(seconds)
