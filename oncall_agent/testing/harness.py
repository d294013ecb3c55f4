"""What the author of an executor gives the contract test: a world that can be made sick and looked at."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oncall_agent.contract import ActionContext, Clock, Executor, Target
from oncall_agent.contract.executor import RunBlocking, run_inline
from oncall_agent.models import JsonObject
from oncall_agent.testing.clock import FakeClock
from oncall_agent.testing.log import RecordingLog

_numbers = itertools.count(1)
Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Harness:
    """The world of one executor, fake or real.

    Attributes:
        factory: gives a fresh executor, as another process would have it.
        make_sick: brings the fault about that this action mends; called again after a fix, the target must be
            sick once more.
        count_effects: how often the world was changed so far, counted outside the executor.
        snapshot: what rollback has to restore, comparable by `==`.
        hang: from now on the backend accepts calls and never answers; `release` ends that.
        secret: text planted where the executor has it in its hands; it must not come out anywhere.
        params: of the action, as a runbook would give them.
        deadline_seconds: real time given to an executor whose backend hangs.
    """

    factory: Callable[[], Executor]
    target: Target
    make_sick: Step
    count_effects: Callable[[], Awaitable[int]]
    snapshot: Callable[[], Awaitable[Any]]
    hang: Step | None = None
    release: Step | None = None
    secret: str = ""
    params: JsonObject = field(default_factory=dict)
    incident: JsonObject = field(default_factory=dict)
    clock: Clock = field(default_factory=FakeClock)
    run_blocking: RunBlocking = run_inline
    deadline_seconds: float = 0.3

    def context(
        self, *, key: str = "", seconds: float = 600.0, dry_run: bool = False
    ) -> tuple[ActionContext, RecordingLog]:
        """Give a context for one attempt and the log that it writes to."""
        log = RecordingLog()
        context = context_for(
            self.factory().spec.params.model_validate(dict(self.params)),
            self.target,
            clock=self.clock,
            log=log,
            key=key,
            seconds=seconds,
            dry_run=dry_run,
            incident=self.incident,
            run_blocking=self.run_blocking,
        )
        return context, log


def context_for(
    params: Any,
    target: Target,
    *,
    clock: Clock | None = None,
    log: RecordingLog | None = None,
    key: str = "",
    seconds: float = 60.0,
    dry_run: bool = False,
    incident: Mapping[str, Any] | None = None,
    run_blocking: RunBlocking = run_inline,
) -> ActionContext:
    """Give a context as the runner would; every one has a key of its own unless one is given."""
    clock = clock or FakeClock()
    key = key or f"attempt-{next(_numbers)}"
    return ActionContext(
        target=target,
        params=params,
        idempotency_key=key,
        attempt_id=key,
        started_at=clock.now(),
        deadline_at=clock.monotonic() + seconds,
        clock=clock,
        log=log or RecordingLog(),
        run_blocking=run_blocking,
        dry_run=dry_run,
        incident=incident or {},
    )


async def run_in_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """A `RunBlocking` with real threads, for backends that really block."""
    return await asyncio.to_thread(function, *args, **kwargs)
