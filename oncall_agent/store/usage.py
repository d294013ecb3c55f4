"""How often actions ran and services were touched lately, in buckets: bounded however busy the fleet is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, delete, func, select

from oncall_agent.models import Attempt
from oncall_agent.store.codec import clean, dump
from oncall_agent.store.schema import usage
from oncall_agent.store.statement import Statement, Tx, each, upsert

_BUCKETS: Final = 60
"""Buckets per window: a use counts for up to 1/60 of the window longer, never shorter."""
_U = usage.c
_names = each("names")
_ADD = upsert(usage, ["bucket", "kind", "name"], lambda now, new: {"count": now.count + new.count})
_ACTIONS = Statement(
    select(_U.name, func.sum(_U.count))
    .where(_U.bucket >= bindparam("since"), _U.kind == "action")
    .group_by(_U.name)
)
_SERVICES = Statement(
    select(_U.name, func.sum(_U.count))
    .where(_U.bucket >= bindparam("since"), _U.kind == "service", _U.name.in_(select(_names.c.value)))
    .group_by(_U.name)
)
_PRUNE = Statement(delete(usage).where(_U.bucket < bindparam("since")))


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts attempts within the rate window."""

    window_seconds: float

    def counts(self, tx: Tx, services: Iterable[str], now: float) -> tuple[dict[str, int], dict[str, int]]:
        """Give attempts per action, everywhere, and per service of those asked for."""
        since = self._since(now)
        actions = {name: int(number) for name, number in tx.rows(_ACTIONS, since=since)}
        names = dump(sorted({clean(service) for service in services}))
        touched = {name: int(number) for name, number in tx.rows(_SERVICES, since=since, names=names)}
        return actions, touched

    def add(self, tx: Tx, begun: Iterable[Attempt]) -> None:
        """Count attempts that begin."""
        for attempt in begun:
            bucket = self._bucket(attempt.started_at)
            tx.insert(
                _ADD, [(bucket, "action", attempt.action, 1), (bucket, "service", clean(attempt.service), 1)]
            )

    def prune(self, tx: Tx, now: float) -> None:
        """Forget what is older than the window."""
        tx.run(_PRUNE, since=self._since(now))

    @property
    def _width(self) -> float:
        return max(self.window_seconds / _BUCKETS, 0.001)

    def _since(self, now: float) -> int:
        return self._bucket(now - self.window_seconds)

    def _bucket(self, at: float) -> int:
        """Give the start of a bucket in milliseconds, so that it means the same after the window was changed."""
        return int(at // self._width * self._width * 1000)
