"""Circuit breaker: a backend that keeps failing is left alone for a while, then asked once."""

from __future__ import annotations

from collections import deque
from enum import StrEnum


class BreakerState(StrEnum):
    """Closed lets calls through, open does not, half-open lets one through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens at a failure rate of 50 % over the last calls within the window; plain state, no I/O."""

    def __init__(
        self,
        *,
        window_seconds: float = 60.0,
        least_calls: int = 5,
        rate: float = 0.5,
        open_seconds: float = 30.0,
    ) -> None:
        self._calls: deque[tuple[float, bool]] = deque(maxlen=100)
        self._window, self._least, self._rate, self._pause = window_seconds, least_calls, rate, open_seconds
        self._opened_at: float | None = None

    def state(self, now: float) -> BreakerState:
        """Say what a call at `now` would meet."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now - self._opened_at < self._pause else BreakerState.HALF_OPEN

    def record(self, now: float, *, ok: bool) -> None:
        """Note how a call ended."""
        if self._opened_at is not None:
            if ok:
                self._opened_at = None
                self._calls.clear()
            elif self.state(now) is BreakerState.HALF_OPEN:
                self._opened_at = now
            return
        self._calls.append((now, ok))
        recent = [good for at, good in self._calls if now - at <= self._window]
        if len(recent) >= self._least and recent.count(False) / len(recent) >= self._rate:
            self._opened_at = now
