"""Background loops that never end silently: an error is logged, counted, and followed by a growing wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from oncall_agent.contract import Clock
from oncall_agent.errors import StoreError
from oncall_agent.telemetry.metrics import Metrics

_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 15.0


async def keep_alive(
    name: str, step: Callable[[], Awaitable[None]], *, clock: Clock, metrics: Metrics, log: Any
) -> None:
    """Run `step` again and again until cancelled; it paces itself. Failures back off with jitter."""
    wait = _FIRST_WAIT_SECONDS
    while True:
        try:
            await step()
        except StoreError as error:
            metrics.store_errors.inc()
            log.warning("store.failed", loop=name, error=str(error)[:300], wait_seconds=round(wait, 2))
        except Exception as error:
            metrics.loop_failures.labels(name).inc()
            log.warning(
                "loop.failed", loop=name, error=repr(error)[:300], wait_seconds=round(wait, 2), exc_info=error
            )
        else:
            wait = _FIRST_WAIT_SECONDS
            continue
        await clock.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - jitter, no secret
        wait = min(wait * 2, _LONGEST_WAIT_SECONDS)


def every(
    seconds: float, action: Callable[[], Awaitable[None]], clock: Clock
) -> Callable[[], Awaitable[None]]:
    """Make a step that does something and then waits."""

    async def step() -> None:
        await action()
        await clock.sleep(seconds)

    return step


async def cancel(running: asyncio.Task[Any]) -> None:
    """Cancel and wait until it is over."""
    running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        return
