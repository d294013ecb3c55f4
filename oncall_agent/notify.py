"""Notices to people that are no pages: approvals to give, automation paused. Bounded, repeated, never blocking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oncall_agent import runner
from oncall_agent.contract import ActionContext, Check, Clock, Executor, Target
from oncall_agent.models import JsonObject, OutcomeStatus
from oncall_agent.pools import Pools

_WAITING_NOTICES = 256


@dataclass(frozen=True, slots=True)
class Notice:
    """What people should know; `key` makes it one notice, however often it is asked for."""

    key: str
    title: str
    fields: JsonObject


class Notifier:
    """Sends notices one after another through the executor that also pages.

    It is best effort on purpose: what must not be lost is an incident, and incidents are paged by the
    pipeline. A notice that does not fit or does not go out is logged.
    """

    def __init__(self, pager: Callable[[], Executor | None], *, pools: Pools, clock: Clock, log: Any) -> None:
        self._pager, self._pools, self._clock, self._log = pager, pools, clock, log
        self._waiting: asyncio.Queue[Notice] = asyncio.Queue(_WAITING_NOTICES)

    def send(self, notice: Notice) -> None:
        """Queue a notice; at the bound it is logged instead."""
        try:
            self._waiting.put_nowait(notice)
        except asyncio.QueueFull:
            self._log.warning("notice.sent", title=notice.title, ok=False)

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        while True:
            notice = await self._waiting.get()
            sent = await self._deliver(notice)
            self._log.info("notice.sent", title=notice.title, ok=sent)

    async def _deliver(self, notice: Notice) -> bool:
        pager = self._pager()
        if pager is None:
            return False
        now = self._clock.now()
        ctx = ActionContext(
            target=Target(name=str(notice.fields.get("target", "oncall-agent")), kind="*"),
            params=pager.spec.params(),
            idempotency_key=notice.key,
            attempt_id=notice.key,
            started_at=now,
            deadline_at=self._clock.monotonic() + pager.spec.deadline_seconds,
            clock=self._clock,
            log=self._log,
            run_blocking=self._pools.of(pager.spec.system).run,
            incident={"id": "", "title": notice.title, **notice.fields},
        )
        outcome = await runner.run(pager, ctx, None, checked=Check(ok=True), may_go_on=lambda: True)
        return outcome.status is OutcomeStatus.SUCCEEDED
