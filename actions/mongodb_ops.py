"""MongoDB operations that run for too long: end them, never the server's own work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from cachetools import LRUCache
from pydantic import Field, model_validator

from actions.mongodb_client import KIND, Place
from actions.mongodb_executor import MongoExecutor, sampled
from actions.mongodb_facts import Operation, operations_of
from oncall_agent.contract import ActionContext, ActionSpec, Check, Params, Receipt, RiskClass, held
from oncall_agent.models import JsonObject


class OpParams(Params):
    """Which operations; at least one of namespace, user, application and comment."""

    namespace: str = Field("", max_length=200, pattern=r"^$|^[^.*]+\.(\*|[^*]+)$")
    """`database.collection`, or `database.*` for all of a database."""
    user: str = Field("", max_length=100)
    """Whose they are, word for word."""
    application: str = Field("", max_length=100)
    """The name that their client gave itself (`appName`), word for word."""
    comment: str = Field("", max_length=200)
    """The comment of the command, word for word."""
    min_seconds: int = Field(60, ge=1, le=86_400)
    """They must have run for so long."""
    max_n: int = Field(5, ge=1, le=100)
    """Operations at most, the longest first."""
    hold_seconds: float = Field(1.0, ge=0, le=120)
    """For so long no such operation may be seen afterwards."""

    @model_validator(mode="after")
    def _names_some(self) -> Self:
        if not (self.namespace or self.user or self.application or self.comment):
            raise ValueError("one of namespace, user, application, comment is needed")
        return self


class KillOp(MongoExecutor):
    """Ends operations of clients that have run for too long."""

    spec = ActionSpec(
        id="mongodb.kill_op",
        summary="End operations that have run for too long, of one namespace, user or application.",
        target_kind=KIND,
        params=OpParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="an ended operation can only be run again by its client",
        deadline_seconds=60.0,
        cost=0.05,
        family="kill",
        exemptions={"rollback_restores": "an ended operation can only be run again by its client"},
        unproven=(
            "killOp of a mongod: FerretDB lists real operations and they were really ended, "
            "but by a function of its engine behind a relay, since it has no killOp"
        ),
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when no such operation runs for so long; never the server's own work."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        chosen = await self._look(ctx, await self.place(ctx))
        reason = "" if chosen else "no such operation has run for so long"
        return Check(ok=bool(chosen), reason=reason, facts=_facts(chosen))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """End those that ran when the attempt began, each looked at again just before."""
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return Receipt(self.spec.id, ctx.clock.now(), {**known, "already": True})
        place = await self.place(ctx)
        chosen = await self._look(ctx, place)
        facts = _facts(chosen)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        facts["killed"] = [str(one.id) for one in chosen if await self._kill(ctx, place, one)]
        self._done[ctx.idempotency_key] = facts
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether those operations are gone and no other one like them runs for so long."""

        async def sample() -> Check:
            place = await self.place(ctx)
            running = operations_of(await self.current(ctx, place))
            known = {one["id"] for one in receipt.facts.get("chosen") or []}
            left = [one for one in running if str(one.id) in known]
            more = fitting(running, ctx.params, at_least=ctx.params.min_seconds)
            count = len({one.id for one in (*left, *more)})
            reason = f"{count} such operations run" if count else ""
            return Check(ok=not count, reason=reason, facts=_facts(more))

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    async def _look(self, ctx: ActionContext, place: Place) -> tuple[Operation, ...]:
        since = int(ctx.clock.now() - ctx.started_at)
        at_least = max(ctx.params.min_seconds, since)
        return fitting(operations_of(await self.current(ctx, place)), ctx.params, at_least=at_least)

    async def _kill(self, ctx: ActionContext, place: Place, chosen: Operation) -> bool:
        """End one, unless its id stands for nothing, or something else, by now."""
        running = operations_of(await self.current(ctx, place))
        now = next((one for one in running if one.id == chosen.id), None)
        if now is None or now.namespace != chosen.namespace or now.seconds < chosen.seconds:
            return False
        await self.command(ctx, {"killOp": 1, "op": chosen.id}, place=place)
        return True


def fitting(running: Sequence[Operation], params: OpParams, *, at_least: int) -> tuple[Operation, ...]:
    """Give the operations to end, longest first."""
    found = [
        one
        for one in running
        if not one.is_internal
        and one.seconds >= at_least
        and _is_in(one.namespace, params.namespace)
        and params.user in ("", one.user)
        and params.application in ("", one.application)
        and params.comment in ("", one.comment)
    ]
    return tuple(sorted(found, key=lambda one: (-one.seconds, str(one.id)))[: params.max_n])


def _is_in(namespace: str, wanted: str) -> bool:
    if wanted.endswith(".*"):
        return namespace.partition(".")[0] == wanted.removesuffix(".*")
    return wanted in ("", namespace)


def _facts(chosen: Sequence[Operation]) -> dict[str, Any]:
    return {"chosen": [one.as_facts() for one in chosen]}
