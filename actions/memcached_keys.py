"""Stale keys: removing some by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from actions.memcached_client import KIND, Client
from actions.memcached_executor import MemcachedExecutor, digests
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    Receipt,
    RiskClass,
    held,
)

Key = Annotated[str, Field(pattern=r"^[!-~]{1,250}$")]
REFILL = "what was removed comes back from its origin only"


class DeleteKeysParams(Params):
    """Which keys."""

    keys: tuple[Key, ...] = Field(min_length=1, max_length=100)
    """Whole names, as memcached knows them."""
    hold_seconds: float = Field(1.0, ge=0, le=600)
    """The removed values must not come back for so long; fresh ones may."""
    within_seconds: float = Field(10.0, gt=0, le=600)
    """How long to wait for that."""


class DeleteKeys(MemcachedExecutor):
    """Removes keys whose values are wrong."""

    spec = ActionSpec(
        id="memcached.delete_keys",
        summary="Remove some keys of a cache, so that they are read anew from their origin.",
        target_kind=KIND,
        params=DeleteKeysParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason=REFILL,
        deadline_seconds=60.0,
        cost=0.02,
        family="cache",
        exemptions={"rollback_restores": REFILL},
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse protected nodes, and keys of which none is there."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        found = await self.ask(ctx, lambda client: digests(client, ctx.params.keys))
        there = len(found) - found.count(None)
        reason = "" if there else "none of the keys is there"
        return Check(ok=not reason, reason=reason, facts={"there": there, "digests": found})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Remove the values that are there now; a later call under the same key leaves fresh ones alone."""
        known = {} if ctx.dry_run else await self.noted(ctx)
        if not known:
            found = await self.ask(ctx, lambda client: digests(client, ctx.params.keys))
            known = {"there": len(found) - found.count(None), "digests": found}
            if ctx.dry_run:
                return Receipt(self.spec.id, ctx.clock.now(), known, planned=True)
            await self.note(ctx, known)
        if not known.get("done"):
            stale = known["digests"]
            await self.ask(ctx, lambda client: _removed(client, ctx.params.keys, stale))
            await self.note(ctx, {**known, "done": True})
        facts = {name: known[name] for name in ("there", "digests")}
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether every key misses, or has another value by now."""
        stale = receipt.facts.get("digests")

        async def sample() -> Check:
            now = await self.ask(ctx, lambda client: digests(client, ctx.params.keys))
            return fresh(stale, now)

        params = ctx.params
        return await held(
            ctx,
            sample,
            hold_seconds=params.hold_seconds,
            within_seconds=params.within_seconds,
            interval_seconds=0.2,
        )


def fresh(stale: Sequence[str | None] | None, now: Sequence[str | None]) -> Check:
    """Say whether no value of before is there; without knowing them, whether nothing is."""
    known = stale if stale is not None else [None] * len(now)
    same = sum(
        one is not None and (stale is None or one == other) for other, one in zip(known, now, strict=True)
    )
    reason = f"{same} of the keys have the value that was removed" if same else ""
    return Check(ok=not same, reason=reason, facts={"missing": list(now).count(None), "keys": len(now)})


def _removed(client: Client, keys: Sequence[str], stale: Sequence[str | None]) -> None:
    for key, old in zip(keys, stale, strict=True):
        # A value that came since is fresh; between this look and the removal one may come, and comes again.
        if old is not None and digests(client, (key,)) == [old]:
            client.delete(key)
