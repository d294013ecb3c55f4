"""What the kubernetes actions share: the clients, and acting once per key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from actions.kubernetes_api import Clusters
from actions.kubernetes_claim import Claims
from actions.kubernetes_reader import Reader
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    Check,
    Executor,
    PermanentError,
    Receipt,
    TransientError,
)
from oncall_agent.models import JsonObject

Json = dict[str, Any]


class KubernetesExecutor(Executor):
    """The clients, lists in pages, and execution under a lease."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.clusters = Clusters(settings)
        self.reader = Reader(self.clusters)

    async def __aexit__(self, *_: object) -> None:
        await self.clusters.close()

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the API server answers."""
        try:
            version = await self.ask(ctx, "GET", "/version")
        except (TransientError, PermanentError) as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True, reason=f"Kubernetes {version.get('gitVersion')}")

    async def ask(self, ctx: ActionContext, method: str, path: str, **more: Any) -> Json:
        """Ask the target's cluster inside the attempt's deadline."""
        return await self.reader.ask(ctx, method, path, **more)

    async def listed(self, ctx: ActionContext, path: str, **more: Any) -> list[Json]:
        """Give the items of a list, page by page."""
        return await self.reader.listed(ctx, path, **more)

    async def once(
        self,
        ctx: ActionContext,
        claims: Claims,
        subject: str,
        facts: JsonObject,
        act: Callable[[Json], Awaitable[JsonObject | None]],
    ) -> Receipt:
        """Carry out a change under a lease: a repeat under the same key gets the facts of the first call.

        Args:
            facts: what is found and wanted now; JSON-safe and free of secrets.
            act: makes the change from the facts; repeating it with the same facts must change nothing. May give
                facts to add to the receipt.
        """
        claim = await claims.take(ctx, subject, self.spec.id, facts)
        found = dict(claim.facts)
        try:
            found |= await act(found) or {}
        except ActionError as error:
            error.receipt_facts = {**found, **(error.receipt_facts or {})}
            raise
        finally:
            if ctx.seconds_left > 0:
                with suppress(ActionError):  # it runs out by itself
                    await claims.release(ctx, subject)
        return Receipt(self.spec.id, ctx.clock.now(), found)

    def planned(self, ctx: ActionContext, facts: JsonObject) -> Receipt:
        """Give the receipt of a dry run."""
        return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
