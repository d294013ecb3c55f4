"""Time that passes only when somebody waits for it."""

from __future__ import annotations

import asyncio


class FakeClock:
    """A `Clock` whose sleep advances it at once; other coroutines get their turn meanwhile.

    Args:
        now: wall clock at the start, seconds since the epoch.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._began, self._passed = now, 0.0

    def now(self) -> float:
        """Give the virtual wall clock."""
        return self._began + self._passed

    def monotonic(self) -> float:
        """Give the virtual seconds since the start."""
        return self._passed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError("time never goes back")
        self._passed += seconds

    async def sleep(self, seconds: float) -> None:
        """Let that much time pass and others run."""
        self.advance(max(0.0, seconds))
        await asyncio.sleep(0)
