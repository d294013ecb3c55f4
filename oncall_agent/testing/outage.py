"""The outage test: whatever happens to the way to a backend, every method ends in time and with a name.

For each fault and each method: the executor gives a `Check` or raises `TransientError` or `PermanentError`
before its deadline, the event loop is never held up, no secret is said, and once the way is mended the same
executor works again without being told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from oncall_agent.contract import ActionContext, ActionError, Check, Executor, Receipt
from oncall_agent.testing.proxy import Fault, FaultyProxy

METHODS = ("ping", "diagnose", "precheck", "execute", "verify", "rollback")
BREAKING = (Fault.CUT, Fault.CUT_MIDWAY, Fault.BLACK_HOLE, Fault.REFUSED)
_GRACE_SECONDS = 0.75
# A busy machine delays a loop, too; a blocking call holds it until the deadline.
_LONGEST_STALL_SECONDS = 0.6
_RECOVERY_SECONDS = 5.0


class OutageError(AssertionError):
    """An executor does not bear the loss of its backend."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one method ended under one fault."""

    fault: Fault
    method: str
    how: str
    seconds: float


async def check_outages(
    executor: Executor,
    proxy: FaultyProxy,
    context: Callable[[float], ActionContext],
    *,
    receipt: Receipt | None = None,
    faults: Sequence[Fault] = BREAKING,
    methods: Sequence[str] = METHODS,
    deadline_seconds: float = 0.8,
    secret: str = "",
) -> tuple[Ended, ...]:
    """Break the way to the backend in each manner under each method; give how each ended.

    Args:
        executor: opened, its settings lead to the backend through `proxy`.
        context: gives a fresh context on a real clock whose deadline is that many seconds away.
        receipt: for verify and rollback; that of a plain dry run when None.
        deadline_seconds: given to each method.

    Raises:
        OutageError: names the fault and the method that broke the rule.
    """
    receipt = receipt or Receipt(executor.spec.id, 0.0)
    ended = []
    for fault in faults:
        for method in methods:
            if method == "rollback" and not executor.spec.reversible:
                continue
            await proxy.become(fault)
            try:
                async with _watched(fault, method):
                    ended.append(await _one(executor, method, fault, context(deadline_seconds), receipt))
            finally:
                await proxy.become(Fault.NONE)
            if secret and secret in ended[-1].how:
                raise OutageError(f"{method} under {fault.value} says the secret: {ended[-1].how}")
        await _recovered(executor, context, fault)
    return tuple(ended)


async def _one(executor: Executor, method: str, fault: Fault, ctx: ActionContext, receipt: Receipt) -> Ended:
    began = time.monotonic()
    limit = ctx.seconds_left + _GRACE_SECONDS
    try:
        async with asyncio.timeout(limit):
            result = await _call(executor, method, ctx, receipt)
    except ActionError as error:
        how = f"{type(error).__name__}: {error}"
    except TimeoutError:
        raise OutageError(f"{method} under {fault.value} went on beyond its deadline") from None
    except Exception as error:
        raise OutageError(
            f"{method} under {fault.value} raises {type(error).__name__}, no named outcome: {error}"
        ) from error
    else:
        _look_at(method, fault, result)
        how = f"{result.reason if isinstance(result, Check) else type(result).__name__}"
    return Ended(fault, method, how, time.monotonic() - began)


def _call(executor: Executor, method: str, ctx: ActionContext, receipt: Receipt) -> Awaitable[object]:
    steps: dict[str, Callable[[], Awaitable[object]]] = {
        "ping": lambda: executor.ping(ctx),
        "diagnose": lambda: executor.diagnose(ctx),
        "precheck": lambda: executor.precheck(ctx),
        "execute": lambda: executor.execute(ctx),
        "verify": lambda: executor.verify(ctx, receipt),
        "rollback": lambda: executor.rollback(ctx, receipt),
    }
    return steps[method]()


def _look_at(method: str, fault: Fault, result: object) -> None:
    if fault is Fault.SLOW:
        return
    if isinstance(result, Check) and result.ok and method != "rollback":
        raise OutageError(f"{method} under {fault.value} says ok without having been able to ask")
    if method == "execute":
        raise OutageError(f"execute under {fault.value} gives a receipt without an answer of its backend")


async def _recovered(executor: Executor, context: Callable[[float], ActionContext], fault: Fault) -> None:
    deadline = time.monotonic() + _RECOVERY_SECONDS
    said = ""
    while time.monotonic() < deadline:
        try:
            check = await executor.ping(context(2.0))
        except ActionError as error:
            said = str(error)
        else:
            if check.ok:
                return
            said = check.reason
        await asyncio.sleep(0.01)
    raise OutageError(f"after {fault.value} the executor does not recover by itself: {said}")


@asynccontextmanager
async def _watched(fault: Fault, method: str) -> AsyncIterator[None]:
    """Fail when the event loop stood still: a blocking client ran on it."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    watch = asyncio.create_task(tick())
    try:
        yield
    finally:
        watch.cancel()
    if longest > _LONGEST_STALL_SECONDS:
        raise OutageError(f"{method} under {fault.value} held the event loop for {longest:.2f} s")
