"""MongoDB transactions that nobody ends: kill their sessions, which rolls them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.mongodb_client import KIND, Place
from actions.mongodb_executor import NO_MONGOD, MongoExecutor, sampled
from actions.mongodb_facts import Transaction, dirty_share_of, transactions_of
from oncall_agent.contract import ActionContext, ActionSpec, Check, Params, Receipt, RiskClass, held
from oncall_agent.models import JsonObject


class TransactionParams(Params):
    """Which transactions."""

    min_open_seconds: int = Field(60, ge=1, le=86_400)
    """They must have been open for so long."""
    user: str = Field("", max_length=100)
    """Whose they are, word for word; empty for anybody's."""
    application: str = Field("", max_length=100)
    """The name that their client gave itself (`appName`), word for word; empty for any."""
    max_n: int = Field(5, ge=1, le=100)
    """Transactions at most, the oldest first."""
    max_dirty_share: float = Field(0.2, gt=0, le=1)
    """Afterwards no more of the cache may be unwritten, unless it is less than before."""
    hold_seconds: float = Field(1.0, ge=0, le=120)
    """For so long no such transaction may be open afterwards."""


class KillOpenTransactions(MongoExecutor):
    """Kills the sessions of transactions that have been open for too long; the server rolls them back."""

    spec = ActionSpec(
        id="mongodb.kill_open_transactions",
        summary="Kill the sessions of transactions that have been open for too long.",
        target_kind=KIND,
        params=TransactionParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="the server has rolled the transaction back; its client may begin it again",
        deadline_seconds=60.0,
        cost=0.1,
        family="kill",
        exemptions={"rollback_restores": "the server has rolled the transaction back"},
        unproven=NO_MONGOD,
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when none is open for so long; a prepared one belongs to its coordinator and stays."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        place = await self.place(ctx)
        chosen = await self._look(ctx, place)
        reason = "" if chosen else "no such transaction has been open for so long"
        return Check(ok=bool(chosen), reason=reason, facts=await self._facts(ctx, place, chosen))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Kill those that were open when the attempt began, each looked at again just before."""
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return Receipt(self.spec.id, ctx.clock.now(), {**known, "already": True})
        place = await self.place(ctx)
        chosen = await self._look(ctx, place)
        facts = await self._facts(ctx, place, chosen)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        facts["killed"] = [one.id for one in chosen if await self._kill(ctx, place, one)]
        self._done[ctx.idempotency_key] = facts
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether no such transaction is open and the cache is not full of what is not written."""
        before = receipt.facts.get("dirty_share")
        known = {one["id"] for one in receipt.facts.get("chosen") or []}

        async def sample() -> Check:
            place = await self.place(ctx)
            opened = transactions_of(await self.current(ctx, place, with_idle=True))
            left = {one.id for one in opened if one.id in known}
            left |= {one.id for one in fitting(opened, ctx.params, ctx.params.min_open_seconds)}
            facts = await self._facts(ctx, place, ())
            if left:
                return Check(ok=False, reason=f"{len(left)} such transactions are open", facts=facts)
            now = facts.get("dirty_share")
            ok = now is None or now <= max(ctx.params.max_dirty_share, before or 0.0)
            return Check(ok=ok, reason="" if ok else f"{now:.0%} of the cache is unwritten", facts=facts)

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    async def _look(self, ctx: ActionContext, place: Place) -> tuple[Transaction, ...]:
        at_least = max(float(ctx.params.min_open_seconds), ctx.clock.now() - ctx.started_at)
        return fitting(transactions_of(await self.current(ctx, place, with_idle=True)), ctx.params, at_least)

    async def _kill(self, ctx: ActionContext, place: Place, chosen: Transaction) -> bool:
        opened = transactions_of(await self.current(ctx, place, with_idle=True))
        if chosen.id not in {one.id for one in opened}:
            return False
        session = {"id": chosen.session, **({"uid": chosen.owner} if chosen.owner is not None else {})}
        await self.command(ctx, {"killAllSessionsByPattern": [{"lsid": session}]}, place=place)
        return True

    async def _facts(self, ctx: ActionContext, place: Place, chosen: Sequence[Transaction]) -> dict[str, Any]:
        share = dirty_share_of(await self.command(ctx, {"serverStatus": 1}, place=place))
        found: dict[str, Any] = {"chosen": [one.as_facts() for one in chosen]}
        return found if share is None else {**found, "dirty_share": round(share, 4)}


def fitting(
    opened: Sequence[Transaction], params: TransactionParams, at_least: float
) -> tuple[Transaction, ...]:
    """Give the transactions to end, oldest first."""
    found = [
        one
        for one in opened
        if not one.is_prepared
        and one.user != "__system"
        and one.open_seconds >= at_least
        and params.user in ("", one.user)
        and params.application in ("", one.application)
    ]
    return tuple(sorted(found, key=lambda one: (-one.open_seconds, one.id))[: params.max_n])
