"""Taking one sick replica out of its service: stopped, or cut off from a network, while others serve."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.docker_config import endpoint_of
from actions.docker_engine import (
    KIND,
    Api,
    DockerExecutor,
    container_of,
    inspect,
    judge,
    objection,
    state_of,
)
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

_MAX_REPLICAS = 100
_HALTED = ("exited", "created")


class IsolateParams(Params):
    """How to take it out."""

    network: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
    """Disconnect it from this network; without one it is stopped."""
    stop_seconds: int = Field(10, ge=0, le=120)
    """Time between SIGTERM and SIGKILL."""
    min_healthy: int = Field(1, ge=1, le=100)
    """So many other replicas of its service must be well, before and after."""
    stable_seconds: float = Field(10.0, ge=0, le=600)
    """How long the others must stay well."""


class IsolateOrStop(DockerExecutor):
    """Stops a replica, or disconnects it from a network and leaves it for a look at it."""

    spec = ActionSpec(
        id="docker.isolate_or_stop",
        summary="Stop one replica of a service, or disconnect it from a network, while others serve.",
        target_kind=KIND,
        params=IsolateParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.1,
        family="isolate",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        # Attempt -> what rollback needs, read before the first call: gone from the engine after it.
        self._before: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse the last healthy replica, what belongs to no service, and what is out already."""
        inspected, reason = await self.inspect_or_objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        facts = {**state_of(inspected).as_facts(), **_snapshot(inspected, ctx.params.network)}
        reason = _out_already(inspected, ctx.params.network) or _unfit(inspected)
        if not reason:
            others = await self._others(ctx, inspected)
            facts["healthy_others"] = len(others)
            reason = _too_few(others, inspected, self.engine.settings.service_labels, ctx.params.min_healthy)
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Take it out, unless it is out."""
        inspected, network = await self.inspect(ctx), ctx.params.network
        facts = {**(self._before.get(ctx.idempotency_key) or _snapshot(inspected, network))}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if _out_already(inspected, network):
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "already": True})
        self._before[ctx.idempotency_key] = facts
        await self._refuse_if_last(ctx, inspected)
        try:
            await self._take_out(ctx, inspected["Id"])
        except ActionError as error:
            error.receipt_facts = facts
            raise
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it is out and the rest of its service stayed well for `stable_seconds`."""

        async def sample() -> Check:
            inspected = await self.inspect(ctx)
            if not _out_already(inspected, ctx.params.network):
                return Check(
                    ok=False, reason="the container is not out", facts=state_of(inspected).as_facts()
                )
            others = await self._others(ctx, inspected)
            labels = self.engine.settings.service_labels
            reason = _too_few(others, inspected, labels, ctx.params.min_healthy)
            return Check(ok=not reason, reason=reason, facts={"healthy_others": len(others)})

        return await held(
            ctx, sample, hold_seconds=ctx.params.stable_seconds, within_seconds=ctx.seconds_left
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Start or connect it again as it was."""
        inspected, network, name = await self.inspect(ctx), ctx.params.network, container_of(ctx.target)
        if not _out_already(inspected, network):
            return Check(ok=True, facts={"status": state_of(inspected).status})
        before = receipt.facts.get("endpoint")
        if network is None:
            await self.ask(ctx, lambda api: api.start(name))
        elif before is None:
            return Check(ok=False, reason="how the container was connected is not known")
        else:
            await self.ask(ctx, lambda api: api.connect_container_to_network(name, network, **before))
        now = await self.inspect(ctx)
        is_back = not _out_already(now, network)
        return Check(
            ok=is_back,
            reason="" if is_back else "the container is still out",
            facts={"status": state_of(now).status},
        )

    async def _refuse_if_last(self, ctx: ActionContext, inspected: JsonObject) -> None:
        labels, wanted = self.engine.settings.service_labels, ctx.params.min_healthy
        reason = objection(inspected, self.engine.settings) or _unfit(inspected)
        reason = reason or _too_few(await self._others(ctx, inspected), inspected, labels, wanted)
        if reason:
            raise PermanentError(reason)

    async def _take_out(self, ctx: ActionContext, container: str) -> None:
        network, seconds = ctx.params.network, ctx.params.stop_seconds
        if network is None:
            await self.ask(ctx, lambda api: api.stop(container, timeout=seconds))
        else:
            await self.ask(ctx, lambda api: api.disconnect_container_from_network(container, network))

    async def _others(self, ctx: ActionContext, inspected: JsonObject) -> list[str]:
        """Give the names of the well replicas of its service, itself left out; none when it has no service."""
        wanted = _service(inspected, self.engine.settings.service_labels)
        now, network = ctx.clock.now(), ctx.params.network
        if wanted is None:
            return []
        return await self.ask(ctx, lambda api: _well(api, wanted, inspected["Id"], network, now))


def _service(inspected: JsonObject, labels: Iterable[str]) -> dict[str, str] | None:
    found = inspected["Config"].get("Labels") or {}
    service = {label: str(found.get(label) or "") for label in labels}
    return service if all(service.values()) else None


def _well(api: Api, service: dict[str, str], own_id: str, network: str | None, now: float) -> list[str]:
    listed = api.containers(filters={"label": [f"{key}={value}" for key, value in service.items()]})
    names = []
    for one in listed[:_MAX_REPLICAS]:
        if one["Id"] == own_id:
            continue
        found = inspect(api, one["Id"], now)
        if judge(state_of(found)).ok and (network is None or network in _networks(found)):
            names.append(str(found["Name"]).lstrip("/"))
    return names


def _networks(inspected: JsonObject) -> JsonObject:
    found: JsonObject = (inspected.get("NetworkSettings") or {}).get("Networks") or {}
    return found


def _snapshot(inspected: JsonObject, network: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"state_before": state_of(inspected).status}
    if network is not None and network in _networks(inspected):
        facts["endpoint"] = endpoint_of(inspected, network)
    return facts


def _out_already(inspected: JsonObject, network: str | None) -> str:
    if network is not None:
        return "" if network in _networks(inspected) else f"the container is not connected to {network}"
    status = state_of(inspected).status
    return f"the container is {status} already" if status in _HALTED else ""


def _unfit(inspected: JsonObject) -> str:
    if inspected["HostConfig"].get("AutoRemove"):
        return "the container removes itself when stopped: nothing could be restored"
    return ""


def _too_few(others: list[str], inspected: JsonObject, labels: Iterable[str], wanted: int) -> str:
    if _service(inspected, labels) is None:
        return "the container carries no service label: whether others serve in its place is not known"
    if len(others) < wanted:
        return f"{len(others)} other replicas of its service are well, {wanted} are needed"
    return ""
