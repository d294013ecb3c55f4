"""Services of a swarm: take the last change back."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cachetools import LRUCache

from actions.docker_time import seconds_of
from actions.swarm_change import BLAST_RADIUS
from actions.swarm_engine import SERVICE, ServiceExecutor, StableParams, send
from actions.swarm_state import CHANGING, Service, judge
from oncall_agent.contract import ActionContext, ActionSpec, Check, PermanentError, Receipt, RiskClass
from oncall_agent.models import JsonObject


class RollbackService(ServiceExecutor):
    """Takes the last change of a service back, by the swarm's own means."""

    spec = ActionSpec(
        id="swarm.rollback_service",
        summary="Take the last change of a swarm service back.",
        target_kind=SERVICE,
        params=StableParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=600.0,
        blast_radius=BLAST_RADIUS,
        cost=0.15,
        family="rollback",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        # Attempt -> digests of the specification before and after it.
        self._known: LRUCache[str, dict[str, str]] = LRUCache(4096)

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse where nothing is kept to go back to, and a change too old to be the cause."""
        service, reason = await self.service_or_objection(ctx)
        if service is None:
            return Check(ok=False, reason=reason)
        facts = {**service.as_facts(), **_digests(service)}
        reason = reason or self._objection(service, await self._server_time(ctx))
        return Check(ok=not reason, reason=reason, instances=max(1, service.replicas or 1), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Ask for the specification before, once: a second time would bring the bad one back."""
        service, reason = await self.service_or_objection(ctx)
        if service is None:
            raise PermanentError(reason)
        known = self._known.get(ctx.idempotency_key)
        now = await self._server_time(ctx)
        # The swarm's own clock on both sides: it may differ from ours.
        began = now - (ctx.clock.now() - ctx.started_at)
        is_done = service.update_state.startswith("rollback") and service.update_started >= began
        if is_done or (known is not None and _digest(service.spec) == known["spec_after"]):
            return Receipt(self.spec.id, ctx.clock.now(), {**(known or _swapped(service)), "already": True})
        facts = _digests(service)
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        reason = reason or self._objection(service, now)
        if reason:
            raise PermanentError(reason)
        self._known[ctx.idempotency_key] = facts
        await self.ask(ctx, lambda api: send(api, service, service.spec, rollback=True))
        return Receipt(self.spec.id, ctx.clock.now(), facts)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the swarm has gone back and every task ran so for `stable_seconds`."""
        after = receipt.facts.get("spec_after")

        def judged(service: Service, tasks: Any) -> Check:
            if _digest(service.spec) != after:
                return Check(
                    ok=False, reason="the service is not back on what it was before", facts=service.as_facts()
                )
            if service.update_state not in ("rollback_completed", *CHANGING):
                reason = (
                    f"the rollback is {service.update_state or 'not under way'}: {service.update_message}"
                )
                return Check(ok=False, reason=reason[:300], facts=service.as_facts())
            return judge(service, tasks)

        return await self.until_well(ctx, judged)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Bring the change back, if nobody has changed the service since."""
        before = receipt.facts.get("spec_before")
        service = await self.service(ctx)
        if _digest(service.spec) != before and service.previous and _digest(service.previous) == before:
            current = service
            await self.ask(ctx, lambda api: send(api, current, current.spec, rollback=True))
            service = await self.service(ctx)
        is_back = _digest(service.spec) == before
        return Check(
            ok=is_back,
            reason="" if is_back else "the service was changed by somebody else since",
            facts=service.as_facts(),
        )

    def _objection(self, service: Service, now: float) -> str:
        if not service.previous:
            return "the swarm keeps no specification before the present one"
        if service.previous.get("TaskTemplate") == service.template:
            return "the last change did not concern the tasks"
        if service.update_state.startswith("rollback"):
            return f"the service was rolled back already: {service.update_state}"
        age = now - service.changed_at
        if age > self.limits.change_window_seconds:
            return f"the last change was {age / 60:.0f} minutes ago: it is hardly the cause"
        return ""

    async def _server_time(self, ctx: ActionContext) -> float:
        info = await self.ask(ctx, lambda api: api.info())
        return seconds_of(str(info.get("SystemTime") or "")) or ctx.clock.now()


def _digest(spec: JsonObject) -> str:
    """Give what tells two specifications apart, without showing what may be secret in them."""
    text = json.dumps(spec, sort_keys=True, default=str).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _digests(service: Service) -> dict[str, str]:
    return {"spec_before": _digest(service.spec), "spec_after": _digest(service.previous or {})}


def _swapped(service: Service) -> dict[str, str]:
    return {"spec_before": _digest(service.previous or {}), "spec_after": _digest(service.spec)}
