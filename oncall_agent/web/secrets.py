"""Secrets read at use, remembered for seconds: a rotated file is seen without a restart."""

from __future__ import annotations

from collections.abc import Callable

from oncall_agent.contract.clock import Clock
from oncall_agent.contract.secret import Secret

KEEP_SECONDS = 10.0
"""A file read per request would hold up the event loop under load."""


class SecretCache:
    """Reads each reference at most once per `KEEP_SECONDS`; bounded by the references of the configuration."""

    def __init__(self, read: Callable[[str], Secret], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._kept: dict[str, tuple[float, Secret]] = {}

    def __call__(self, reference: str) -> Secret:
        """Give the secret; `ConfigError` when it can't be read."""
        now = self._clock.monotonic()
        kept = self._kept.get(reference)
        if kept is not None and now < kept[0]:
            return kept[1]
        secret = self._read(reference)
        self._kept[reference] = (now + KEEP_SECONDS, secret)
        return secret
