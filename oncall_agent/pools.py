"""Bounded threads for blocking client libraries: one small pool per system, so that a hung one stays alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from oncall_agent.errors import TransientError

T = TypeVar("T")

_WAIT_FOR_THREAD_SECONDS = 5.0


class BlockingPool:
    """Runs blocking calls of one system in at most `threads` daemon threads.

    A call that hangs keeps its thread until it returns, also after its caller gave up: that is what bounds
    the damage. Threads are daemons, so that a hung one can't hold up the end of the process.
    """

    def __init__(self, system: str, threads: int) -> None:
        self.system = system
        self.threads = threads
        self._free = asyncio.Semaphore(threads)

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Await `function(*args, **kwargs)` from a thread.

        Raises:
            TransientError: every thread of the pool is busy, and stayed so.
        """
        try:
            async with asyncio.timeout(_WAIT_FOR_THREAD_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise TransientError(f"all {self.threads} threads for {self.system} are busy or hang") from None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            try:
                value = function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - carried to the awaiting side, whatever it is
                self._deliver(loop, answer, error=error)
            else:
                self._deliver(loop, answer, value=value)

        threading.Thread(target=call, name=f"{self.system}-call", daemon=True).start()
        return await answer

    def _deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        answer: asyncio.Future[T],
        *,
        value: Any = None,
        error: BaseException | None = None,
    ) -> None:
        def settle() -> None:
            self._free.release()
            if answer.done():
                return
            if error is not None:
                # A future refuses StopIteration; nothing sensible raises it across a thread.
                answer.set_exception(RuntimeError(str(error)) if isinstance(error, StopIteration) else error)
            else:
                answer.set_result(value)

        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            return  # the loop is closed: the process is going down and nobody waits


class Pools:
    """One `BlockingPool` per system, made at first use."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pools: dict[str, BlockingPool] = {}

    def of(self, system: str) -> BlockingPool:
        """Give the pool of a system."""
        return self._pools.setdefault(system, BlockingPool(system, self._threads))
