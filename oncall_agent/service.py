"""The ActionService: claims incidents, hands each to the pipeline, keeps the leases, looks after the rest.

One claiming loop takes as many incidents as there are free workers in one transaction; each is handled in
an asyncio task of its own. Leases are renewed; one that is lost stops its handling between two stages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oncall_agent.contract import ActionContext, Executor, Target
from oncall_agent.errors import NotFoundError, PolicyError, StaleLeaseError, StoreError
from oncall_agent.loops import every, keep_alive
from oncall_agent.models import OPEN_STATES, EndReason, IncidentState
from oncall_agent.notify import Notice, Notifier
from oncall_agent.pipeline import Services, handle
from oncall_agent.pipeline.ending import close
from oncall_agent.pipeline.run import Dropped, End, Escalated, Parked, Run
from oncall_agent.policy import explain
from oncall_agent.policy.base import Policy, PolicyUpdate
from oncall_agent.settings.model import PolicySettings
from oncall_agent.store import Claimed, StoredDecision

_IDLE_SECONDS = 1.0
_PING_SECONDS = 30.0
_PING_LIMIT_SECONDS = 5.0
_CONSERVATION_SECONDS = 15.0
_HOUSEKEEPING_SECONDS = 60.0
_HOUSEKEEPING_SLICES = 100
_EXPIRY_SECONDS = 1.0
_LAG_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the daemon does its work, and which part does not and why (`ok` or the reason)."""

    ok: bool
    parts: Mapping[str, str]


@dataclass(slots=True)
class _Held:
    """One incident in hand; `valid` turns False when the lease is lost."""

    fence: int
    handling: asyncio.Task[None]
    valid: bool = True


class ActionService:
    """Everything that goes on in the background of one daemon."""

    def __init__(self, services: Services, notifier: Notifier, *, worker: str) -> None:
        self._services, self._notifier, self._worker = services, notifier, worker
        self._held: dict[str, _Held] = {}
        self._stopping = False
        self._freed = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._failing: dict[str, str] = {}
        self._balanced = True
        self._checkpointed = services.policy.version
        self._paused = services.store.control.paused
        self._most_open = services.settings.store.max_open_incidents

    # --- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the loops."""
        clock = self._services.clock
        self._spawn("claim", self._claim_once)
        self._spawn("lease", every(self._services.settings.workers.lease_seconds / 3, self._renew, clock))
        self._spawn("expiry", every(_EXPIRY_SECONDS, self._expire, clock))
        self._spawn("conservation", every(_CONSERVATION_SECONDS, self._weigh, clock))
        self._spawn("housekeeping", every(_HOUSEKEEPING_SECONDS, self._keep_house, clock))
        self._spawn("ping", every(_PING_SECONDS, self._ping, clock))
        self._spawn("lag", self._measure_lag)
        self._spawn("notices", self._notifier.run)

    def _spawn(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        services = self._services
        guarded = keep_alive(name, step, clock=services.clock, metrics=services.metrics, log=services.log)
        self._loops.append(asyncio.create_task(guarded, name=f"loop-{name}"))

    async def stop(self, within_seconds: float) -> int:
        """Stop claiming, let what runs finish, then let go; gives how many were not done.

        What is not done keeps its begun attempt in the ledger and is verified first at the next start.
        """
        self._stopping = True
        running = [held.handling for held in self._held.values()]
        unfinished = 0
        if running:
            _, late = await asyncio.wait(running, timeout=within_seconds)
            unfinished = len(late)
        for loop in [*self._loops, *(held.handling for held in self._held.values())]:
            loop.cancel()
        await asyncio.gather(
            *self._loops, *(held.handling for held in self._held.values()), return_exceptions=True
        )
        return unfinished

    # --- claiming and handling ----------------------------------------------------------------------------

    async def _claim_once(self) -> None:
        settings, store, clock = self._services.settings.workers, self._services.store, self._services.clock
        free = settings.count - len(self._held)
        if self._stopping or store.control.draining or free <= 0:
            await self._wait_for_room()
            return
        claimed = await store.claim(
            self._worker, limit=min(free, 64), lease_seconds=settings.lease_seconds, now=clock.now()
        )
        self._failing.pop("store", None)
        for one in claimed:
            self._take(one)
        if not claimed:
            await store.wait_for_work(_IDLE_SECONDS)

    async def _wait_for_room(self) -> None:
        self._freed.clear()
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._freed.wait()
        except TimeoutError:
            return

    def _take(self, claimed: Claimed) -> None:
        incident = claimed.incident
        handling = asyncio.create_task(self._handle(claimed), name=f"incident-{incident.id}")
        self._held[incident.id] = _Held(incident.fence, handling)
        self._services.metrics.busy.set(len(self._held))

    async def _handle(self, claimed: Claimed) -> None:
        incident = claimed.incident
        try:
            end = await self._handled(claimed)
            await self._after(claimed, end)
        except StaleLeaseError:
            self._services.log.warning("lease.lost", incident_id=incident.id)
        except StoreError as error:
            self._failing["store"] = str(error)[:200]
            self._services.metrics.store_errors.inc()
            self._services.log.warning(
                "store.failed", loop="handling", error=str(error)[:300], wait_seconds=0
            )
        except Exception as error:
            self._services.log.warning(
                "incident.failed",
                incident_id=incident.id,
                target=incident.target,
                error=repr(error)[:300],
                exc_info=error,
            )
            await self._give_back(claimed, repr(error))
        finally:
            self._held.pop(incident.id, None)
            self._services.metrics.busy.set(len(self._held))
            self._freed.set()

    async def _handled(self, claimed: Claimed) -> End:
        incident, services = claimed.incident, self._services
        services.log.info(
            "incident.claimed",
            incident_id=incident.id,
            target=incident.target,
            alert_class=incident.alert_class,
            phase=incident.phase.value,
            claim=incident.claim_count,
        )

        def may_go_on() -> bool:
            held = self._held.get(incident.id)
            return held is not None and held.valid

        if incident.claim_count > services.settings.workers.max_claims:
            return await self._poisoned(claimed, may_go_on)
        return await handle(claimed, services, may_go_on)

    async def _poisoned(self, claimed: Claimed, may_go_on: Callable[[], bool]) -> End:
        """Page people about an incident whose handling failed again and again, without trying it once more."""
        services = self._services
        run = Run(claimed=claimed, target=services.targets.get(claimed.incident.target), may_go_on=may_go_on)
        last = claimed.incident.claim_count > 2 * services.settings.workers.max_claims
        end = Escalated(EndReason.POISONED, page=not last, state=IncidentState.DEAD_LETTERED)
        return await close(run, end, services)

    async def _after(self, claimed: Claimed, end: End) -> None:
        if isinstance(end, Dropped):
            await self._give_back(claimed, end.reason)
        elif isinstance(end, Parked) and end.approval is not None:
            approval = end.approval
            fields = {
                "target": approval.target,
                "suggestion": approval.action,
                "reason": f"approve or deny {claimed.incident.id} within {approval.expires_at - approval.asked_at:.0f} s",
                "severity": claimed.incident.severity.value,
            }
            title = f"Approval needed: {approval.action} on {approval.target}"
            self._notifier.send(Notice(approval.id, title, fields))

    async def _give_back(self, claimed: Claimed, reason: str) -> None:
        """Let the lease run out early, so that the next claim comes after a pause instead of a whole lease."""
        held = self._held.get(claimed.incident.id)
        if held is None or not held.valid or self._stopping:
            return
        lease = (claimed.incident.id, claimed.incident.fence)
        pause = min(
            2.0 ** min(claimed.incident.claim_count, 5) * 0.25, self._services.settings.workers.lease_seconds
        )
        try:
            await self._services.store.renew([lease], pause, self._services.clock.now())
        except StoreError:
            return  # the lease runs out by itself

    # --- looking after the rest ---------------------------------------------------------------------------

    async def _renew(self) -> None:
        services = self._services
        leases = [(incident_id, held.fence) for incident_id, held in self._held.items()]
        if not leases:
            return
        kept = await services.store.renew(
            leases, services.settings.workers.lease_seconds, services.clock.now()
        )
        for incident_id, fence in leases:
            held = self._held.get(incident_id)
            if incident_id not in kept and held is not None and held.fence == fence:
                held.valid = False
                services.log.warning("lease.lost", incident_id=incident_id)

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
        for term in ("accepted", "open", "resolved", "escalated", "dead_lettered"):
            metrics.conservation.labels(term).set(getattr(terms, term))
        metrics.conservation.labels("suppressed").set(sum(terms.suppressed.values()))
        metrics.balanced.set(terms.balanced)
        counts = await services.store.counts()
        for state in IncidentState:
            metrics.incidents.labels(state.value).set(counts.get(state.value, 0))
        metrics.queue_fill.set(sum(counts.get(state.value, 0) for state in OPEN_STATES) / self._most_open)
        metrics.paused.set(services.store.control.paused)
        self.readiness()
        if self._balanced and not terms.balanced:
            accounted = terms.open + terms.resolved + terms.escalated + terms.dead_lettered
            accounted += sum(terms.suppressed.values())
            services.log.error("conservation.broken", accepted=terms.accepted, accounted=accounted)
        self._balanced = terms.balanced

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

    # --- what others ask ------------------------------------------------------------------------------------

    def readiness(self) -> Readiness:
        """Say which parts work; backends that are off show, but do not make the daemon unready."""
        store = self._failing.get("store", "ok")
        stopped = [loop.get_name() for loop in self._loops if loop.done()]
        parts = {
            "store": store,
            "workers": "stopping" if self._stopping else f"not running: {stopped}" if stopped else "ok",
            "conservation": "ok" if self._balanced else "alerts are missing",
            "control": self._control_state(),
        }
        parts |= {f"plugin:{name}": reason for name, reason in self._services.registry.off.items()}
        for system, backend in self._services.registry.backends.items():
            parts[f"backend:{system}"] = "ok" if backend.ok is not False else backend.reason
        vital = all(parts[name] == "ok" for name in ("store", "workers", "conservation"))
        for name, state in parts.items():
            if ":" not in name:
                self._services.metrics.ready.labels(name).set(state == "ok")
        return Readiness(ok=vital, parts=parts)

    def _control_state(self) -> str:
        control = self._services.store.control
        if control.paused:
            return f"paused by {control.paused_by}: {control.paused_reason}"
        return "draining" if control.draining else "ok"

    async def explain(self, incident_id: str) -> dict[str, Any]:
        """Compute the latest decision of an incident again from what was stored and compare.

        Raises:
            NotFoundError: there is no such incident, or nothing was decided yet.
        """
        services = self._services
        stored = await services.store.decision(incident_id)
        if stored is None:
            await services.store.incident(incident_id)
            raise NotFoundError(f"nothing was decided for incident {incident_id} yet")
        decision = stored.decision
        return {"decision": decision, "context": stored.context, **await self._recomputed(stored)}

    async def _recomputed(self, stored: StoredDecision) -> dict[str, Any]:
        services, decision = self._services, stored.decision
        blob, updates = await services.store.policy_at(decision.policy_version)
        try:
            policy = policy_of(type(services.policy), blob, updates, services.settings.policy)
            found = explain.recompute(decision, stored.context, policy)
        except PolicyError as error:
            return {"equal": False, "differences": [f"the policy of then can't be rebuilt: {error.message}"]}
        return {"equal": found.equal, "differences": list(found.differences)}


def policy_of(
    kind: type[Policy], blob: bytes | None, updates: Sequence[PolicyUpdate], settings: PolicySettings
) -> Policy:
    """Rebuild a policy from a checkpoint and the lessons after it.

    Raises:
        PolicyError: they are corrupted, or of another kind or features schema.
    """
    policy = kind.restore(blob, settings) if blob else kind(settings)
    for update in updates:
        policy.update(update)
    return policy
