"""MongoDB replica sets: let another member take over from the primary, and give the role back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.mongodb_client import KIND, Place
from actions.mongodb_executor import NO_MONGOD, MongoExecutor, sampled
from actions.mongodb_facts import Member, members_of
from oncall_agent.contract import (
    ActionContext,
    ActionError,
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

_PRIMARY = 1
_VOTES = (1, 2, 7)
_FREEZE_SECONDS = 30


class StepDownParams(Params):
    """Who may take over, and how long that may take."""

    step_down_seconds: int = Field(60, ge=10, le=3_600)
    """For so long the old primary does not stand for election."""
    catch_up_seconds: int = Field(10, ge=1, le=60)
    """For a secondary to catch up; then the primary stays what it is."""
    max_lag_seconds: float = Field(10.0, gt=0, le=300)
    """A secondary may be so far behind when it begins."""
    new_primary_seconds: float = Field(15.0, ge=1, le=60)
    """For the election of the new primary."""
    hold_seconds: float = Field(2.0, ge=0, le=120)
    """For so long the new primary has to stay."""


class StepDownPrimary(MongoExecutor):
    """Makes the primary step down when a secondary can take over at once."""

    spec = ActionSpec(
        id="mongodb.step_down_primary",
        summary="Let a secondary of a replica set take over from its primary.",
        target_kind=KIND,
        params=StepDownParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=120.0,
        cooldown_seconds=1_800.0,
        blast_radius=2,
        cost=0.3,
        family="restart",
        unproven=NO_MONGOD,
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse without an electable secondary that is close behind, and without a majority."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        place = await self.primary(ctx)
        reason = await self._step_objection(ctx, place)
        return Check(ok=not reason, reason=reason, instances=2, facts={"old": place.host})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Ask for it once; a primary elected since the attempt began is the one that it asked for."""
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return Receipt(self.spec.id, ctx.clock.now(), {**known, "already": True})
        place = await self.primary(ctx)
        if await self._elected_since(ctx, place):
            facts: dict[str, Any] = {"new": place.host, "already": True}
            return Receipt(self.spec.id, ctx.clock.now(), facts)
        facts = {"old": place.host}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        reason = await self._step_objection(ctx, place)
        if reason:
            raise PermanentError(reason)
        await self._step_down(ctx, place)
        self._done[ctx.idempotency_key] = facts
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether another member is primary and a majority takes its writes."""
        old = receipt.facts.get("old")

        async def sample() -> Check:
            place = await self.primary(ctx)
            facts = {"primary": place.host}
            if place.host == old:
                return Check(ok=False, reason="the primary is still the same", facts=facts)
            note = {"appendOplogNote": 1, "data": {"by": "oncall-agent"}}
            await self.command(
                ctx, {**note, "writeConcern": {"w": "majority", "wtimeout": 2_000}}, place=place
            )
            return Check(ok=True, facts=facts)

        limit = ctx.params.new_primary_seconds + ctx.params.hold_seconds
        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=min(limit, ctx.seconds_left),
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Give the old primary its role back, once it follows closely; never one that is not healthy."""
        old = next((one for one in self._places(ctx) if one.host == receipt.facts.get("old")), None)
        if old is None:
            return Check(ok=False, reason="the old primary is not known")
        place = await self.primary(ctx)
        if place.host != old.host:
            reason = await self._return_objection(ctx, place, old)
            if reason:
                return Check(ok=False, reason=reason)
            await self._hand_back(ctx, place, old)
        ok = await self._becomes_primary(ctx, old)
        return Check(ok=ok, reason="" if ok else "the old primary was not elected")

    def _places(self, ctx: ActionContext) -> tuple[Place, ...]:
        return self.mongo.places(self.mongo.places_of(ctx.target)[0].name)

    async def primary(self, ctx: ActionContext) -> Place:
        """Give the primary of now, whatever member the target names."""
        said = "none of its members is primary"
        for one in self._places(ctx):
            try:
                hello = await self.hello(ctx, one)
            except TransientError as error:
                said = error.message
                continue
            if "setName" not in hello:
                raise PermanentError(f"{one.host} is no member of a replica set")
            if hello.get("isWritablePrimary"):
                return one
        raise TransientError(f"MongoDB {self._places(ctx)[0].name}: {said}")

    async def _status(self, ctx: ActionContext, place: Place) -> tuple[Member, ...]:
        return members_of(await self.command(ctx, {"replSetGetStatus": 1}, place=place))

    async def _step_objection(self, ctx: ActionContext, place: Place) -> str:
        config = (await self.command(ctx, {"replSetGetConfig": 1}, place=place)).get("config") or {}
        return objection_to(await self._status(ctx, place), config, ctx.params.max_lag_seconds)

    async def _elected_since(self, ctx: ActionContext, place: Place) -> bool:
        own = next((one for one in await self._status(ctx, place) if one.state == _PRIMARY), None)
        if own is None or own.elected_at is None:
            return False
        # The time of an election is told in whole seconds.
        return own.elected_at + 1.0 > await self.since_begun(ctx, place)

    async def _step_down(self, ctx: ActionContext, place: Place) -> None:
        document = {
            "replSetStepDown": max(ctx.params.step_down_seconds, ctx.params.catch_up_seconds + 1),
            "secondaryCatchUpPeriodSecs": ctx.params.catch_up_seconds,
        }
        try:
            await self.command(ctx, document, place=place, is_long=True)
        except TransientError as error:
            # It may have been heard: whether it was, the next look at the primary says.
            raise TransientError(error.message, receipt_facts={"old": place.host}) from error

    async def _return_objection(self, ctx: ActionContext, place: Place, old: Place) -> str:
        name = str((await self.hello(ctx, old)).get("me") or old.host)
        status = await self._status(ctx, place)
        lag = _lags(status).get(name)
        if lag is None or not any(one.host == name and one.is_secondary for one in status):
            return "the old primary is not a healthy secondary"
        return f"the old primary lags {lag:.0f} s" if lag > ctx.params.max_lag_seconds else ""

    async def _hand_back(self, ctx: ActionContext, place: Place, old: Place) -> None:
        """Let nobody but the old primary stand for election, and make the new one step down."""
        others = [one for one in self._places(ctx) if one.host not in (place.host, old.host)]
        try:
            for one in others:
                await self._freeze(ctx, one, _FREEZE_SECONDS)
            await self._freeze(ctx, old, 0)
            await self._step_down(ctx, place)
            await self._becomes_primary(ctx, old)
        finally:
            for one in others:
                await self._freeze(ctx, one, 0)

    async def _freeze(self, ctx: ActionContext, place: Place, seconds: int) -> None:
        try:
            await self.command(ctx, {"replSetFreeze": seconds}, place=place)
        except ActionError:
            # A member that is away, or is primary by now, stands for no election either.
            return

    async def _becomes_primary(self, ctx: ActionContext, place: Place) -> bool:
        until = ctx.clock.monotonic() + min(ctx.params.new_primary_seconds, ctx.seconds_left)
        while True:
            if (await self.hello(ctx, place)).get("isWritablePrimary"):
                return True
            if ctx.clock.monotonic() + 0.5 > until:
                return False
            await ctx.clock.sleep(0.5)


def objection_to(status: tuple[Member, ...], config: Mapping[str, Any], max_lag_seconds: float) -> str:
    """Give why nobody could take over, or an empty text."""
    listed = config.get("members") or []
    electable = {str(one.get("host")) for one in listed if float(one.get("priority", 1)) > 0}
    voting = {str(one.get("host")) for one in listed if int(one.get("votes", 1)) > 0}
    up = [one for one in status if one.host in voting and one.is_healthy and one.state in _VOTES]
    if len(up) * 2 <= len(voting):
        return f"only {len(up)} of {len(voting)} voting members are up"
    lags = _lags(status)
    able = [lags[one.host] for one in status if one.is_secondary and one.host in electable]
    if not able:
        return "no secondary can be elected"
    return "" if min(able) <= max_lag_seconds else f"the closest secondary lags {min(able):.0f} s"


def _lags(status: tuple[Member, ...]) -> dict[str, float]:
    newest = max((one.applied_at for one in status), default=0.0)
    return {one.host: newest - one.applied_at for one in status}
