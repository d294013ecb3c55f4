"""Docker containers: restart, start or unpause, and the prober that reads their state."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.docker_engine import (
    KIND,
    DockerExecutor,
    Engine,
    MissingError,
    SettledParams,
    State,
    container_of,
    inspect,
    judge,
    past,
    state_of,
)
from actions.docker_time import seconds_of
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Clock,
    Params,
    PermanentError,
    Prober,
    Reading,
    Receipt,
    RiskClass,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject

_STATS_SECONDS = 3.0
_HOUR_SECONDS = 3_600.0
_YOUNG_SECONDS = 5.0


class RestartParams(SettledParams):
    """How to restart."""

    stop_seconds: int = Field(10, ge=0, le=120)
    """Time between SIGTERM and SIGKILL."""


class RestartContainer(DockerExecutor):
    """Restarts a container that hangs or misbehaves."""

    spec = ActionSpec(
        id="docker.restart_container",
        summary="Restart a container.",
        target_kind=KIND,
        params=RestartParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="a restart can't be taken back; the container runs as it was configured",
        deadline_seconds=180.0,
        cost=0.05,
        family="restart",
        exemptions={"rollback_restores": "a restart can't be taken back"},
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        # Attempt -> StartedAt before it: tells a repeat in this process that the first call came through.
        self._before: LRUCache[str, str] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse absent, protected and swarm containers, and those that were restarted too often."""
        inspected, reason = await self.inspect_or_objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        state, name = state_of(inspected), container_of(ctx.target)
        now = ctx.clock.now()
        starts = await self.ask(
            ctx, lambda api: len(list(past(api, name, "start", now - _HOUR_SECONDS, now)))
        )
        starts = max(starts, state.restart_count)
        facts = {**state.as_facts(), "started_before": state.started_at, "starts_within_an_hour": starts}
        if starts > self.engine.settings.max_restarts_per_hour:
            return Check(ok=False, reason=f"started {starts} times within an hour", facts=facts)
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Restart it, unless it was started since the attempt began."""
        state = state_of(await self.inspect(ctx))
        before = self._before.setdefault(ctx.idempotency_key, state.started_at)
        facts: dict[str, Any] = {"started_before": before, "restarts_before": state.restart_count}
        if ctx.dry_run:
            self._before.pop(ctx.idempotency_key, None)
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        is_done = state.started_at != before or seconds_of(state.started_at) > ctx.started_at
        if is_done:
            restarted = {"restarts_before": state.restart_count, "already": True}
            known = {"started_before": before} if state.started_at != before else {}
            return Receipt(self.spec.id, ctx.clock.now(), {**restarted, **known})
        name, seconds = container_of(ctx.target), ctx.params.stop_seconds
        await self.ask(ctx, lambda api: api.restart(name, timeout=seconds))
        return Receipt(self.spec.id, ctx.clock.now(), {**facts, "restarts_before": 0})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it was started anew and is healthy, or ran quietly for `stable_seconds`."""
        before, count = receipt.facts.get("started_before"), receipt.facts.get("restarts_before")
        return await self.until_well(
            ctx, lambda found: judge(state_of(found), started_before=before, restarts_before=count)
        )


class StartOrUnpause(DockerExecutor):
    """Brings a container back that stands still."""

    spec = ActionSpec(
        id="docker.start_or_unpause",
        summary="Start a container that has exited, or unpause one that is paused.",
        target_kind=KIND,
        params=SettledParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=120.0,
        cost=0.02,
        family="restart",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._before: LRUCache[str, str] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse what does not stand still; exit code and memory flag are in the facts."""
        inspected, reason = await self.inspect_or_objection(ctx)
        if reason:
            return Check(ok=False, reason=reason)
        state = state_of(inspected)
        facts = {**state.as_facts(), "state_before": state.status}
        if state.status not in ("exited", "created", "paused"):
            return Check(
                ok=False, reason=f"the container is {state.status}, not exited or paused", facts=facts
            )
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Unpause or start; a running container is left alone."""
        state, name = state_of(await self.inspect(ctx)), container_of(ctx.target)
        before = self._before.get(ctx.idempotency_key, state.status)
        facts = {"state_before": before, "restarts_before": state.restart_count}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        self._before[ctx.idempotency_key] = before
        if state.status == "paused":
            await self.ask(ctx, lambda api: api.unpause(name))
        elif state.status in ("exited", "created"):
            await self.ask(ctx, lambda api: api.start(name))
            facts["restarts_before"] = 0
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether it runs and is healthy, or ran quietly for `stable_seconds`."""
        count = receipt.facts.get("restarts_before")
        return await self.until_well(ctx, lambda found: judge(state_of(found), restarts_before=count))

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Stop or pause it again."""
        before, name = receipt.facts.get("state_before"), container_of(ctx.target)
        status = state_of(await self.inspect(ctx)).status
        if before == "paused" and status == "running":
            await self.ask(ctx, lambda api: api.pause(name))
        elif before in ("exited", "created") and status in ("running", "restarting", "paused"):
            await self.ask(ctx, lambda api: api.stop(name))
        return Check(ok=True, facts={"state_before": before})


class DockerProbeParams(Params):
    """What to read."""

    stats: bool = True
    """Also CPU and memory; costs the engine a second of sampling."""


class DockerProber(Prober):
    """Reads state, health, CPU and memory; a container that does not exist is down."""

    kind = "docker"
    params = DockerProbeParams

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._engine = Engine(settings)
        self._restarts: LRUCache[str, int] = LRUCache(4096)
        self._cpu: LRUCache[str, tuple[float, float]] = LRUCache(4096)

    async def __aexit__(self, *_: object) -> None:
        self._engine.close()

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Inspect once, and sample the statistics of a running container."""
        try:
            name, now = container_of(target), clock.now()
            found = await self._engine.ask(run_blocking, timeout_seconds, lambda api: inspect(api, name, now))
        except MissingError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        except PermanentError as error:
            raise TransientError(error.message) from error
        state = state_of(found)
        facts = state.as_facts()
        complaint = judge(state).reason or self._crashing(state, now)
        if complaint:
            return Reading(Signals(up=False), {**facts, "reason": complaint})
        if not params.stats or timeout_seconds < _STATS_SECONDS:
            return Reading(Signals(up=True), facts)
        sampled = await self._stats(name, timeout_seconds, run_blocking)
        cpu, memory = self._cpu_share(state.id, sampled), _memory_share(sampled)
        return Reading(Signals(up=True, cpu=cpu, memory=memory), facts)

    async def _stats(self, name: str, timeout_seconds: float, run_blocking: RunBlocking) -> dict[str, Any]:
        question = lambda api: api.stats(name, stream=False, one_shot=True)  # noqa: E731 - one line to the client
        try:
            found: dict[str, Any] = await self._engine.ask(run_blocking, timeout_seconds, question)
        except (TransientError, PermanentError):
            return {}  # It may have ended in between; the state was read.
        return found

    def _crashing(self, state: State, now: float) -> str:
        """Tell a container between two crashes from one that runs."""
        last = self._restarts.get(state.id)
        self._restarts[state.id] = state.restart_count
        is_young = now - seconds_of(state.started_at) < _YOUNG_SECONDS
        has_crashed = (last is not None and state.restart_count > last) or (
            state.restart_count > 0 and is_young
        )
        return "the container keeps crashing" if has_crashed else ""

    def _cpu_share(self, container: str, sampled: JsonObject) -> float | None:
        """Give the share of all CPUs since the last reading, 0..1; None at the first one."""
        cpu = sampled.get("cpu_stats") or {}
        total, system = (cpu.get("cpu_usage") or {}).get("total_usage"), cpu.get("system_cpu_usage")
        if total is None or system is None:
            return None
        last = self._cpu.get(container)
        self._cpu[container] = (total, system)
        if last is None or system <= last[1]:
            return None
        return min(1.0, max(0.0, float(total - last[0]) / float(system - last[1])))


def _memory_share(sampled: JsonObject) -> float | None:
    memory = sampled.get("memory_stats") or {}
    usage, limit = memory.get("usage"), memory.get("limit")
    if usage is None or not limit:
        return None
    detail = memory.get("stats") or {}
    # The page cache that can be dropped is no pressure; cgroup v1 and v2 name it differently.
    cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    return min(1.0, max(0.0, float(usage - cache) / float(limit)))
