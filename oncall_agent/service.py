"""The ActionService: claims incidents, hands each to the pipeline, keeps the leases.

One claiming loop takes as many incidents as there are free workers in one transaction; each is handled in
an asyncio task of its own. Leases are renewed; one that is lost stops its handling between two stages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oncall_agent.caretaker import Caretaker
from oncall_agent.errors import NotFoundError, PolicyError, StaleLeaseError, StoreError
from oncall_agent.loops import every, keep_alive
from oncall_agent.models import EndReason
from oncall_agent.notify import Notice, Notifier
from oncall_agent.pipeline import Services, handle
from oncall_agent.pipeline.ending import close
from oncall_agent.pipeline.run import Dropped, End, Escalated, Parked, Run
from oncall_agent.policy import explain
from oncall_agent.policy.base import Policy, PolicyUpdate
from oncall_agent.settings.model import PolicySettings
from oncall_agent.store import Claimed, StoredDecision

_IDLE_SECONDS = 1.0


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
        self._caretaker = Caretaker(services, notifier, self.readiness)

    # --- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the loops."""
        clock = self._services.clock
        self._spawn("claim", self._claim_once)
        self._spawn("lease", every(self._services.settings.workers.lease_seconds / 3, self._renew, clock))
        for name, step in self._caretaker.duties():
            self._spawn(name, step)
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
            await self._give_back(claimed)
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
        end = Escalated(EndReason.POISONED, page=not last)
        return await close(run, end, services)

    async def _after(self, claimed: Claimed, end: End) -> None:
        if isinstance(end, Dropped):
            await self._give_back(claimed)
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

    async def _give_back(self, claimed: Claimed) -> None:
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

    # --- what others ask ------------------------------------------------------------------------------------

    def readiness(self) -> Readiness:
        """Say which parts work; backends that are off show, but do not make the daemon unready."""
        store = self._services.store.failing_for or "ok"
        stopped = [loop.get_name() for loop in self._loops if loop.done()]
        parts = {
            "store": store,
            "workers": "stopping" if self._stopping else f"not running: {stopped}" if stopped else "ok",
            "conservation": "ok" if self._caretaker.is_balanced else "alerts are missing",
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
