"""Restarting one node of a pool through what runs it: the Docker engine, systemd or Kubernetes.

Without the Docker client library this action is off, and the other ones of memcached are not.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from pydantic import Field

from actions.docker_engine import Engine, MissingError, inspect, objection, state_of
from actions.memcached_client import KIND, Place
from actions.memcached_executor import MemcachedExecutor
from actions.memcached_program import argv_of, run, trouble_of
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    held,
)
from oncall_agent.models import JsonObject

# memcached counts its uptime in whole seconds and begins a little before zero.
_SLACK_SECONDS = 2.0
_UNDONE = "a restart can't be taken back; what was cached comes back from its origin"


class RestartNodeParams(Params):
    """How to restart."""

    stop_seconds: int = Field(10, ge=0, le=120)
    """Of a container: time between SIGTERM and SIGKILL."""
    min_uptime_seconds: float = Field(60.0, ge=0, le=86_400)
    """A node that was started more lately needs something other than a restart."""
    hold_seconds: float = Field(5.0, ge=0, le=600)
    """It must answer for so long."""
    within_seconds: float = Field(60.0, gt=0, le=600)
    """How long to wait for that."""


class RestartNode(MemcachedExecutor):
    """Restarts a node that hangs, when the rest of its pool is well."""

    spec = ActionSpec(
        id="memcached.restart_node",
        summary="Restart one node of a pool through Docker, systemd or Kubernetes.",
        target_kind=KIND,
        params=RestartNodeParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason=_UNDONE,
        deadline_seconds=240.0,
        cost=0.1,
        family="restart",
        exemptions={"rollback_restores": _UNDONE},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        conf = self.conf
        self._engine = Engine({"host": conf.docker_host, "timeout_seconds": conf.restart_timeout_seconds})

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse where keys would move, where another node is away, and a node that was just started."""
        place = self.place(ctx)
        reason = (
            self.objection(ctx) or await self._pool_refusal(ctx, place) or await self._way_refusal(ctx, place)
        )
        if reason:
            return Check(ok=False, reason=reason)
        try:
            stats = await self.stats(ctx)
        except ActionError as error:
            return Check(ok=True, facts={"answers": error.message, "at": ctx.clock.now()})
        facts = {**stats.facts(), "at": ctx.clock.now()}
        if stats.uptime < ctx.params.min_uptime_seconds:
            return Check(ok=False, reason=f"it was started {stats.uptime} s ago", facts=facts)
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Note it on the other nodes, restart the node once per key."""
        place = self.place(ctx)
        others = self.memcached.others(place)
        if not others:
            raise PermanentError("it is the only node of its pool")
        known = {} if ctx.dry_run else await self._known(ctx, others)
        if known.get("done") or (known and await self._was_restarted(ctx, place, known)):
            return Receipt(self.spec.id, ctx.clock.now(), known)
        if not known:
            started = await self._started(ctx, place)
            known = {"at": ctx.clock.now(), "started": started}
            if ctx.dry_run:
                return Receipt(self.spec.id, ctx.clock.now(), known, planned=True)
            await self._note_all(ctx, known, others)
        await self._restart(ctx, place)
        await self._note_all(ctx, {**known, "done": True}, others)
        return Receipt(self.spec.id, ctx.clock.now(), known)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it was started since then and answers."""
        since = float(receipt.facts.get("at", ctx.started_at)) - _SLACK_SECONDS

        async def sample() -> Check:
            try:
                stats = await self.stats(ctx)
            except ActionError as error:
                return Check(ok=False, reason=error.message)
            is_new = ctx.clock.now() - stats.uptime >= since
            reason = "" if is_new else f"it has been up for {stats.uptime} s"
            return Check(ok=is_new, reason=reason, facts=stats.facts())

        params = ctx.params
        return await held(
            ctx,
            sample,
            hold_seconds=params.hold_seconds,
            within_seconds=params.within_seconds,
            interval_seconds=0.2,
        )

    async def _pool_refusal(self, ctx: ActionContext, place: Place) -> str:
        others = self.memcached.others(place)
        if not others:
            return "it is the only node of its pool"
        if not place.pool.consistent_hashing:
            return f"the clients of pool {place.pool_name} do not hash consistently: all keys would move"
        said = await asyncio.gather(*(self.stats(ctx, one) for one in others), return_exceptions=True)
        for one in said:
            if isinstance(one, ActionError):
                return f"the pool is not whole: {one.message}"
            if isinstance(one, BaseException):
                raise one
        return ""

    async def _way_refusal(self, ctx: ActionContext, place: Place) -> str:
        if place.node.container:
            return await self._container_refusal(ctx, place.node.container)
        argv = argv_of(place.node, self.conf)
        return trouble_of(argv[0]) if argv else "what runs the node is not declared (container, unit or pod)"

    async def _container_refusal(self, ctx: ActionContext, name: str) -> str:
        now = ctx.clock.now()
        try:
            found = await self._engine.ask(
                ctx.run_blocking, ctx.seconds_left, lambda api: inspect(api, name, now)
            )
        except MissingError:
            return f"there is no container {name}"
        return objection(found, self._engine.settings)

    async def _restart(self, ctx: ActionContext, place: Place) -> None:
        name, stop = place.node.container, ctx.params.stop_seconds
        if name is None:
            argv = argv_of(place.node, self.conf)
            if not argv:
                raise PermanentError("what runs the node is not declared (container, unit or pod)")
            await run(argv, min(self.conf.restart_timeout_seconds, ctx.seconds_left))
            return
        container = name
        await self._engine.ask(
            ctx.run_blocking, ctx.seconds_left, lambda api: api.restart(container, timeout=stop)
        )

    async def _started(self, ctx: ActionContext, place: Place) -> str:
        """Give when its container was started, by the engine's clock; empty for units and pods."""
        name = place.node.container
        if name is None:
            return ""
        container = name
        found = await self._engine.ask(
            ctx.run_blocking, ctx.seconds_left, lambda api: api.inspect_container(container)
        )
        return state_of(found).started_at

    async def _was_restarted(self, ctx: ActionContext, place: Place, known: JsonObject) -> bool:
        """Say whether a call that did not come to its end restarted it all the same."""
        if known["started"]:
            return await self._started(ctx, place) != str(known["started"])
        stats = await self.stats(ctx)
        return ctx.clock.now() - stats.uptime >= float(known["at"]) - _SLACK_SECONDS

    async def _known(self, ctx: ActionContext, others: list[Place]) -> dict[str, Any]:
        found = [await self.noted(ctx, one) for one in others]
        return next((one for one in found if one.get("done")), next((one for one in found if one), {}))

    async def _note_all(self, ctx: ActionContext, facts: JsonObject, others: list[Place]) -> None:
        for one in others:
            await self.note(ctx, facts, one)
