"""Looks after everything that is not handling incidents: expiries, the balance, the backends, old rows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from oncall_agent.contract import ActionContext, Executor, Target
from oncall_agent.loops import every
from oncall_agent.models import OPEN_STATES, IncidentState
from oncall_agent.notify import Notice, Notifier
from oncall_agent.pipeline import Services
from oncall_agent.store import Conservation
from oncall_agent.telemetry import log as logging

_PING_SECONDS = 30.0
_PING_LIMIT_SECONDS = 5.0
_CONSERVATION_SECONDS = 15.0
_HOUSEKEEPING_SECONDS = 60.0
_HOUSEKEEPING_SLICES = 100
_EXPIRY_SECONDS = 1.0
_LAG_SECONDS = 0.5


class Caretaker:
    """The recurring duties of one daemon.

    Attributes:
        is_balanced: whether every accepted alert was accounted for when they were last counted.
    """

    def __init__(self, services: Services, notifier: Notifier, tell_readiness: Callable[[], object]) -> None:
        self._services, self._notifier, self._tell_readiness = services, notifier, tell_readiness
        self._checkpointed = services.policy.version
        self._paused = services.store.control.paused
        self.is_balanced = True

    def duties(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """Give the name and the step of each duty; every step paces itself."""
        clock = self._services.clock
        yield "expiry", every(_EXPIRY_SECONDS, self._expire, clock)
        yield "conservation", every(_CONSERVATION_SECONDS, self._weigh, clock)
        yield "housekeeping", every(_HOUSEKEEPING_SECONDS, self._keep_house, clock)
        yield "ping", every(_PING_SECONDS, self._ping, clock)
        yield "lag", self._measure_lag

    async def _expire(self) -> None:
        await self._services.store.expire_approvals(self._services.clock.now())
        self._tell_pause()

    def _tell_pause(self) -> None:
        """Tell people when automation was switched off or on, whoever did it: silence would look like health."""
        control = self._services.store.control
        if control.paused == self._paused:
            return
        self._paused = control.paused
        title = "Automation is paused" if control.paused else "Automation goes on"
        fields = {"reason": control.paused_reason, "by": control.paused_by, "severity": "warning"}
        self._notifier.send(Notice(f"{title} {self._services.clock.now():.0f}", title, fields))

    async def _weigh(self) -> None:
        services, metrics = self._services, self._services.metrics
        terms = await services.store.conservation()
        counts = await services.store.counts()
        for state in IncidentState:
            metrics.incidents.labels(state.value).set(counts.get(state.value, 0))
        most = services.settings.store.max_open_incidents
        metrics.queue_fill.set(sum(counts.get(state.value, 0) for state in OPEN_STATES) / most)
        metrics.paused.set(services.store.control.paused)
        metrics.log_dropped.set(logging.dropped_lines())
        self._tell_balance(terms)
        self._tell_readiness()

    def _tell_balance(self, terms: Conservation) -> None:
        metrics = self._services.metrics
        suppressed = sum(terms.suppressed.values())
        for term in ("accepted", "open", "resolved", "escalated", "dead_lettered"):
            metrics.conservation.labels(term).set(getattr(terms, term))
        metrics.conservation.labels("suppressed").set(suppressed)
        metrics.balanced.set(terms.balanced)
        if self.is_balanced and not terms.balanced:
            accounted = terms.open + terms.resolved + terms.escalated + terms.dead_lettered + suppressed
            self._services.log.error("conservation.broken", accepted=terms.accepted, accounted=accounted)
        self.is_balanced = terms.balanced

    async def _keep_house(self) -> None:
        services = self._services
        for _ in range(_HOUSEKEEPING_SLICES):
            if await services.store.housekeeping(services.clock.now()) == 0:
                break
        policy = services.policy
        if policy.version - self._checkpointed >= services.settings.policy.checkpoint_every:
            await services.store.save_checkpoint(policy.version, policy.snapshot(), services.clock.now())
            self._checkpointed = policy.version

    async def _measure_lag(self) -> None:
        clock = self._services.clock
        before = clock.monotonic()
        await clock.sleep(_LAG_SECONDS)
        self._services.metrics.loop_lag_seconds.set(max(0.0, clock.monotonic() - before - _LAG_SECONDS))

    async def _ping(self) -> None:
        systems: dict[str, Executor] = {}
        for executor in self._services.registry.executors.values():
            systems.setdefault(executor.spec.system, executor)
        await asyncio.gather(*(self._ping_one(system, executor) for system, executor in systems.items()))

    async def _ping_one(self, system: str, executor: Executor) -> None:
        services = self._services
        backend = services.registry.backend(system)
        before = backend.ok
        try:
            async with asyncio.timeout(_PING_LIMIT_SECONDS):
                check = await executor.ping(self._bare_context(executor))
            backend.ok, backend.reason = check.ok, check.reason[:300]
        except TimeoutError:
            backend.ok, backend.reason = False, f"no answer within {_PING_LIMIT_SECONDS:g} s"
        except Exception as error:  # noqa: BLE001 - a broken ping says that this backend is off, nothing else
            backend.ok, backend.reason = False, f"{type(error).__name__}: {error}"[:300]
        backend.checked_at = services.clock.now()
        services.metrics.backend_up.labels(system).set(backend.ok)
        state = backend.breaker.state(backend.checked_at)
        services.metrics.breaker_open.labels(system).set(state.value == "open")
        if before is not backend.ok:
            services.log.info("backend.changed", system=system, ok=backend.ok, reason=backend.reason)

    def _bare_context(self, executor: Executor) -> ActionContext:
        services = self._services
        return ActionContext(
            target=Target(name="unknown", kind=executor.spec.target_kind),
            params=None,
            idempotency_key="ping",
            attempt_id="ping",
            started_at=services.clock.now(),
            deadline_at=services.clock.monotonic() + _PING_LIMIT_SECONDS,
            clock=services.clock,
            log=services.log,
            run_blocking=services.pools.of(executor.spec.system).run,
        )
