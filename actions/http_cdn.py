"""Purging what a CDN or caching proxy keeps: single keys or tags, never everything."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

from cachetools import LRUCache
from pydantic import Field, model_validator

from actions.http_declared import Cache
from actions.http_executor import HttpExecutor, declared
from actions.http_templates import Call, UrlPath
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
from oncall_agent.contract.http import HttpAnswer
from oncall_agent.models import JsonObject

_PERMANENT = "what was purged is gone; the cache fills itself again from the origin"
_EVERYTHING = frozenset({"all", "any", "everything", "purge-all", "purge_all"})
_AT_ONCE = 4
_SHOWN = 20

Key = Annotated[str, Field(max_length=1_000, pattern=r"^/[A-Za-z0-9._~/%@:+-]*$")]
Tag = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]


class PurgeParams(Params):
    """What goes: keys or tags, never all."""

    cache: str = Field(min_length=1, max_length=64)
    """A name under `backends.http.caches`."""
    keys: tuple[Key, ...] = Field((), max_length=1_000)
    """Paths of single objects; no patterns."""
    tags: tuple[Tag, ...] = Field((), max_length=100)
    """Tags of objects; `samples` has to name some of them."""
    samples: tuple[Key, ...] = Field((), max_length=20)
    """Paths that carry the tags: what verify looks at."""
    within_seconds: float = Field(20.0, gt=0, le=600)
    """How long to wait until the cache has the objects anew."""

    @model_validator(mode="after")
    def _are_keys_or_tags(self) -> PurgeParams:
        if bool(self.keys) == bool(self.tags):
            raise ValueError("either keys or tags, and at least one")
        if self.tags and not self.samples:
            raise ValueError("tags need samples: paths that carry them")
        if any(tag.lower() in _EVERYTHING for tag in self.tags):
            raise ValueError("a tag may not stand for everything")
        return self

    @property
    def looked_at(self) -> tuple[str, ...]:
        """The paths whose state shows whether the purge worked."""
        return self.keys or self.samples


@dataclass(frozen=True, slots=True)
class Seen:
    """How the cache answered for one path."""

    status: str
    digest: str

    @property
    def is_hit(self) -> bool:
        """Whether it came out of the cache; CDNs write `HIT` or `TCP_HIT from …`."""
        return "HIT" in self.status


class PurgeCdn(HttpExecutor):
    """Purges, and sees that the next answer comes from the origin and the one after it from the cache."""

    spec = ActionSpec(
        id="http.purge_cdn",
        summary="Purge keys or tags from a CDN or caching proxy.",
        target_kind="*",
        params=PurgeParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason=_PERMANENT,
        deadline_seconds=60.0,
        cost=0.1,
        family="cache",
        exemptions={"rollback_restores": _PERMANENT},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, Receipt] = LRUCache(8192)

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the caches answer."""
        for cache in self.conf.caches.values():
            await self._see(ctx, cache, "/")
        return Check(ok=True, reason=f"{len(self.conf.caches)} caches")

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect how the cache answers for the paths now."""
        cache = declared(self.conf.caches, ctx.params.cache, "cache")
        return {path: (await self._see(ctx, cache, path)).status for path in ctx.params.looked_at[:_SHOWN]}

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse too many, what the cache has no request for, and an origin that could not bear it."""
        if ctx.target.protected:
            return Check(ok=False, reason="the target is protected")
        try:
            cache, _ = self._purge(ctx)
        except PermanentError as error:
            return Check(ok=False, reason=error.message)
        count = len(ctx.params.keys or ctx.params.tags)
        facts = {
            "count": count,
            "tags": list(ctx.params.tags[:_SHOWN]),
            "keys": list(ctx.params.keys[:_SHOWN]),
        }
        if count > cache.max_count:
            return Check(ok=False, reason=f"{count} are more than {cache.max_count}", facts=facts)
        room = (
            await self.holds(ctx, cache.headroom, cache.secret_headers) if cache.headroom else Check(ok=True)
        )
        if not room.ok:
            return Check(ok=False, reason=f"the origin has no headroom: {room.reason}", facts=facts)
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Send the purges, a few at a time, and look at each path once: that is the miss that fills it again."""
        cache, call = self._purge(ctx)
        facts: dict[str, Any] = {
            "cache": ctx.params.cache,
            "keys": list(ctx.params.keys[:_SHOWN]),
            "tags": list(ctx.params.tags[:_SHOWN]),
        }
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return known
        if len(ctx.params.keys or ctx.params.tags) > cache.max_count:
            raise PermanentError(f"more than {cache.max_count}")
        if not await self.is_fresh(ctx, cache):
            await self._purge_all(ctx, cache, call)
        first = {path: (await self._see(ctx, cache, path)).status for path in ctx.params.looked_at}
        receipt = Receipt(
            self.spec.id, ctx.clock.now(), {**facts, "first": dict(list(first.items())[:_SHOWN])}
        )
        self._done[ctx.idempotency_key] = receipt
        return receipt

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether each path was missed once, is a hit now, and is what the origin has."""
        cache = declared(self.conf.caches, ctx.params.cache, "cache")
        first = receipt.facts.get("first", {})

        async def sample() -> Check:
            try:
                return await self._compared(ctx, cache, first)
            except ActionError as error:
                return Check(ok=False, reason=error.message)

        return await held(
            ctx, sample, hold_seconds=0.0, within_seconds=ctx.params.within_seconds, interval_seconds=0.2
        )

    async def _compared(self, ctx: ActionContext, cache: Cache, first: JsonObject) -> Check:
        for path in ctx.params.looked_at:
            seen = await self._see(ctx, cache, path)
            if not seen.is_hit:
                return Check(ok=False, reason=f"{path} is a {seen.status or 'miss'}"[:200])
            if cache.origin is not None:
                if seen.digest != await self._digest(ctx, cache.origin, path):
                    return Check(ok=False, reason=f"{path} is not what the origin has"[:200])
            elif "HIT" in str(first.get(path, "HIT")):
                return Check(ok=False, reason=f"{path} was not seen to be missed"[:200])
        return Check(ok=True, facts={"hits": len(ctx.params.looked_at), "first": dict(first)})

    async def is_fresh(self, ctx: ActionContext, cache: Cache) -> bool:
        """Say whether the cache has already what the origin has: a former call came through."""
        if cache.origin is None:
            return False
        for path in ctx.params.looked_at:
            if (await self._see(ctx, cache, path)).digest != await self._digest(ctx, cache.origin, path):
                return False
        return True

    async def _purge_all(self, ctx: ActionContext, cache: Cache, call: Call) -> None:
        values: list[dict[str, Any]] = [{"key": UrlPath(key.removeprefix("/"))} for key in ctx.params.keys]
        values += [{"tag": tag} for tag in ctx.params.tags]
        bound = asyncio.Semaphore(_AT_ONCE)

        async def one(variables: dict[str, Any]) -> None:
            async with bound:
                answer = await self.send(ctx, call, cache.secret_headers, variables, key=ctx.idempotency_key)
                answer.check(call.expect_status)

        # Gathered, so that an error comes as itself; purging the rest all the same does no harm.
        await asyncio.gather(*(one(variables) for variables in values))

    async def _see(self, ctx: ActionContext, cache: Cache, path: str) -> Seen:
        answer = await self._get(ctx, self.url(ctx, cache.url, {}).rstrip("/") + path)
        return Seen(str(answer.headers.get(cache.status_header, "")).upper(), _digest(answer.body))

    async def _digest(self, ctx: ActionContext, origin: str, path: str) -> str:
        return _digest((await self._get(ctx, self.url(ctx, origin, {}).rstrip("/") + path)).body)

    async def _get(self, ctx: ActionContext, url: str) -> HttpAnswer:
        return await self.http.send(
            "GET",
            url,
            allowed=self.conf.allowed(url, ctx.target.address.get("url")),
            timeout_seconds=self.timeout(ctx),
        )

    def _purge(self, ctx: ActionContext) -> tuple[Cache, Call]:
        cache = declared(self.conf.caches, ctx.params.cache, "cache")
        call = cache.purge_key if ctx.params.keys else cache.purge_tag
        if call is None:
            raise PermanentError(f"the cache purges no {'keys' if ctx.params.keys else 'tags'}")
        return cache, call


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
