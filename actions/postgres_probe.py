"""The prober of PostgreSQL: does it let us in, is there room, does anybody wait for a lock?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from actions.postgres_client import Postgres
from actions.postgres_settings import PostgresSettings, place_of
from oncall_agent.contract import (
    Clock,
    Params,
    PermanentError,
    Prober,
    Reading,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject

_READING = """
SELECT count(*)::int AS used,
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS allowed,
  count(*) FILTER (WHERE datname = current_database() AND state IN ('active', 'idle in transaction')
    AND pid <> pg_backend_pid())::int AS working,
  count(*) FILTER (WHERE datname = current_database() AND wait_event_type = 'Lock')::int AS blocked,
  coalesce(max(extract(epoch FROM clock_timestamp() - state_change))
    FILTER (WHERE datname = current_database() AND wait_event_type = 'Lock'), 0)::float8 AS blocked_seconds,
  coalesce(max(extract(epoch FROM clock_timestamp() - xact_start))
    FILTER (WHERE datname = current_database() AND pid <> pg_backend_pid()), 0)::float8 AS transaction_seconds
FROM pg_stat_activity WHERE backend_type = 'client backend'
"""


class PostgresProbeParams(Params):
    """From where on a database counts as down though it answers."""

    max_connections_share: float = Field(0.95, gt=0, le=1)
    """Taken connections per usable one."""
    max_blocked_seconds: float = Field(30.0, gt=0)
    """Longest wait for another session's lock."""
    max_transaction_seconds: float = Field(3_600.0, gt=0)
    """Longest transaction of a client."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one look at the server's sessions gave."""

    used: int
    allowed: int
    working: int
    blocked: int
    blocked_seconds: float
    transaction_seconds: float

    @property
    def connections_share(self) -> float:
        """Taken connections per usable one."""
        return self.used / max(1, self.allowed)

    @property
    def blocked_share(self) -> float:
        """Sessions that wait for a lock per session that has something to do."""
        return self.blocked / max(1, self.working)

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence."""
        return {
            "connections": self.used,
            "connections_share": round(self.connections_share, 3),
            "blocked": self.blocked,
            "blocked_seconds": round(self.blocked_seconds, 1),
            "longest_transaction_seconds": round(self.transaction_seconds, 1),
        }


class PostgresProber(Prober):
    """Reads whether a database is up, how long an answer takes and how many sessions are held up."""

    kind = "postgres"
    params = PostgresProbeParams

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._pg = Postgres(PostgresSettings.model_validate(dict(settings)))

    async def __aexit__(self, *_: object) -> None:
        await self._pg.close()

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Connect and look once. Who can't connect finds it down; who is refused can't tell."""
        began = clock.monotonic()
        try:
            async with self._pg.talk(place_of(target, self._pg.settings), timeout_seconds) as db:
                vitals = Vitals(**(await db.row(_READING) or {}))
        except TransientError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        except PermanentError as error:
            raise TransientError(error.message) from error
        seconds, reason = clock.monotonic() - began, complaint(vitals, params)
        signals = Signals(up=not reason, response_seconds=seconds, error_rate=vitals.blocked_share)
        return Reading(signals, {**vitals.as_facts(), **({"reason": reason} if reason else {})})


def complaint(vitals: Vitals, params: PostgresProbeParams) -> str:
    """Give why a database that answers counts as down, or an empty text."""
    if vitals.connections_share > params.max_connections_share:
        return f"{vitals.used} of {vitals.allowed} connections are taken"
    if vitals.blocked_seconds > params.max_blocked_seconds:
        return f"a session has waited {vitals.blocked_seconds:.0f} s for a lock"
    if vitals.transaction_seconds > params.max_transaction_seconds:
        return f"a transaction has been open for {vitals.transaction_seconds:.0f} s"
    return ""
