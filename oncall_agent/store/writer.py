"""The one writer: everything that waits goes into one transaction and one fsync (group commit).

Callers hand in requests on the event loop; a thread takes all that wait, writes them kind by kind, commits and
only then answers. A request that can't be written is done again on its own, so that it fails alone. When the
database is in trouble every caller gets a `StoreError`, and the writer tries again with growing pauses.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from oncall_agent.errors import OncallAgentError, StoreError
from oncall_agent.store.database import Connection, Database
from oncall_agent.store.statement import Tx
from oncall_agent.store.unit import Unit

Part = Callable[[Unit, Sequence[Any]], Sequence[Any]]
"""Writes all waiting requests of one kind and gives one answer each; an `OncallAgentError` is an answer too."""

_MOST_REQUESTS: Final = 512
_MOST_WEIGHT: Final = 10_000
_TRIES: Final = 4
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 5.0


@dataclass(slots=True)
class Request:
    """One thing to be written; `weight` bounds how much goes into one transaction."""

    kind: str
    payload: Any
    answer: asyncio.Future[Any]
    weight: int = 1


Answers = list[tuple[Request, Any]]


def _touched(tx: Tx) -> tuple[Answers, list[Unit]]:
    """Write something without meaning: reading alone would not notice a full disk."""
    unit = Unit(tx)
    unit.touch()
    return [], []


class Writer:
    """The thread that owns the writing connection.

    Args:
        parts: kind -> what writes it, in the order in which kinds are written inside one transaction.
        settled: called on the event loop with each committed unit, before its callers are answered.
    """

    def __init__(
        self, database: Database, parts: Mapping[str, Part], settled: Callable[[Unit], None]
    ) -> None:
        self._database, self._parts, self._settled = database, parts, settled
        self._order = {kind: place for place, kind in enumerate(parts)}
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._retry_at = 0.0
        self._pause = _FIRST_PAUSE_SECONDS
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._is_serving = False
        self.waiting = 0
        self.committed = 0
        self.last_commit_seconds = 0.0
        self.failing_for = ""

    def start(self) -> None:
        """Begin to serve."""
        self._is_serving = True
        self._thread.start()

    def submit(self, kind: str, payload: Any, weight: int = 1) -> asyncio.Future[Any]:
        """Hand in a request; its future is answered when it is durable.

        Raises:
            StoreError: the store is closed.
        """
        if not self._is_serving:
            raise StoreError("the store is closed")
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.waiting += 1
        self._queue.put(Request(kind, payload, answer, weight))
        return answer

    async def close(self) -> None:
        """Write what waits, then end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    # --- on the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        is_open = True
        try:
            while is_open:
                batch, is_open = self._take()
                if batch:
                    self._serve(batch)
        finally:
            self._is_serving = False
        self._drop()

    def _take(self) -> tuple[list[Request], bool]:
        """Wait for a request and take all others that wait too; False with the last ones."""
        try:
            first = self._queue.get(timeout=self._pause if self.failing_for else None)
        except queue.Empty:
            self._probe()
            return [], True
        batch: list[Request] = []
        weight = 0
        while first is not None:
            batch.append(first)
            weight += first.weight
            if len(batch) >= _MOST_REQUESTS or weight >= _MOST_WEIGHT:
                return batch, True
            try:
                first = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _serve(self, batch: list[Request]) -> None:
        if self.failing_for and time.monotonic() < self._retry_at:
            self._post([(request, StoreError(self.failing_for)) for request in batch], [])
            return
        try:
            answers, units = self._written(batch)
            self._is_well()
        except Exception as error:  # noqa: BLE001 - the thread must outlive everything; the callers are told
            self._is_ill(error)
            answers, units = [(request, self._failure(error)) for request in batch], []
        self._post(answers, units)

    def _written(self, batch: list[Request]) -> tuple[Answers, list[Unit]]:
        batch.sort(key=lambda request: self._order[request.kind])
        for _ in range(_TRIES - 1):
            try:
                return self._transaction(lambda tx: self._together(tx, batch))
            except Exception as error:
                if self._database.is_contention(error):
                    continue
                if self._database.is_outage(error):
                    raise
                break
        return self._transaction(lambda tx: self._one_by_one(tx, batch))

    def _transaction(self, work: Callable[[Tx], tuple[Answers, list[Unit]]]) -> tuple[Answers, list[Unit]]:
        connection = self._connected()
        started = time.monotonic()
        try:
            done = work(connection.begin(to_write=True))
            connection.commit()
        except BaseException:
            with suppress(Exception):  # a broken connection can't even roll back; what failed first counts
                connection.rollback()
            raise
        self.last_commit_seconds = time.monotonic() - started
        self.committed += 1
        return done

    def _together(self, tx: Tx, batch: list[Request]) -> tuple[Answers, list[Unit]]:
        unit = Unit(tx)
        answers: Answers = []
        start = 0
        while start < len(batch):
            kind = batch[start].kind
            end = start
            while end < len(batch) and batch[end].kind == kind:
                end += 1
            same = batch[start:end]
            results = self._parts[kind](unit, [request.payload for request in same])
            answers.extend(zip(same, results, strict=True))
            start = end
        unit.flush()
        return answers, [unit]

    def _one_by_one(self, tx: Tx, batch: list[Request]) -> tuple[Answers, list[Unit]]:
        answers: Answers = []
        units: list[Unit] = []
        for request in batch:
            tx.text("SAVEPOINT one")
            try:
                answer, unit = self._together(tx, [request])
            except Exception as error:
                if self._database.is_outage(error):
                    raise
                tx.text("ROLLBACK TO SAVEPOINT one")
                answers.append((request, self._failure(error)))
            else:
                answers.extend(answer)
                units.extend(unit)
            tx.text("RELEASE SAVEPOINT one")
        return answers, units

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._database.connect(to_write=True)
            self._database.remember_file()
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _probe(self) -> None:
        """See by itself whether a database that failed is back, so that readiness does not wait for traffic."""
        try:
            self._transaction(_touched)
            self._is_well()
        except Exception as error:  # noqa: BLE001 - as in _serve
            self._is_ill(error)

    def _is_well(self) -> None:
        self.failing_for, self._pause = "", _FIRST_PAUSE_SECONDS

    def _is_ill(self, error: Exception) -> None:
        self.failing_for = f"{type(error).__name__}: {error}".strip()[:300]
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        self._drop()

    def _failure(self, error: Exception) -> OncallAgentError:
        if isinstance(error, OncallAgentError):
            return error
        failure = StoreError(f"the database can't take it: {type(error).__name__}: {error}"[:300])
        failure.__cause__ = error
        return failure

    def _post(self, answers: Answers, units: list[Unit]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answer, answers, units)
        except RuntimeError:
            return  # the loop is gone and with it everybody who waited

    # --- on the event loop ----------------------------------------------------------------------------------

    def _answer(self, answers: Answers, units: list[Unit]) -> None:
        for unit in units:
            self._settled(unit)
        for request, answer in answers:
            self.waiting -= 1
            if request.answer.done():
                continue  # the caller was cancelled; what is written stays written
            if isinstance(answer, OncallAgentError):
                request.answer.set_exception(answer)
            else:
                request.answer.set_result(answer)
