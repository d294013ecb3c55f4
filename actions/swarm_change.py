"""Changing a service of a swarm in a few fields, once, with a note in its labels of what was before."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from actions.swarm_engine import ServiceExecutor
from actions.swarm_fields import ATTEMPT_LABEL, changed, noted_before, restored, values
from actions.swarm_state import CHANGING, Service, judge
from oncall_agent.contract import ActionContext, Check, PermanentError, Receipt
from oncall_agent.models import JsonObject

BLAST_RADIUS = 100


class ServiceChange(ServiceExecutor):
    """Sets some fields of a service's specification once, and can set them back."""

    @abstractmethod
    async def objection(self, ctx: ActionContext, service: Service) -> str:
        """Give the reason why this change may not be made, or an empty text."""

    @abstractmethod
    def wanted(self, params: Any, service: Service) -> dict[str, Any]:
        """Give the new values by field."""

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse absent and protected services, a lost quorum, an update under way, and what the action adds."""
        service, reason = await self.service_or_objection(ctx)
        if service is None:
            return Check(ok=False, reason=reason)
        wanted = self.wanted(ctx.params, service)
        facts = {**service.as_facts(), "before": values(service.spec, wanted), "wanted": wanted}
        reason = reason or under_way(service) or await self.objection(ctx, service)
        return Check(ok=not reason, reason=reason, instances=self.instances(service, wanted), facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Change the service once; a note in its labels tells a repeat in any process."""
        service, reason = await self.service_or_objection(ctx)
        if service is None:
            raise PermanentError(reason)
        before = noted_before(service, ctx.idempotency_key)
        if before is not None:
            wanted = values(service.spec, before)
            return self._receipt(ctx, before, wanted, already=True)
        wanted = self.wanted(ctx.params, service)
        before = values(service.spec, wanted)
        if ctx.dry_run:
            return self._receipt(ctx, before, wanted, planned=True)
        reason = reason or under_way(service) or await self.objection(ctx, service)
        if reason:
            raise PermanentError(reason)
        await self.update(ctx, service, changed(service.spec, wanted, ctx.idempotency_key))
        return self._receipt(ctx, before, wanted)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the change stands, and every task ran on it for `stable_seconds`."""
        wanted = receipt.facts.get("wanted") or {}

        def judged(service: Service, tasks: Any) -> Check:
            if not wanted or values(service.spec, wanted) != wanted:
                return Check(ok=False, reason="the change does not stand", facts=service.as_facts())
            if service.labels.get(ATTEMPT_LABEL) != ctx.idempotency_key:
                return Check(
                    ok=False, reason="the service was not changed by this attempt", facts=service.as_facts()
                )
            return judge(service, tasks)

        return await self.until_well(ctx, judged)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Set the old values, unless the swarm or somebody has done so."""
        service = await self.service(ctx)
        noted = noted_before(service, ctx.idempotency_key)
        before = noted or receipt.facts.get("before") or {}
        if noted is not None:
            await self.update(ctx, service, restored(service.spec, noted))
            service = await self.service(ctx)
        is_back = bool(before) and values(service.spec, before) == dict(before)
        reason = "" if is_back else "the service was changed by somebody else since"
        return Check(ok=is_back, reason=reason, facts={**service.as_facts(), "before": before})

    def instances(self, service: Service, wanted: JsonObject) -> int:
        """Say how many tasks the change touches: all, one after the other."""
        return max(1, service.replicas or 1)

    def _receipt(
        self,
        ctx: ActionContext,
        before: JsonObject,
        wanted: JsonObject,
        *,
        planned: bool = False,
        **more: Any,
    ) -> Receipt:
        facts = {"before": dict(before), "wanted": dict(wanted), **more}
        return Receipt(self.spec.id, ctx.clock.now(), facts, planned=planned)


def under_way(service: Service) -> str:
    """Say that an update is under way; empty when none is."""
    is_changing = service.update_state in CHANGING
    return f"an update of the service is under way: {service.update_state}" if is_changing else ""
