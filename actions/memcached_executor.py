"""What the memcached actions share: the way to the node, diagnostics, and the notes of each attempt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from actions.memcached_client import Client, Memcached, Place
from actions.memcached_facts import Stats, read, read_slabs
from oncall_agent.contract import ActionContext, ActionError, Check, Executor
from oncall_agent.models import JsonObject

T = TypeVar("T")
_NOTE_SECONDS = 86_400
_MAX_DIGESTED_BYTES = 1_048_576
_SHOWN = 20


class MemcachedExecutor(Executor):
    """One memcached action; the subclasses hold the four steps."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.memcached = Memcached(settings)
        self.conf = self.memcached.settings

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the target's node, or every configured one, answers."""
        try:
            places = [self.place(ctx)] if ctx.target.address else self.memcached.places()
            said = [f"{place} {await self.ask(ctx, _version, place)}" for place in places]
        except ActionError as error:
            return Check(ok=False, reason=error.message)
        return Check(
            ok=bool(said), reason=", ".join(said)[:300] or "no pool is configured in backends.memcached"
        )

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect counters, settings and the classes of item sizes; no key and no value."""
        try:
            stats = await self.stats(ctx)
            slabs = await self.ask(ctx, read_slabs)
        except ActionError as error:
            return {"reason": error.message}
        shown = {str(number): [slab.pages, slab.evicted] for number, slab in list(slabs.items())[:_SHOWN]}
        return {**stats.facts(), "pages_and_evicted_of_slabs": shown}

    def place(self, ctx: ActionContext) -> Place:
        """Give where the target is."""
        return self.memcached.place_of(ctx.target)

    async def ask(self, ctx: ActionContext, question: Callable[[Client], T], place: Place | None = None) -> T:
        """Put one question inside the attempt's deadline."""
        return await self.memcached.ask(
            ctx.run_blocking, ctx.seconds_left, place or self.place(ctx), question
        )

    async def stats(self, ctx: ActionContext, place: Place | None = None) -> Stats:
        """Read a node's counters and settings."""
        return await self.ask(ctx, read, place)

    def objection(self, ctx: ActionContext) -> str:
        """Give why the node must not be touched at all, or an empty text; protected always wins."""
        place = self.place(ctx)
        return f"memcached {place} is protected" if ctx.target.protected or place.node.protected else ""

    async def noted(self, ctx: ActionContext, place: Place | None = None) -> dict[str, Any]:
        """Give what this attempt noted on a node, empty when it did not."""
        found: dict[str, Any] = {}
        text = await self.ask(ctx, lambda client: client.get(note_key(ctx)), place)
        if text:
            found = json.loads(text)
        return found

    async def note(self, ctx: ActionContext, facts: JsonObject, place: Place | None = None) -> None:
        """Keep what this attempt has to know if it is carried out again, by another process."""
        text = json.dumps(dict(facts))
        await self.ask(ctx, lambda client: client.set(note_key(ctx), text, expire=_NOTE_SECONDS), place)


def note_key(ctx: ActionContext) -> str:
    """Give the key of an attempt's notes."""
    return f"oncall-agent:attempt:{hashlib.sha256(ctx.idempotency_key.encode()).hexdigest()[:32]}"


def digests(client: Client, keys: tuple[str, ...]) -> list[str | None]:
    """Give what tells one value of each key from another, None where there is none; large ones by their size."""
    return [_digest(client, key) for key in keys]


def _digest(client: Client, key: str) -> str | None:
    found: list[bytes] = client.raw_command(f"mg {key} s").split()
    if found[:1] != [b"HD"]:
        return None
    if int(found[1][1:]) > _MAX_DIGESTED_BYTES:
        return found[1].decode()
    value = client.get(key)
    return None if value is None else hashlib.sha256(value).hexdigest()[:16]


def _version(client: Client) -> str:
    text: bytes = client.version()
    return text.decode(errors="replace")
