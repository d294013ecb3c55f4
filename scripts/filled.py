"""Fills a database with the past of a busy fleet: real rows, once more and again, each time so much earlier.

A daemon has handled some incidents for real. What it wrote of them, in every table, is copied with other ids and
earlier times: a million stored incidents are then what a million handled ones would have left, and the conservation
equation still holds. One copy in three was acted upon; the others healed by themselves, as most alerts do. Only while
no daemon has the database open.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sqlalchemy.dialects import sqlite

from oncall_agent.policy.linear import LinearThompson
from oncall_agent.settings.model import PolicySettings
from oncall_agent.store.policy_state import read_policy
from oncall_agent.store.schema import metadata
from oncall_agent.store.statement import Tx

_DAY_MS = 86_400_000
_MINUTE_MS = 60_000
_ACTED_EVERY = 3
_EARLIER_ID = "earlier({0}, :ms)"
_EARLIER_TIME = "{0} - :ms / 1000.0"
_PAST = {
    "incidents": {"id": _EARLIER_ID, "opened_at": _EARLIER_TIME, "updated_at": _EARLIER_TIME, "closed_at": _EARLIER_TIME},
    "alerts": {
        "id": _EARLIER_ID,
        "incident_id": _EARLIER_ID,
        "signal": "earlier_signal({0}, :ms)",
        "starts_at": _EARLIER_TIME,
        "received_at": _EARLIER_TIME,
        "last_seen_at": _EARLIER_TIME,
    },
    "decisions": {"id": _EARLIER_ID, "incident_id": _EARLIER_ID, "at": _EARLIER_TIME},
    "attempts": {
        "id": _EARLIER_ID,
        "incident_id": _EARLIER_ID,
        "decision_id": _EARLIER_ID,
        "idempotency_key": "'oncall-' || earlier(id, :ms)",
        "started_at": _EARLIER_TIME,
        "finished_at": _EARLIER_TIME,
    },
    "timeline": {"number": "NULL", "incident_id": _EARLIER_ID, "at": _EARLIER_TIME},
}  # fmt: skip
_OPEN = {
    "incidents": {
        **_PAST["incidents"],
        "key": "substr(key, 1, 20) || printf('%012x', :ms)",  # one incident of a key is open at a time
        "state": "CASE WHEN rowid % 10 < 7 THEN 'queued' WHEN rowid % 10 < 9 THEN 'blocked' ELSE 'parked' END",
        "phase": "'new'",
        "closed_at": "NULL",
        "end_reason": "NULL",
        "firing_count": "1",
        "attempt_count": "0",
        "fence": "0",
    },
    "alerts": _PAST["alerts"],
}


def fill_past(file: Path, incidents: int) -> None:
    """Add so many final incidents, spread over the last month."""
    with _opened(file) as connection:
        copies = _copies(connection, incidents, _DAY_MS, 30 * _DAY_MS)
        acted = copies[::_ACTED_EVERY]
        for name, changed in _PAST.items():
            _copy(connection, name, changed, copies if name in _OPEN else acted)
        _teach(connection, len(acted))
        _count_again(connection)


def fill_open(file: Path, incidents: int) -> None:
    """Add a storm of the last minutes: most are queued, some wait for their target or a time."""
    with _opened(file) as connection:
        copies = _copies(connection, incidents, _MINUTE_MS, 10 * _MINUTE_MS)
        for name, changed in _OPEN.items():
            _copy(connection, name, changed, copies)
        _count_again(connection)


# --- copying ---------------------------------------------------------------------------------------------


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open for filling: nothing is at stake if it stops half way, and indexes are built once at the end."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.create_function("earlier", 2, earlier, deterministic=True)
    connection.create_function("earlier_signal", 2, earlier_signal, deterministic=True)
    for pragma in (
        "journal_mode=OFF",
        "synchronous=OFF",
        "cache_size=-200000",
        "temp_store=MEMORY",
        "threads=2",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN")
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    yield connection
    for _, sql in indexes:
        connection.execute(sql)
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()


def _copies(connection: sqlite3.Connection, incidents: int, first: int, span: int) -> list[int]:
    """Give by how many milliseconds each copy is earlier, the earliest first: ids must grow as they are written."""
    (own,) = connection.execute("SELECT count(*) FROM incidents WHERE closed_at IS NOT NULL").fetchone()
    number = -(-incidents // own)
    return [first + copy * span // number for copy in range(number, 0, -1)]


def _copy(connection: sqlite3.Connection, name: str, changed: dict[str, str], copies: list[int]) -> None:
    columns = [column.name for column in metadata.tables[name].columns]
    values = [changed.get(column, "{0}").format(f'"{column}"') for column in columns]
    names = ", ".join(f'"{column}"' for column in columns)
    order = "number" if name == "timeline" else "id"
    connection.execute(f"CREATE TEMP TABLE own AS SELECT rowid AS place, * FROM {name} ORDER BY {order}")
    # `rowid` of the copy in memory numbers the rows; the real table must not be read while it grows.
    sql = f"INSERT INTO main.{name} ({names}) SELECT {', '.join(values)} FROM temp.own"
    for ms in copies:
        connection.execute(sql, {"ms": ms})
    connection.execute("DROP TABLE temp.own")


def earlier(text: str | None, ms: int) -> str | None:
    """Give a UUID version 7 as it would have been made so much earlier."""
    if not text:
        return text
    stamp = f"{int(text[:8] + text[9:13], 16) - ms:012x}"
    return f"{stamp[:8]}-{stamp[8:]}{text[13:]}"


def earlier_signal(text: str, ms: int) -> str:
    """Give the identity of an alert that began so much earlier."""
    (at,) = struct.unpack(">d", bytes.fromhex(text[:16]))
    return struct.pack(">d", at - ms / 1000).hex() + text[16:]


def _count_again(connection: sqlite3.Connection) -> None:
    """Set the durable counters to what is there."""
    found = connection.execute(
        "SELECT 'state.' || state, count(*), sum(alert_count) FROM incidents GROUP BY 1"
    ).fetchall()
    counts = {name: number for name, number, _ in found}
    counts["accepted"] = sum(alerts for *_, alerts in found)
    connection.executemany("INSERT OR REPLACE INTO counters VALUES (?, ?)", list(counts.items()))


def _teach(connection: sqlite3.Connection, copies: int) -> None:
    """Give the copies their lessons too, and the policy a checkpoint after the last, as housekeeping keeps one."""
    _, updates = read_policy(Tx(connection.cursor(), sqlite.dialect()))
    connection.execute("CREATE TEMP TABLE own AS SELECT * FROM policy_updates")
    sql = "INSERT INTO policy_updates SELECT version + :by, action, features, reward, prior, at FROM temp.own"
    for copy in range(1, copies + 1):
        connection.execute(sql, {"by": copy * len(updates)})
    policy = LinearThompson(PolicySettings(), version=copies * len(updates))
    for update in updates:
        policy.update(replace(update, version=policy.version + 1))
    checkpoint = (policy.version, policy.snapshot(), time.time())
    connection.execute("INSERT INTO policy_checkpoints VALUES (?, ?, ?)", checkpoint)
