"""Freeing an engine's disk: old stopped containers, unused images, build cache. Never volumes.

Everything is chosen here, from a listing, and removed one by one without force: the engine itself refuses what
is in use by then. Volumes are named in no request.
"""

from __future__ import annotations

from typing import Any, Literal

from cachetools import LRUCache
from pydantic import Field

from actions.docker_disk import Disk, Piece, chosen, disk_of, pieces_of, was_pruned
from actions.docker_engine import Api, DockerExecutor
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

_LISTED = 50
_PATIENCE_SECONDS = 20.0


class PruneParams(Params):
    """What may go, and how much of it."""

    containers: bool = True
    """Containers that stopped, without volumes of their own."""
    images: Literal["none", "dangling", "unused"] = "dangling"
    """Images without a name, or all that no container uses."""
    build_cache: bool = True
    """What builds keep for the next one."""
    older_than_seconds: int = Field(604_800, ge=0)
    """Not used for so long; the setting `min_prune_age_seconds` may ask for more."""
    max_bytes: int = Field(10_737_418_240, gt=0)
    """No more than this is removed, by the engine's own figures."""
    over: float = Field(0.85, gt=0, le=1)
    """Fraction of the disk that must be in use for anything to be done."""
    target: float = Field(0.8, gt=0, lt=1)
    """Fraction below which it must be afterwards; as soon as it is, nothing more is removed."""


class Prune(DockerExecutor):
    """Removes what nothing uses, oldest first, until the disk is below its target."""

    spec = ActionSpec(
        id="docker.prune",
        summary="Free the engine's disk of old stopped containers, unused images and build cache.",
        target_kind="docker_engine",
        params=PruneParams,
        risk=RiskClass.R3,
        reversible=False,
        irreversible_reason="what was removed has to be pulled or built again",
        deadline_seconds=600.0,
        cooldown_seconds=3_600.0,
        cost=0.3,
        family="purge",
        exemptions={"rollback_restores": "what was removed has to be pulled or built again"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(1024)

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect what takes the disk, by kind."""
        try:
            return await self.ask(ctx, _evidence)
        except (TransientError, PermanentError) as error:
            return {"reason": error.message}

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse while the disk has room, and when what may go is not enough."""
        disk = await self._disk(ctx)
        if disk is None:
            return Check(ok=False, reason="the engine's disk can't be seen from here: set data_root")
        facts: dict[str, Any] = {"used": round(disk.used, 4), "data_root": disk.path}
        if disk.used < ctx.params.over:
            return Check(
                ok=False, reason=f"the disk is {disk.used:.0%} full, not {ctx.params.over:.0%}", facts=facts
            )
        plan = await self._plan(ctx, disk)
        facts |= {"listing": [piece.as_fact() for piece in plan[:_LISTED]], "pieces": len(plan)}
        facts["bytes"] = sum(piece.size for piece in plan)
        if not plan:
            return Check(ok=False, reason="nothing may be removed", facts=facts)
        if facts["bytes"] < disk.bytes_above(ctx.params.target):
            return Check(ok=False, reason="what may be removed is not enough for the target", facts=facts)
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Remove piece by piece until the disk is below the target."""
        disk = await self._disk(ctx)
        if disk is None:
            raise PermanentError("the engine's disk can't be seen from here: set data_root")
        plan = await self._plan(ctx, disk)
        facts: dict[str, Any] = {"used_before": round(disk.used, 4), "removed": 0, "bytes": 0, "skipped": []}
        if ctx.dry_run:
            listing = [piece.as_fact() for piece in plan[:_LISTED]]
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "listing": listing}, planned=True)
        known = self._done.get(ctx.idempotency_key)
        if known is None and await self._was_begun(ctx):
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "already": True})
        # A second call, after an error midway, goes on within what is left of the first one's bound.
        facts = self._done.setdefault(ctx.idempotency_key, facts)
        await self._remove(ctx, plan, facts)
        return Receipt(self.spec.id, ctx.clock.now(), dict(facts))

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the disk is below the target; the engine frees some of it a little later."""

        async def sample() -> Check:
            disk = await self._disk(ctx)
            if disk is None:
                return Check(ok=False, reason="the engine's disk can't be seen from here: set data_root")
            facts = {"used": round(disk.used, 4), "bytes": receipt.facts.get("bytes")}
            reason = "" if disk.used < ctx.params.target else f"the disk is still {disk.used:.0%} full"
            return Check(ok=not reason, reason=reason, facts=facts)

        return await held(ctx, sample, hold_seconds=0.0, within_seconds=_PATIENCE_SECONDS)

    async def _disk(self, ctx: ActionContext) -> Disk | None:
        settings = self.engine.settings
        info = await self.ask(ctx, lambda api: api.info())
        return await ctx.run_blocking(disk_of, settings, str(info.get("DockerRootDir") or ""))

    async def _plan(self, ctx: ActionContext, disk: Disk) -> list[Piece]:
        params, settings, now = ctx.params, self.engine.settings, ctx.started_at
        age = max(params.older_than_seconds, settings.min_prune_age_seconds)
        found = await self.ask(ctx, lambda api: pieces_of(api, settings, now))
        kinds = {"container": params.containers, "cache": params.build_cache}
        kinds |= {"dangling": params.images != "none", "image": params.images == "unused"}
        fitting = [piece for piece in found if kinds[piece.kind] and now - piece.used_at >= age]
        return chosen(fitting, disk.bytes_above(params.target), params.max_bytes)

    async def _was_begun(self, ctx: ActionContext) -> bool:
        """Say whether the engine remembers removals since the attempt was written down.

        What a process that died had removed is not known: nothing more is removed for it.
        """
        since, now = ctx.started_at, ctx.clock.now()
        return await self.ask(ctx, lambda api: was_pruned(api, since, now))

    async def _remove(self, ctx: ActionContext, plan: list[Piece], facts: dict[str, Any]) -> None:
        for piece in plan:
            if facts["bytes"] + piece.size > ctx.params.max_bytes:
                continue
            disk = await self._disk(ctx)
            if disk is None or disk.used < ctx.params.target:
                return
            try:
                await self.ask(ctx, piece.remove)
            except PermanentError as error:
                # In use by now, or somebody else was faster: the engine's no is the last word.
                facts["skipped"] = [*facts["skipped"], f"{piece.name}: {error.message}"[:200]][:10]
                continue
            except TransientError as error:
                error.receipt_facts = dict(facts)
                raise
            facts["removed"] += 1
            facts["bytes"] += piece.size


def _evidence(api: Api) -> dict[str, Any]:
    found = api.df()
    return {
        "layers_bytes": found.get("LayersSize"),
        "images": len(found.get("Images") or []),
        "containers": len(found.get("Containers") or []),
        "volumes": len(found.get("Volumes") or []),
        "build_cache_bytes": sum(int(one.get("Size") or 0) for one in found.get("BuildCache") or []),
    }
