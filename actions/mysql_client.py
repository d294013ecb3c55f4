"""Conversations with a MySQL or MariaDB server in a thread: opened, bounded in time, closed, every error named.

The only file that imports the client library: without it the mysql system is off and nothing else.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import pymysql  # type: ignore[import-untyped]
import pymysql.connections  # type: ignore[import-untyped]
import pymysql.cursors  # type: ignore[import-untyped]
from pymysql.constants import COMMAND  # type: ignore[import-untyped]

from actions.mysql_dialect import Dialect, dialect_of
from actions.mysql_settings import MySQLSettings, Place
from oncall_agent.contract import ActionError, PermanentError, TransientError
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.contract.secret import resolve

T = TypeVar("T")
Row = dict[str, Any]
_MAX_TEXT = 300
_MAX_ROWS = 5_000
_LEAST_SECONDS = 0.05
_DENIED = frozenset((1044, 1045, 1049, 1129, 1130, 1251, 1698, 1820, 1862, 3118))
_LACKING = frozenset((1142, 1143, 1227, 1370, 1410))
_FULL = frozenset((1040, 1203))
_LOST = frozenset((2002, 2003, 2006, 2013, 2055, 1053, 1158, 1159, 1160, 1161, 1927))
_SLOW = frozenset((1205, 1213, 1317, 1969, 3024))
_UNKNOWN = frozenset((1109, 1146))
GONE = frozenset((1094, 1957))
"""Error numbers of a kill that came too late: no such thread, no such query."""


class FullError(TransientError):
    """No connection is left."""


class Conversation:
    """One open connection; values are bound, names come from the catalogue only."""

    def __init__(self, connection: Any, dialect: Dialect) -> None:
        self._connection, self.dialect = connection, dialect

    @property
    def version(self) -> str:
        """What the server says its version is."""
        return str(self._connection.server_version).removeprefix("5.5.5-")

    def rows(self, statement: str, *values: Any) -> list[Row]:
        """Give the rows, at most some thousands."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return [dict(row) for row in cursor.fetchmany(_MAX_ROWS)]

    def row(self, statement: str, *values: Any) -> Row | None:
        """Give the first row."""
        return next(iter(self.rows(statement, *values)), None)

    def rows_if_known(self, statement: str) -> list[Row] | None:
        """Give the rows; None when the server has no such view."""
        try:
            return self.rows(statement)
        except pymysql.MySQLError as error:
            if _code(error) in _UNKNOWN:
                return None
            raise

    def run(self, statement: str, *values: Any) -> None:
        """Carry out a statement that gives no rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)

    def kill(self, statement: str) -> bool:
        """Carry out a kill; False when there was nothing left to kill."""
        try:
            self.run(statement)
        except pymysql.MySQLError as error:
            if _code(error) in GONE:
                return False
            raise
        return True

    def close(self) -> None:
        """Say goodbye."""
        self._connection.close()

    def hang_up(self) -> None:
        """Close the connection without a word."""
        self._connection._force_close()  # noqa: SLF001 - a goodbye would wait behind a statement

    @property
    def id(self) -> int:
        """The server's number of this connection."""
        return int(self._connection.thread_id())

    def send(self, statement: str) -> None:
        """Send a statement whose answer nobody waits for; the conversation is of no other use afterwards."""
        self._connection._execute_command(COMMAND.COM_QUERY, statement)  # noqa: SLF001 - the library has no such call


class MySQL:
    """Opens conversations with the operator's account, one per question."""

    def __init__(self, settings: MySQLSettings) -> None:
        self.settings = settings

    async def ask(
        self, run_blocking: RunBlocking, place: Place, seconds: float, question: Callable[[Conversation], T]
    ) -> T:
        """Connect, ask and close in the thread pool.

        Raises:
            TransientError: the server does not answer (in time), is full, or stops.
            PermanentError: it refuses us, is too old, or is neither MySQL nor MariaDB.
        """
        limit = max(seconds, _LEAST_SECONDS)
        try:
            async with asyncio.timeout(limit):
                return await run_blocking(self._do, place, limit, question)
        except TimeoutError:
            raise TransientError("MySQL does not answer in time") from None

    def _do(self, place: Place, seconds: float, question: Callable[[Conversation], T]) -> T:
        try:
            conversation = self.open(place, seconds)
            try:
                return question(conversation)
            finally:
                conversation.close()
        except Exception as error:
            raise named(error) from error

    def open(self, place: Place, seconds: float) -> Conversation:
        """Connect; the caller closes. Blocks: never on the event loop. Errors are the library's own."""
        settings = self.settings
        connection: Any = _Connection(
            host=place.host,
            port=place.port,
            user=settings.user,
            password=resolve(settings.password).reveal() if settings.password else "",
            connect_timeout=seconds,
            read_timeout=seconds,
            write_timeout=seconds,
            autocommit=True,
            charset="utf8mb4",
            cursorclass=pymysql.cursors.DictCursor,
            program_name="oncall-agent",
            **_tls(settings),
        )
        try:
            dialect = dialect_of(str(connection.server_version))
            conversation = Conversation(connection, dialect)
            # The server gives up by itself as well: a question must not go on when nobody waits for it.
            conversation.run(dialect.limit_statement, max(1, round(seconds * dialect.limit_factor)))
        except BaseException:
            connection.close()
            raise
        return conversation


class _Connection(pymysql.connections.Connection):  # type: ignore[misc]
    """As the library's, but what it makes for each connection anew is made once: it reads all the machine's CAs."""

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        return sslp if isinstance(sslp, ssl.SSLContext) else _UNVERIFIED


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


_UNVERIFIED = _unverified()


def _tls(settings: MySQLSettings) -> dict[str, Any]:
    if settings.tls == "disable":
        return {"ssl_disabled": True}
    if settings.tls == "prefer":
        return {}
    if settings.tls == "require":
        return {"ssl": _UNVERIFIED}
    return {"ssl": _verified(settings.ca_file, names=settings.tls == "verify-full")}


@lru_cache(maxsize=32)
def _verified(ca_file: str, *, names: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.check_hostname = names
    return context


def _code(error: BaseException) -> int:
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def named(error: Exception) -> Exception:
    """Give the contract's error for one of the library; texts are cut, and hold no statement."""
    if isinstance(error, ActionError):
        return error
    if isinstance(error, pymysql.MySQLError):
        return _named(_code(error), str(error.args[1] if len(error.args) > 1 else "")[:_MAX_TEXT])
    if isinstance(error, OSError):
        return TransientError(f"MySQL can't be reached ({type(error).__name__})")
    if isinstance(error, RuntimeError) and "cryptography" in str(error):
        return PermanentError(
            "MySQL's password exchange needs TLS: set backends.mysql.tls to require or better"
        )
    if isinstance(error, ValueError | IndexError | AssertionError | struct.error | NotImplementedError):
        return PermanentError(f"what answers is neither MySQL nor MariaDB ({type(error).__name__})")
    return error


def _named(code: int, text: str) -> ActionError:
    if code in _DENIED:
        return PermanentError(f"MySQL refuses the credentials ({code})")
    if code in _LACKING:
        return PermanentError(f"MySQL: not allowed: {text}")
    if code in _FULL:
        return FullError(f"MySQL has no connection left ({code})")
    known: Mapping[str, frozenset[int]] = {
        "MySQL can't be reached": _LOST,
        "MySQL took too long": _SLOW,
    }
    for said, codes in known.items():
        if code in codes:
            return TransientError(f"{said} ({code})")
    return PermanentError(f"MySQL: {text} ({code})")
