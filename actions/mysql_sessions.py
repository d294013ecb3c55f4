"""The threads of a server, and who waits for whose lock: read, judged by plain functions, killed only when the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from actions.mysql_client import Conversation
from actions.mysql_settings import MySQLSettings
from actions.sql_text import shape_of

_SYSTEM_USERS = frozenset(("system user", "event_scheduler", "mysql.session", "unauthenticated user"))
_SYSTEM_COMMANDS = re.compile(
    r"^(Binlog Dump|Daemon|Slave_|Replica_|Connect$|Group Replication)", re.IGNORECASE
)
# What mysqldump and mariadb-dump put into every query of theirs, and the statements of hot backups.
_BACKUP = re.compile(r"/\*!40001 SQL_NO_CACHE|^\s*(BACKUP STAGE|LOCK INSTANCE FOR BACKUP)", re.IGNORECASE)
PRIVILEGES = """
SELECT PRIVILEGE_TYPE AS name FROM information_schema.USER_PRIVILEGES
WHERE GRANTEE = CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''',
  SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')
"""


class Wait(NamedTuple):
    """One thread waits for another one's lock on a table, `database.table`."""

    waiting: int
    blocking: int
    place: str


@dataclass(frozen=True, slots=True)
class Thread:
    """One client's thread as the server shows it."""

    id: int
    user: str
    db: str
    command: str
    seconds: float
    state: str
    query: str
    query_id: int
    in_transaction: bool

    @property
    def key(self) -> list[int]:
        """What tells it and its query from every other, JSON-safe."""
        return [self.id, self.query_id]

    @property
    def is_client(self) -> bool:
        """Whether it takes up a connection; the server's own threads don't."""
        return self.user != "" and self.user not in _SYSTEM_USERS

    @property
    def is_idle(self) -> bool:
        """Whether it waits for its client."""
        return self.command == "Sleep"

    def as_facts(self) -> dict[str, Any]:
        """Give it as evidence; literals of the query are left out."""
        return {
            "id": self.id,
            "user": self.user[:64],
            "command": self.command[:30],
            "state": self.state[:60],
            "seconds": round(self.seconds, 1),
            "query": shape_of(self.query),
        }


def threads(db: Conversation) -> list[Thread]:
    """Read the threads of the server but our own."""
    return [
        Thread(
            **{
                **row,
                "id": int(row["id"]),
                "seconds": float(row["seconds"] or 0),
                "query_id": int(row["query_id"] or 0),
                "in_transaction": bool(row["in_transaction"]),
                "command": str(row["command"] or ""),
                "user": str(row["user"] or ""),
            }
        )
        for row in db.rows(db.dialect.threads)
    ]


def untouchable(one: Thread, settings: MySQLSettings) -> str:
    """Give the reason why a thread may not be touched whatever it does, or an empty text."""
    if not one.is_client:
        return "system thread"
    if _SYSTEM_COMMANDS.match(one.command):
        return "replication"
    if _BACKUP.search(one.query):
        return "backup"
    return "protected user" if one.user in settings.protected_users else ""


def row_waits(db: Conversation) -> list[Wait]:
    """Give who waits for whose row lock, in which table."""
    found = db.rows(db.dialect.row_waits)
    return [Wait(int(row["waiting"]), int(row["blocking"]), str(row["place"] or "")) for row in found]


def roots_of(waits: Iterable[Wait]) -> frozenset[int]:
    """Give the threads that others wait for and that wait for nobody themselves."""
    listed = list(waits)
    waiting = {one.waiting for one in listed}
    return frozenset(one.blocking for one in listed if one.blocking not in waiting)


def waiting_count(waits: Iterable[Wait]) -> int:
    """Give how many threads wait for another one's lock."""
    return len({one.waiting for one in waits})


def kill_queries(db: Conversation, chosen: Sequence[Thread]) -> int:
    """Kill each query that still runs; give how many were hit."""
    now = {tuple(one.key) for one in threads(db) if not one.is_idle}
    statements = [
        db.dialect.kill_query.format(id=one.id, query_id=one.query_id)
        for one in chosen
        if tuple(one.key) in now
    ]
    return sum(db.kill(statement) for statement in statements)


def kill_connections(db: Conversation, chosen: Sequence[Thread]) -> int:
    """End each connection that still does what it did; give how many were ended."""
    now = {(*one.key, one.command) for one in threads(db)}
    still = [one for one in chosen if (*one.key, one.command) in now]
    return sum(db.kill(f"KILL CONNECTION {one.id}") for one in still)


def lacking(db: Conversation, needed: Sequence[str]) -> str:
    """Give what our account lacks, or an empty text."""
    held_ones = held_privileges(db)
    missing = [name for name in needed if name not in held_ones and "SUPER" not in held_ones]
    return f"our account lacks {', '.join(missing)}" if missing else ""


def held_privileges(db: Conversation) -> frozenset[str]:
    """Give the global privileges of our account."""
    return frozenset(str(row["name"]).upper() for row in db.rows(PRIVILEGES))
