"""Redis clients: close idle ones, free those that wait for too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from cachetools import LRUCache
from pydantic import Field, model_validator

from actions.redis_client import CLIENT_NAME, KIND, Client
from actions.redis_executor import RedisExecutor, sampled
from actions.redis_facts import Connected, clients_of
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    Receipt,
    RiskClass,
    held,
)
from oncall_agent.models import JsonObject

_MAX_NAMED = 50


class ClientParams(Params):
    """Which clients; at least one of name, user and address."""

    name: str = Field("", max_length=100)
    """The name that they gave themselves (`CLIENT SETNAME`), word for word."""
    user: str = Field("", max_length=100)
    """Their ACL user."""
    address_prefix: str = Field("", max_length=64)
    """How their address begins, such as `10.1.2.`."""
    max_n: int = Field(50, ge=1, le=1_000)
    """Clients at most."""
    hold_seconds: float = Field(1.0, ge=0, le=120)


class KillParams(ClientParams):
    """Which clients to close, and when there are too many."""

    min_idle_seconds: int = Field(300, ge=0, le=2_592_000)
    """They must have been silent for so long."""
    min_share: float = Field(0.8, ge=0, le=1)
    """Only when so much of `maxclients` is in use."""


class KillClients(RedisExecutor):
    """Closes the connections of idle clients before there is no room for new ones."""

    spec = ActionSpec(
        id="redis.kill_clients",
        summary="Close connections that have been idle for long, when there are too many.",
        target_kind=KIND,
        params=KillParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="a closed connection can't be given back; its client connects again",
        deadline_seconds=60.0,
        cost=0.1,
        family="kill",
        exemptions={"rollback_restores": "a closed connection can't be given back"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse while there is room, and when no client fits; never ourselves, replicas or subscribers."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        facts, chosen = await self._look(ctx)
        if facts["share"] < ctx.params.min_share:
            reason = f"{facts['connected_before']} of {facts['limit']} connections: there is room"
            return Check(ok=False, reason=reason, facts=facts)
        return Check(ok=bool(chosen), reason="" if chosen else "no client fits", facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Close them by id, which the server never gives twice; who connected since the attempt began stays."""
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return Receipt(self.spec.id, ctx.clock.now(), {**known, "already": True})
        facts, chosen = await self._look(ctx)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        since = ctx.clock.now() - ctx.started_at
        ids = [one.id for one in chosen if one.age >= int(since)]
        facts["killed"] = [number for number in ids if await self.ask(ctx, _kill(number))]
        self._done[ctx.idempotency_key] = facts
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether those clients are gone and fewer are connected."""
        before = int(receipt.facts.get("connected_before", 0))
        killed = receipt.facts.get("killed") or receipt.facts.get("chosen") or []

        async def sample() -> Check:
            now = await self.ask(ctx, _list)
            left = {one.id for one in now} & set(killed)
            facts = {"connected": len(now), "left": len(left)}
            if left:
                return Check(ok=False, reason=f"{len(left)} of the clients are still there", facts=facts)
            ok = len(now) <= before - max(1, len(killed) // 2)
            return Check(ok=ok, reason="" if ok else f"{len(now)} clients are connected again", facts=facts)

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )

    async def _look(self, ctx: ActionContext) -> tuple[dict[str, Any], tuple[Connected, ...]]:
        listed = await self.ask(ctx, _list)
        info = await self.ask(ctx, lambda client: client.info(section="clients"))
        limit = int(info.get("maxclients") or 0)
        chosen = idle(listed, ctx.params)
        share = len(listed) / limit if limit else 0.0
        facts = {
            "connected_before": len(listed),
            "limit": limit,
            "share": round(share, 4),
            "chosen": [one.id for one in chosen],
            "names": sorted({one.name for one in chosen})[:_MAX_NAMED],
        }
        return facts, chosen


class UnblockParams(ClientParams):
    """Which clients to free."""

    min_blocked_seconds: int = Field(60, ge=0, le=2_592_000)
    """They must have waited for so long."""

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if not (self.name or self.user or self.address_prefix):
            raise ValueError("one of name, user, address_prefix is needed")
        return self


class Unblock(RedisExecutor):
    """Frees clients that wait in a blocking command, as if its time were over."""

    spec = ActionSpec(
        id="redis.unblock",
        summary="Free clients that wait in a blocking command for too long.",
        target_kind=KIND,
        params=UnblockParams,
        risk=RiskClass.R1,
        reversible=False,
        irreversible_reason="the client gets the answer of a time-out; it may wait again by itself",
        deadline_seconds=60.0,
        cost=0.02,
        family="kill",
        exemptions={"rollback_restores": "the client gets the answer of a time-out and goes on"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when no such client waits for so long."""
        reason = self.objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        chosen = blocked(await self.ask(ctx, _list), ctx.params)
        reason = "" if chosen else "no such client waits in a blocking command"
        return Check(ok=bool(chosen), reason=reason, facts={"chosen": [one.id for one in chosen]})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Free them by id; who began to wait since the attempt began is left alone."""
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return Receipt(self.spec.id, ctx.clock.now(), {**known, "already": True})
        chosen = blocked(await self.ask(ctx, _list), ctx.params)
        facts: dict[str, Any] = {"chosen": [one.id for one in chosen]}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        since = ctx.clock.now() - ctx.started_at
        ids = [one.id for one in chosen if one.idle >= int(since)]
        facts["freed"] = [number for number in ids if await self.ask(ctx, _unblock(number))]
        self._done[ctx.idempotency_key] = facts
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether no such client waits for too long any more."""

        async def sample() -> Check:
            waiting = blocked(await self.ask(ctx, _list), ctx.params)
            facts = {"waiting": [one.id for one in waiting]}
            return Check(
                ok=not waiting, reason=f"{len(waiting)} clients wait" if waiting else "", facts=facts
            )

        return await held(
            ctx,
            lambda: sampled(sample),
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
        )


def idle(listed: Sequence[Connected], params: KillParams) -> tuple[Connected, ...]:
    """Give the clients to close, longest idle first: never ourselves, replicas, subscribers or those that wait."""
    found = [
        one
        for one in _fitting(listed, params)
        if one.idle >= params.min_idle_seconds and not one.is_blocked and not one.subscriptions
    ]
    return tuple(sorted(found, key=lambda one: (-one.idle, one.id))[: params.max_n])


def blocked(listed: Sequence[Connected], params: UnblockParams) -> tuple[Connected, ...]:
    """Give the clients that wait for too long."""
    found = [
        one for one in _fitting(listed, params) if one.is_blocked and one.idle >= params.min_blocked_seconds
    ]
    return tuple(sorted(found, key=lambda one: (-one.idle, one.id))[: params.max_n])


def _fitting(listed: Sequence[Connected], params: ClientParams) -> list[Connected]:
    return [
        one
        for one in listed
        if one.name != CLIENT_NAME
        and not one.is_replication
        and params.name in ("", one.name)
        and params.user in ("", one.user)
        and one.address.startswith(params.address_prefix)
    ]


async def _list(client: Client) -> tuple[Connected, ...]:
    return clients_of(await client.client_list())


def _kill(number: int) -> Any:
    async def kill(client: Client) -> bool:
        return bool(await client.client_kill_filter(_id=str(number)))

    return kill


def _unblock(number: int) -> Any:
    async def unblock(client: Client) -> bool:
        return bool(await client.client_unblock(number))

    return unblock
