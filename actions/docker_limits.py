"""Raising a container's limits within narrow bounds, and taking that back."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from cachetools import LRUCache
from pydantic import Field, model_validator

from actions.docker_engine import (
    KIND,
    Api,
    DockerExecutor,
    SettledParams,
    container_of,
    judge,
    past,
    state_of,
)
from actions.docker_settings import DockerSettings
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    PermanentError,
    Receipt,
    RiskClass,
)
from oncall_agent.models import JsonObject

_PAGE = 4_096
_MAX_FACTOR = 1.5
_NANO = 1_000_000_000
_MAX_CONTAINERS = 200


class LimitParams(SettledParams):
    """Which limits to set; at least one."""

    memory_factor: float | None = Field(None, gt=1.0, le=_MAX_FACTOR)
    """Times the limit of now."""
    memory_bytes: int | None = Field(None, ge=4_194_304)
    """Or this many bytes, at most half as much again as now."""
    cpus: float | None = Field(None, gt=0, le=1024)
    """At most half as much again as now."""
    restart_policy: Literal["no", "on-failure", "unless-stopped", "always"] | None = None
    start_after_oom: bool = True
    """Start the container if it stands still because it ran out of memory."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.memory_factor is not None and self.memory_bytes is not None:
            raise ValueError("memory_factor and memory_bytes exclude each other")
        if (self.memory_factor, self.memory_bytes, self.cpus, self.restart_policy) == (
            None,
            None,
            None,
            None,
        ):
            raise ValueError("one of memory_factor, memory_bytes, cpus, restart_policy is needed")
        return self


class UpdateLimits(DockerExecutor):
    """Gives a container more room, at most half as much again."""

    spec = ActionSpec(
        id="docker.update_limits",
        summary="Raise a container's memory or CPU limit, or set its restart policy.",
        target_kind=KIND,
        params=LimitParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.1,
        family="scale",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, dict[str, Any]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what goes beyond half as much again, the cap, or the host's room."""
        inspected, reason = await self.inspect_or_objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        before = limits_of(inspected)
        wanted = plan(before, ctx.params)
        facts = {**state_of(inspected).as_facts(), "before": before, "wanted": wanted}
        reason = refusal(before, wanted, inspected["HostConfig"], self.engine.settings)
        if not reason and wanted.get("Memory"):
            added, reserve = wanted["Memory"] - before["Memory"], self.engine.settings.memory_reserve
            reason = await self.ask(ctx, lambda api: _lacks_room(api, added, reserve))
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Set the limits once, and start the container if it ran out of memory."""
        inspected = await self.inspect(ctx)
        before = (
            self._before.get(ctx.idempotency_key)
            or await self._earlier(ctx, inspected)
            or limits_of(inspected)
        )
        wanted = plan(before, ctx.params)
        facts: dict[str, Any] = {
            "before": before,
            "wanted": wanted,
            "state_before": state_of(inspected).status,
        }
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        self._before[ctx.idempotency_key] = before
        reason = refusal(before, wanted, inspected["HostConfig"], self.engine.settings)
        if reason:
            raise PermanentError(reason)
        if not matches(limits_of(inspected), wanted):
            await self._set(ctx, wanted)
        await self._start(ctx, inspected, facts)
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the limits are set and the container is well, not short of memory."""
        wanted = receipt.facts.get("wanted") or {}

        def judged(inspected: dict[str, Any]) -> Check:
            if not matches(limits_of(inspected), wanted):
                return Check(ok=False, reason="the limits are not as wanted", facts=limits_of(inspected))
            return judge(state_of(inspected), restarts_before=receipt.facts.get("restarts_before"))

        return await self.until_well(ctx, judged)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set the old limits; stop the container first if it had been started."""
        before, wanted = receipt.facts["before"], receipt.facts["wanted"]
        inspected, name = await self.inspect(ctx), container_of(ctx.target)
        if receipt.facts.get("started") and state_of(inspected).status in ("running", "restarting"):
            await self.ask(ctx, lambda api: api.stop(name))
        old = {key: before[key] for key in wanted}
        if not matches(limits_of(inspected), old):
            await self._set(ctx, old)
        now = limits_of(await self.inspect(ctx))
        return Check(
            ok=matches(now, old), reason="" if matches(now, old) else "the old limits are not back", facts=now
        )

    async def _set(self, ctx: ActionContext, limits: JsonObject) -> None:
        name = container_of(ctx.target)
        await self.ask(ctx, lambda api: update(api, name, limits))

    async def _start(self, ctx: ActionContext, inspected: JsonObject, facts: dict[str, Any]) -> None:
        state, name = state_of(inspected), container_of(ctx.target)
        if not (ctx.params.start_after_oom and state.status == "exited" and state.oom_killed):
            facts["restarts_before"] = state.restart_count
            return
        facts |= {"started": True, "restarts_before": 0}
        try:
            await self.ask(ctx, lambda api: api.start(name))
        except ActionError as error:
            error.receipt_facts = facts
            raise

    async def _earlier(self, ctx: ActionContext, inspected: JsonObject) -> dict[str, Any] | None:
        """Give the limits before this attempt if another process has already carried it out.

        The engine remembers updates; the factor tells what the limit was. An absolute limit is the same twice.
        """
        factor, name = ctx.params.memory_factor, container_of(ctx.target)
        if factor is None or ctx.dry_run:
            return None
        since, until = ctx.started_at, ctx.clock.now()
        if not await self.ask(ctx, lambda api: list(past(api, name, "update", since, until))):
            return None
        now = limits_of(inspected)
        memory = math.ceil(now["Memory"] / factor / _PAGE) * _PAGE
        return {**now, "Memory": memory, "MemorySwap": _swap(now, memory)}


def limits_of(inspected: JsonObject) -> dict[str, Any]:
    """Give the limits of now, named as the engine names them."""
    host = inspected["HostConfig"]
    policy = host.get("RestartPolicy") or {}
    return {
        "Memory": int(host.get("Memory") or 0),
        "MemorySwap": int(host.get("MemorySwap") or 0),
        "NanoCpus": int(host.get("NanoCpus") or 0),
        "RestartPolicy": {
            "Name": policy.get("Name") or "no",
            "MaximumRetryCount": int(policy.get("MaximumRetryCount") or 0),
        },
    }


def plan(before: JsonObject, params: LimitParams) -> dict[str, Any]:
    """Give the limits to set: only what was asked for, memory in whole pages."""
    wanted: dict[str, Any] = {}
    memory = params.memory_bytes
    if params.memory_factor is not None:
        memory = int(before["Memory"] * params.memory_factor)
    if memory is not None:
        wanted["Memory"] = memory // _PAGE * _PAGE
        wanted["MemorySwap"] = _swap(before, wanted["Memory"])
    if params.cpus is not None:
        wanted["NanoCpus"] = int(params.cpus * _NANO)
    if params.restart_policy is not None:
        wanted["RestartPolicy"] = {"Name": params.restart_policy, "MaximumRetryCount": 0}
    return wanted


def _swap(before: JsonObject, memory: int) -> int:
    # The engine refuses a memory limit above memory plus swap: both move together, the swap part stays.
    swap = int(before["MemorySwap"])
    return swap if swap <= 0 else memory + max(0, swap - int(before["Memory"]))


def matches(limits: JsonObject, wanted: JsonObject) -> bool:
    """Say whether every wanted limit is set."""
    return bool(wanted) and all(limits.get(key) == value for key, value in wanted.items())


def refusal(before: JsonObject, wanted: JsonObject, host: JsonObject, settings: DockerSettings) -> str:
    """Give the reason why these limits may not be set, or an empty text."""
    memory, cpus = wanted.get("Memory"), wanted.get("NanoCpus")
    if memory is not None and not before["Memory"]:
        return "the container has no memory limit to raise"
    if memory is not None and memory > min(before["Memory"] * _MAX_FACTOR, settings.max_memory_bytes):
        return f"{memory} bytes are beyond half as much again or the cap"
    if cpus is not None and (host.get("CpuQuota") or not before["NanoCpus"]):
        return "the container's CPU is not limited in CPUs"
    if cpus is not None and cpus > before["NanoCpus"] * _MAX_FACTOR:
        return "that many CPUs are beyond half as much again"
    return ""


def update(api: Api, name: str, limits: JsonObject) -> None:
    """Send the limits in one request; the client's own method knows no `NanoCpus`."""
    answer = api.post(
        f"{api.base_url}/v{api.api_version}/containers/{name}/update", json=dict(limits), timeout=api.timeout
    )
    api._raise_for_status(answer)  # noqa: SLF001 - the library's mapping to its errors has no public name


def _lacks_room(api: Api, added: int, reserve: float) -> str:
    total, taken = int(api.info().get("MemTotal") or 0), 0
    running = api.containers()
    if len(running) > _MAX_CONTAINERS:
        return f"more than {_MAX_CONTAINERS} containers run: the host's room is not known"
    for listed in running:
        taken += int(api.inspect_container(listed["Id"])["HostConfig"].get("Memory") or 0)
    free = total * (1 - reserve) - taken
    return "" if added <= free else f"the host has room for {max(0, int(free))} more bytes"
