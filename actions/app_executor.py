"""What every action on an app does: open the client, take a snapshot, deploy once, wait until it is healthy."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from actions.app_client import AppClient, judge
from oncall_agent.contract import ActionContext, ActionError, Check, Executor, held
from oncall_agent.models import JsonObject

KIND = "http_app"
PROTECTED = Check(ok=False, reason="the target is protected")
_MAX_LINES = 50


class AppExecutor(Executor):
    """What the actions share: the client and the question whether the app is healthy."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.app = AppClient(settings)

    async def __aenter__(self) -> Self:
        await self.app.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.app.http.__aexit__(kind, error, trace)

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the app's last log lines and what it says of itself."""
        found: dict[str, Any] = {"status": await self.status(ctx)}
        try:
            logs = await self.app.state(ctx.target, "/logs", self.timeout(ctx))
        except ActionError as error:
            return {**found, "logs": f"not readable: {error.message}"}
        lines = logs.get("lines", [])
        return {**found, "logs": [str(line)[:500] for line in lines[-_MAX_LINES:]]}

    async def snapshot(self, ctx: ActionContext) -> dict[str, Any]:
        """Give what is deployed and whether the app answers: what a rollback needs."""
        deployed = await self.app.state(ctx.target, "/deploy", self.timeout(ctx))
        status = await self.status(ctx)
        return {
            "version": deployed.get("version"),
            "previous": deployed.get("previous"),
            "replicas": deployed.get("replicas"),
            "deployed_at": deployed.get("deployed_at"),
            "key": deployed.get("key"),
            "started_before": deployed.get("started_at"),
            "up": bool(status),
        }

    async def status(self, ctx: ActionContext) -> dict[str, Any]:
        """Give the app's status, or what monitoring knows instead; empty when nobody answers."""
        try:
            return await self.app.status(ctx.target, self.timeout(ctx))
        except ActionError:
            return {}

    def timeout(self, ctx: ActionContext) -> float:
        """Give the time for one read."""
        return min(self.app.settings.timeout_seconds, ctx.seconds_left)

    async def until_healthy(
        self, ctx: ActionContext, wanted: JsonObject, started_after: float | None
    ) -> Check:
        """Wait until the status is as wanted and healthy for `hold_seconds`."""

        async def sample() -> Check:
            return judge(await self.status(ctx), ctx.params, wanted, started_after)

        return await held(
            ctx,
            sample,
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
            interval_seconds=0.2,
        )

    async def deploy(self, ctx: ActionContext, body: JsonObject, before: JsonObject) -> dict[str, Any]:
        """Change the deployment once; give what it was before."""
        if before["key"] == ctx.idempotency_key:
            # A former call of this attempt came through; "before" is what the app remembers as previous.
            deployed = await self.app.state(ctx.target, "/deploy", self.timeout(ctx))
            return {"version": deployed["previous"], "replicas": deployed["previous_replicas"]}
        await self.app.change(ctx, "/deploy", body, ctx.idempotency_key)
        return {"version": before["version"], "replicas": before["replicas"]}

    async def restore(self, ctx: ActionContext, field: str, old: Any) -> Check:
        """Put one field of the deployment back under a key of the undo's own."""
        deployed = await self.app.state(ctx.target, "/deploy", self.timeout(ctx))
        if deployed.get(field) != old:
            deployed = await self.app.change(ctx, "/deploy", {field: old}, f"{ctx.idempotency_key}-undo")
        ok = deployed.get(field) == old
        return Check(
            ok=ok, reason="" if ok else f"{field} is not as before", facts={field: deployed.get(field)}
        )
