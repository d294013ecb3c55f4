"""Counts what comes in: metrics at once, one log line per source and second however hard it storms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from oncall_agent.contract.clock import Clock
from oncall_agent.models import AcceptedAlert, Disposition, SuppressReason
from oncall_agent.telemetry.log import logger
from oncall_agent.telemetry.metrics import Metrics

EVERY_SECONDS = 1.0
_MAX_REFUSALS = 20
"""Refusal lines per second: a misconfigured sender in a loop must not fill the journal."""


class Tally:
    """What was accepted and refused since the last lines were written."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._log = logger()
        self._accepted: dict[str, Counter[str]] = {}
        self._children: dict[tuple[str, str, str], Any] = {}
        self._since = clock.monotonic()
        self._refusals = 0

    def count(self, source: str, accepted: Sequence[AcceptedAlert], seconds: float) -> None:
        """Count the alerts of one request that is on disk."""
        self._metrics.ingest_seconds.observe(seconds)
        counts = self._accepted.get(source)
        if counts is None:
            counts = self._accepted.setdefault(source, Counter())
        counts["alerts"] += len(accepted)
        became: dict[tuple[Disposition, SuppressReason | None], int] = {}
        for alert in accepted:
            key = (alert.disposition, alert.reason)
            became[key] = became.get(key, 0) + 1
        for (disposition, reason), number in became.items():
            counts[disposition] += number
            self._child(source, disposition, reason).inc(number)
        self._tick()

    def refuse(self, source: str, status: int, code: str, reason: str) -> None:
        """Count one request that was not taken."""
        self._metrics.requests_refused.labels(source, code).inc()
        self._tick()
        self._refusals += 1
        if self._refusals <= _MAX_REFUSALS:
            self._log.warning("alert.refused", source=source, status=status, code=code, reason=reason)

    def flush(self) -> None:
        """Write the lines now."""
        self._since = self._clock.monotonic()
        self._refusals = 0
        counted, self._accepted = self._accepted, {}
        for source, counts in counted.items():
            fields = {str(disposition): counts[disposition] for disposition in Disposition}
            self._log.info("alert.accepted", source=source, alerts=counts["alerts"], **fields)

    def _tick(self) -> None:
        if self._clock.monotonic() - self._since >= EVERY_SECONDS:
            self.flush()

    def _child(self, source: str, disposition: Disposition, reason: SuppressReason | None) -> Any:
        key = (source, disposition.value, "" if reason is None else reason.value)
        child = self._children.get(key)
        if child is None:
            child = self._children.setdefault(key, self._metrics.alerts.labels(*key))
        return child
