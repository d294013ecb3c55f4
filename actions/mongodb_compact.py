"""MongoDB collections that hold much free space: give it back, on a secondary."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.mongodb_client import KIND, Place
from actions.mongodb_executor import NO_MONGOD, MongoExecutor, sampled
from actions.mongodb_facts import active_clients_of, members_of
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    TransientError,
    held,
)
from oncall_agent.models import JsonObject

_NO_SECONDARY = "no secondary is among the target's members"


class CompactParams(Params):
    """Which collection, and when it is worth it."""

    database: str = Field(min_length=1, max_length=63, pattern=r"^[^./\\ \"$]+$")
    """One of the deployment's `databases`."""
    collection: str = Field(min_length=1, max_length=120, pattern=r"^[^$]+$")
    """Its name in that database."""
    min_free_bytes: int = Field(104_857_600, ge=1)
    """So much of its file must be free space."""
    min_disk_free_bytes: int = Field(1_073_741_824, ge=0)
    """So much must be free on the disk, for what is moved meanwhile."""
    max_active_clients: int = Field(20, ge=0, le=10_000)
    """The member may serve so many clients at the time."""
    hold_seconds: float = Field(2.0, ge=0, le=120)
    """For so long the member has to be a secondary afterwards."""


class CompactOnSecondary(MongoExecutor):
    """Compacts one collection on a member that is not the primary."""

    spec = ActionSpec(
        id="mongodb.compact_on_secondary",
        summary="Give the free space of a collection back to the disk, on a secondary.",
        target_kind=KIND,
        params=CompactParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="no data is touched: the file grows again when it has to",
        deadline_seconds=1_800.0,
        cooldown_seconds=3_600.0,
        cost=0.2,
        family="other",
        exemptions={"rollback_restores": "there is nothing to restore: no data is touched"},
        unproven=NO_MONGOD,
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a primary, the only secondary, a busy member, and what would not be worth it."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        place = await self._secondary(ctx)
        if place is None:
            return Check(ok=False, reason=_NO_SECONDARY)
        facts = await self._facts(ctx, place)
        reason = await self._refusal(ctx, place, facts)
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Compact once; a collection without free space is left alone."""
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return Receipt(self.spec.id, ctx.clock.now(), {**known, "already": True})
        place = await self._secondary(ctx)
        if place is None:
            raise PermanentError(_NO_SECONDARY)
        facts = await self._facts(ctx, place)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if facts["free_bytes"] < ctx.params.min_free_bytes:
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "already": True})
        reason = await self._refusal(ctx, place, facts)
        if reason:
            raise PermanentError(reason)
        document = {"compact": ctx.params.collection}
        await self.command(ctx, document, place=place, database=ctx.params.database, is_long=True)
        self._done[ctx.idempotency_key] = facts
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the file shrank, or has no free space, and the member is a secondary still."""
        before = receipt.facts.get("storage_bytes")

        async def sample() -> Check:
            place = self._named(ctx, str(receipt.facts.get("member") or ""))
            if not (await self.hello(ctx, place)).get("secondary"):
                return Check(ok=False, reason=f"{place.host} is no secondary any more")
            facts = await self._facts(ctx, place)
            has_shrunk = before is not None and facts["storage_bytes"] < before
            ok = has_shrunk and facts["free_bytes"] < ctx.params.min_free_bytes
            return Check(ok=ok, reason="" if ok else "its file still holds free space", facts=facts)

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    def _named(self, ctx: ActionContext, host: str) -> Place:
        places = self.mongo.places_of(ctx.target)
        return next((one for one in places if one.host == host), places[0])

    async def _secondary(self, ctx: ActionContext) -> Place | None:
        """Give the first secondary among the members that the target's address leads to, if there is one."""
        places, away = self.mongo.places_of(ctx.target), list[TransientError]()
        for one in places:
            try:
                if (await self.hello(ctx, one)).get("secondary"):
                    return one
            except TransientError as error:
                away.append(error)
        if away:
            raise away[0]
        return None

    async def _refusal(self, ctx: ActionContext, place: Place, facts: JsonObject) -> str:
        params, listed = ctx.params, place.deployment.databases
        if params.database not in listed:
            return f"{params.database} is not among the databases of {place.name}"
        if facts["free_bytes"] < params.min_free_bytes:
            return f"only {facts['free_bytes']} bytes of its file are free space"
        if facts["disk_free_bytes"] < params.min_disk_free_bytes:
            return f"only {facts['disk_free_bytes']} bytes are free on the disk"
        if facts["active_clients"] > params.max_active_clients:
            return f"the member serves {facts['active_clients']} clients"
        members = members_of(await self.command(ctx, {"replSetGetStatus": 1}, place=place))
        others = [one for one in members if one.is_secondary][1:]
        return "" if others else "it is the only secondary"

    async def _facts(self, ctx: ActionContext, place: Place) -> dict[str, Any]:
        database = ctx.params.database
        stats = await self.command(ctx, {"collStats": ctx.params.collection}, place=place, database=database)
        disk = await self.command(ctx, {"dbStats": 1}, place=place, database=database)
        status = await self.command(ctx, {"serverStatus": 1}, place=place)
        return {
            "member": place.host,
            "storage_bytes": int(stats.get("storageSize") or 0),
            "free_bytes": int(stats.get("freeStorageSize") or 0),
            "disk_free_bytes": int((disk.get("fsTotalSize") or 0) - (disk.get("fsUsedSize") or 0)),
            "active_clients": active_clients_of(status) or 0,
        }
