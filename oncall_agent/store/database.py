"""Connections to the one database: how they are opened, what their errors mean, who else has the file."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool, StaticPool

from oncall_agent.errors import ConfigError
from oncall_agent.store.statement import Tx

_BUSY_SECONDS: Final = 2.0
_WRITER_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "temp_store=MEMORY",
    "cache_size=-16000",
    "wal_autocheckpoint=8000",
    "journal_size_limit=67108864",
)
_POSTGRES_OPTIONS: Final = (
    "-c statement_timeout=15000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=60000"
)


class OutageError(Exception):
    """The database does not answer or may have lost what it was given; the text says which."""


class Connection:
    """One driver connection with its transaction control."""

    def __init__(self, database: Database, raw: Any) -> None:
        self._database, self._raw = database, raw
        self._cursor = raw.cursor()
        self._dialect = database.engine.dialect

    def begin(self, *, to_write: bool) -> Tx:
        """Open a transaction; a writing one takes SQLite's lock at once, so that it never has to start over."""
        if self._database.is_sqlite:
            self._cursor.execute("BEGIN IMMEDIATE" if to_write else "BEGIN")
        elif not to_write:
            # As SQLite does by itself: everything that one reader asks comes from one state.
            self._cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return Tx(self._cursor, self._dialect)

    def commit(self) -> None:
        """Make it durable.

        Raises:
            OutageError: the file behind the connection is no longer the one with the configured name.
        """
        if self._database.is_sqlite:
            self._cursor.execute("COMMIT")
            self._database.check_file()
        else:
            self._raw.commit()

    def rollback(self) -> None:
        """Take everything back that the transaction did."""
        if not self._database.is_sqlite:
            self._raw.rollback()
        elif self._raw.driver_connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def close(self) -> None:
        """Give the connection up; never raises, for it may be broken already."""
        with suppress(Exception):
            self._raw.close()


class Database:
    """One configured database.

    Raises:
        ConfigError: the URL is not understood, its driver is missing, or another process has the SQLite file.
    """

    def __init__(self, url: str) -> None:
        self.url = _understood(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        name = self.url.database or ""
        self.is_memory = self.is_sqlite and name in ("", ":memory:")
        self.path = Path(name).absolute() if self.is_sqlite and not self.is_memory else None
        self._lock = None if self.path is None else _locked(self.path)
        self._file: tuple[int, int] | None = None
        self.engine = self._engine()
        self._errors: Any = self.engine.dialect.loaded_dbapi

    def connect(self, *, to_write: bool) -> Connection:
        """Open a connection.

        Raises:
            OutageError: the SQLite file is not there; it is never made anew behind the operator's back.
        """
        if self.path is not None and self._file is not None and not self.path.exists():
            raise OutageError(f"{self.path} is gone")
        raw: Any = self.engine.raw_connection()
        if self.is_sqlite:
            self._prepare(raw, to_write=to_write)
        return Connection(self, raw)

    def remember_file(self) -> None:
        """Note which file the writer has open."""
        if self.path is not None:
            stat = self.path.stat()
            self._file = (stat.st_dev, stat.st_ino)

    def check_file(self) -> None:
        """See that the name still leads to the file that is open: what goes elsewhere is not durable.

        Raises:
            OutageError: it was removed or replaced.
        """
        if self.path is None:
            return
        try:
            stat = os.stat(self.path)  # noqa: PTH116 - on the path of every commit
        except OSError as error:
            raise OutageError(f"{self.path} is gone") from error
        if (stat.st_dev, stat.st_ino) != self._file:
            raise OutageError(f"{self.path} was replaced by another file")

    def is_contention(self, error: Exception) -> bool:
        """Whether two writers met (PostgreSQL: deadlock, serialization): the same again may well work."""
        return str(getattr(error, "pgcode", None) or "").startswith("40")

    def is_outage(self, error: Exception) -> bool:
        """Whether the database itself is in trouble, not the row that was to be written."""
        if isinstance(error, OutageError | OSError):
            return True
        errors = self._errors
        if isinstance(error, errors.OperationalError | errors.InterfaceError | errors.InternalError):
            return True
        return type(error) is errors.DatabaseError  # SQLite says so of a malformed file

    def size(self) -> int:
        """Give the bytes of an SQLite database with its log; 0 elsewhere."""
        if self.path is None:
            return 0
        files = (self.path, Path(f"{self.path}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Give up connections and the lock."""
        self.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _engine(self) -> Engine:
        if not self.is_sqlite:
            arguments: dict[str, Any] = {"connect_timeout": 5, "options": _POSTGRES_OPTIONS}
            return create_engine(
                self.url,
                poolclass=NullPool,
                pool_reset_on_return=None,  # connections are closed, not kept: nothing to reset
                paramstyle="format",
                executemany_mode="values_plus_batch",
                connect_args=arguments,
            )
        engine = create_engine(
            self.url,
            poolclass=StaticPool if self.is_memory else NullPool,
            connect_args={"isolation_level": None, "check_same_thread": False, "timeout": _BUSY_SECONDS},
        )
        # The driver would begin late and commit by itself; migrations need one transaction as well.
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine

    def _prepare(self, raw: Any, *, to_write: bool) -> None:
        cursor = raw.cursor()
        pragmas = _WRITER_PRAGMAS if to_write else ("query_only=ON", "cache_size=-4000", "temp_store=MEMORY")
        for pragma in pragmas if not self.is_memory else ():
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _understood(url: str) -> URL:
    try:
        parsed = make_url(url)
        dialect = parsed.get_backend_name()
        if dialect not in ("sqlite", "postgresql"):
            raise ConfigError(f"{dialect!r} is not supported: sqlite or postgresql+psycopg2", key="store.url")
        parsed.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError) as error:
        # The URL is not repeated: it may hold a password.
        raise ConfigError("is not a database URL", key="store.url") from error
    except ImportError as error:
        raise ConfigError("its driver is not installed: oncall-agent[postgres]", key="store.url") from error
    return parsed


def _locked(path: Path) -> int:
    """Take the lock file beside the database for as long as this process lives."""
    name = f"{path}.lock"
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{name} can't be written: {error.strerror}", key="store.url") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        text = f"{path} is in use by another oncall-agent (process {owner})"
        raise ConfigError(text, key="store.url") from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
