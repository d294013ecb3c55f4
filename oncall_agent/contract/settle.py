"""Waiting until a condition has held: the loop that every verify needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from oncall_agent.contract.executor import ActionContext
from oncall_agent.models import Check


async def held(
    ctx: ActionContext,
    sample: Callable[[], Awaitable[Check]],
    *,
    hold_seconds: float,
    within_seconds: float,
    interval_seconds: float = 0.5,
) -> Check:
    """Poll until `sample` was ok without a break for `hold_seconds`; give the last check otherwise.

    Args:
        sample: read-only; its last answer is the evidence.
        within_seconds: give up after that long (or at the deadline, if it comes first).
        interval_seconds: between two samples.
    """
    clock = ctx.clock
    end = clock.monotonic() + min(within_seconds, ctx.seconds_left)
    since: float | None = None
    while True:
        check = await sample()
        at = clock.monotonic()
        since = (at if since is None else since) if check.ok else None
        if since is not None and at - since >= hold_seconds:
            return check
        if at + interval_seconds > end:
            return (
                check
                if not check.ok
                else Check(ok=False, reason="did not hold long enough", facts=check.facts)
            )
        await clock.sleep(interval_seconds)
