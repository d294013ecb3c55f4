"""The sessions of a PostgreSQL server: read, chosen by a plain function, signalled only when still the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actions.postgres_client import Conversation
from actions.postgres_settings import APPLICATION, PostgresSettings
from actions.sql_text import shape_of

_MAX_SESSIONS = 2_000
_MICROS = "(extract(epoch FROM a.{0}) * 1000000)::bigint"

_SESSIONS = f"""
SELECT a.pid, {_MICROS.format("backend_start")} AS backend_start,
  coalesce({_MICROS.format("query_start")}, 0) AS query_start,
  coalesce(a.query_id, 0) AS query_id, coalesce(a.state, '') AS state,
  coalesce(a.usename::text, '') AS "user", coalesce(a.application_name, '') AS application,
  coalesce(a.datname::text, '') AS database, left(coalesce(a.query, ''), 600) AS query,
  coalesce(extract(epoch FROM clock_timestamp() - a.query_start), 0)::float8 AS query_seconds,
  coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float8 AS state_seconds,
  coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS transaction_seconds,
  CASE WHEN a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) ELSE '{{}}' END AS blocked_by,
  coalesce(r.rolsuper, true) AS is_superuser,
  EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid) AS vacuums
FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
  AND ($1::text IS NULL OR a.datname = $1)
ORDER BY a.backend_start, a.pid LIMIT {_MAX_SESSIONS}
"""

# The same statement looks again and signals: what has moved on in between is left alone.
_STILL = f"""
FROM pg_stat_activity a WHERE a.pid = $1 AND {_MICROS.format("backend_start")} = $2
  AND coalesce({_MICROS.format("query_start")}, 0) = $3 AND coalesce(a.query_id, 0) = $4 AND a.state = $5
"""
_CANCEL = f"SELECT pg_cancel_backend(a.pid) {_STILL}"
_TERMINATE = f"SELECT pg_terminate_backend(a.pid, $6) {_STILL}"
MAY_SIGNAL = """
SELECT pg_has_role(current_user, 'pg_signal_backend', 'USAGE') AS signal,
  pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS read
"""


@dataclass(frozen=True, slots=True)
class Session:
    """One client's session as the server shows it; starts are microseconds, the server's own clock."""

    pid: int
    backend_start: int
    query_start: int
    query_id: int
    state: str
    user: str
    application: str
    database: str
    query: str
    query_seconds: float
    state_seconds: float
    transaction_seconds: float
    blocked_by: tuple[int, ...] = ()
    is_superuser: bool = False
    vacuums: bool = False

    @property
    def key(self) -> list[int]:
        """What tells it from every other session and query, JSON-safe."""
        return [self.pid, self.backend_start, self.query_start]

    @property
    def seconds(self) -> float:
        """How long it has been in what it does: the query, or the state when it does nothing."""
        return self.query_seconds if self.state == "active" else self.state_seconds

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence; literals of the query are left out."""
        return {
            "pid": self.pid,
            "user": self.user[:63],
            "application": self.application[:63],
            "state": self.state,
            "seconds": round(self.seconds, 1),
            "query": shape_of(self.query),
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions an attempt is about."""

    state: str = "active"
    min_seconds: float = 0.0
    pid: int | None = None
    application: str | None = None
    user: str | None = None
    query_id: int | None = None
    only_blockers: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """The sessions that match, longest first, and how many matched but may not be touched, by reason."""

    chosen: tuple[Session, ...]
    skipped: dict[str, int] = field(default_factory=dict)


async def sessions(db: Conversation, database: str | None) -> list[Session]:
    """Read the sessions of a database, or of the whole server."""
    found = await db.rows(_SESSIONS, database)
    return [Session(**{**row, "blocked_by": tuple(row["blocked_by"])}) for row in found]


def select(
    found: Sequence[Session], wanted: Wanted, settings: PostgresSettings, *, seconds_ago: float = 0.0
) -> Selection:
    """Choose the sessions that match.

    Args:
        seconds_ago: when the attempt began: what was not long enough in its state by then is not part of it,
            so that a repeat never takes in more than the first try.
    """
    blockers = roots_of(found)
    matching = [one for one in found if _matches(one, wanted, blockers, seconds_ago)]
    reasons = {one.pid: untouchable(one, settings) for one in matching}
    chosen = sorted((one for one in matching if not reasons[one.pid]), key=lambda one: -one.seconds)
    return Selection(tuple(chosen), dict(Counter(reason for reason in reasons.values() if reason)))


def _matches(one: Session, wanted: Wanted, blockers: frozenset[int], seconds_ago: float) -> bool:
    asked = ((wanted.pid, one.pid), (wanted.application, one.application), (wanted.user, one.user))
    if any(value is not None and value != is_ for value, is_ in (*asked, (wanted.query_id, one.query_id))):
        return False
    if wanted.only_blockers and one.pid not in blockers:
        return False
    return one.state == wanted.state and one.seconds - seconds_ago >= wanted.min_seconds


def untouchable(one: Session, settings: PostgresSettings) -> str:
    """Give the reason why a session may not be touched whatever it does, or an empty text."""
    if one.is_superuser:
        return "superuser"
    if one.vacuums:
        return "vacuum"
    if one.application == APPLICATION:
        return "our own"
    if one.user in settings.protected_users:
        return "protected user"
    return "protected application" if one.application in settings.protected_applications else ""


def roots_of(found: Iterable[Session]) -> frozenset[int]:
    """Give the sessions that others wait for and that wait for nobody themselves."""
    listed = list(found)
    waiting = {one.pid for one in listed if one.blocked_by}
    return frozenset(pid for one in listed for pid in one.blocked_by if pid not in waiting)


def blocked_count(found: Iterable[Session]) -> int:
    """Give how many sessions wait for another one's lock."""
    return sum(bool(one.blocked_by) for one in found)


async def cancel(db: Conversation, one: Session) -> bool:
    """Cancel its query if it still is the same one."""
    return bool(await db.value(_CANCEL, *one.key, one.query_id, one.state))


async def terminate(db: Conversation, one: Session, wait_seconds: float) -> bool:
    """End it if it still does the same; wait that long for the server to be rid of it."""
    return bool(await db.value(_TERMINATE, *one.key, one.query_id, one.state, int(wait_seconds * 1000)))
