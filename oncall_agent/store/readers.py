"""Reading beside the writer: a few threads with a connection each, and a bound on how many may wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from oncall_agent.errors import OncallAgentError, QueueFullError, StoreError
from oncall_agent.store.database import Connection, Database
from oncall_agent.store.statement import Tx

T = TypeVar("T")
_THREADS: Final = 3
_MOST_WAITING: Final = 512


class Readers:
    """Runs reading functions, each on one state of the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="store-reader")
        self._own = threading.local()
        self._connections: list[Connection] = []
        self._waiting = 0

    async def read(self, question: Callable[[Tx], T]) -> T:
        """Await the answer.

        Raises:
            StoreError: the database does not answer; `QueueFullError` when too many ask at once.
        """
        if self._waiting >= _MOST_WAITING:
            raise QueueFullError("too many reads are waiting")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._ask, question)
        finally:
            self._waiting -= 1

    def _ask(self, question: Callable[[Tx], T]) -> T:
        was_used = getattr(self._own, "connection", None) is not None
        try:
            return self._answer(question)
        except OncallAgentError:
            raise
        except Exception as error:
            self._drop()
            if was_used and self._database.is_outage(error):
                # The connection may have been cut long ago; asking again on a new one is harmless.
                return self._ask(question)
            raise StoreError(f"the database can't be read: {type(error).__name__}: {error}"[:300]) from error

    def _answer(self, question: Callable[[Tx], T]) -> T:
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._database.connect(to_write=False)
            self._connections.append(connection)
        self._database.check_file()
        tx = connection.begin(to_write=False)
        try:
            return question(tx)
        finally:
            with suppress(Exception):  # on a broken connection; what the question met counts
                connection.rollback()

    def _drop(self) -> None:
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._connections.remove(connection)
            self._own.connection = None

    def close(self) -> None:
        """Wait for what is being read and close the connections."""
        self._pool.shutdown(cancel_futures=True)
        for connection in self._connections:
            connection.close()
