"""Apps that speak `/api/v1/status`, `/deploy`, `/restart` and `/logs`: restart, roll back, scale up.

Such an app honours the header `Idempotency-Key` on every POST: the same key is answered again, not acted on
again. `GET /deploy` names the key of the last change, so that a crashed attempt is recognised from outside.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from pydantic import Field

from actions.app_client import AppClient, HealthyParams, address_of, bounded, judge, object_of, signals_of
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    Clock,
    Executor,
    PermanentError,
    Prober,
    Reading,
    Receipt,
    RiskClass,
    Signals,
    Target,
    TransientError,
    held,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.contract.http import UnresolvedError
from oncall_agent.models import JsonObject

_KIND = "http_app"
_MAX_LINES = 50


class RollbackParams(HealthyParams):
    """Which version to go back to."""

    version: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")
    """The default is the one before the last deployment."""
    window_seconds: float = Field(86_400.0, gt=0, le=31_536_000)
    """An older deployment is not what broke the app just now."""


class ScaleParams(HealthyParams):
    """How far to scale."""

    step: int = Field(1, ge=1, le=10)
    max_replicas: int = Field(5, ge=1, le=1000)


class _AppExecutor(Executor):
    """What the three actions share: the client and the question whether the app is healthy."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._app = AppClient(settings)

    async def __aenter__(self) -> Self:
        await self._app.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._app.http.__aexit__(kind, error, trace)

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the app's last log lines and what it says of itself."""
        found: dict[str, Any] = {"status": await self._status(ctx)}
        try:
            logs = await self._app.state(ctx.target, "/logs", self._timeout(ctx))
        except ActionError as error:
            return {**found, "logs": f"not readable: {error.message}"}
        lines = logs.get("lines", [])
        return {**found, "logs": [str(line)[:500] for line in lines[-_MAX_LINES:]]}

    async def _snapshot(self, ctx: ActionContext) -> dict[str, Any]:
        deployed = await self._app.state(ctx.target, "/deploy", self._timeout(ctx))
        status = await self._status(ctx)
        return {
            "version": deployed.get("version"),
            "previous": deployed.get("previous"),
            "replicas": deployed.get("replicas"),
            "deployed_at": deployed.get("deployed_at"),
            "key": deployed.get("key"),
            "started_before": deployed.get("started_at"),
            "up": bool(status),
        }

    async def _status(self, ctx: ActionContext) -> dict[str, Any]:
        """Give the app's status, empty when it does not answer."""
        try:
            return object_of(
                (await self._app.read(address_of(ctx.target).status, self._timeout(ctx))).check((200,))
            )
        except ActionError:
            return {}

    def _timeout(self, ctx: ActionContext) -> float:
        return min(self._app.settings.timeout_seconds, ctx.seconds_left)

    async def _until_healthy(
        self, ctx: ActionContext, wanted: JsonObject, started_after: float | None
    ) -> Check:
        async def sample() -> Check:
            return judge(await self._status(ctx), ctx.params, wanted, started_after)

        return await held(
            ctx,
            sample,
            hold_seconds=ctx.params.hold_seconds,
            within_seconds=ctx.seconds_left,
            interval_seconds=0.2,
        )

    async def _deploy(self, ctx: ActionContext, body: JsonObject, before: JsonObject) -> dict[str, Any]:
        """Change the deployment once; give what it was before."""
        if before["key"] == ctx.idempotency_key:
            # A former call of this attempt came through; "before" is what the app remembers as previous.
            deployed = await self._app.state(ctx.target, "/deploy", self._timeout(ctx))
            return {"version": deployed["previous"], "replicas": deployed["previous_replicas"]}
        await self._app.change(ctx, "/deploy", body, ctx.idempotency_key)
        return {"version": before["version"], "replicas": before["replicas"]}

    async def _restore(self, ctx: ActionContext, field: str, old: Any) -> Check:
        deployed = await self._app.state(ctx.target, "/deploy", self._timeout(ctx))
        if deployed.get(field) != old:
            deployed = await self._app.change(ctx, "/deploy", {field: old}, f"{ctx.idempotency_key}-undo")
        ok = deployed.get(field) == old
        return Check(
            ok=ok, reason="" if ok else f"{field} is not as before", facts={field: deployed.get(field)}
        )


class Restart(_AppExecutor):
    """Restarts the app; memory and stuck connections go, the version stays."""

    spec = ActionSpec(
        id="app.restart",
        summary="Restart the app.",
        target_kind=_KIND,
        params=HealthyParams,
        risk=RiskClass.R2,
        reversible=False,
        irreversible_reason="a restart can't be taken back; the app runs as before it",
        deadline_seconds=45.0,
        cost=0.05,
        family="restart",
        exemptions={"rollback_restores": "a restart can't be taken back"},
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Permit it when the control side answers."""
        return Check(ok=True, facts=await self._snapshot(ctx))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """POST /restart; the app answers once it is started."""
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), {"would": "POST /restart"}, planned=True)
        answer = await self._app.change(ctx, "/restart", {}, ctx.idempotency_key)
        return Receipt(self.spec.id, ctx.clock.now(), {"started_at": answer.get("started_at")})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the app was started anew and is healthy for a while."""
        before = receipt.facts.get("started_before")
        # The app's own clock on both sides: ours may differ. A hair more than the former start, when only that is known.
        after = receipt.facts.get("started_at", before + 0.001 if before is not None else None)
        return await self._until_healthy(ctx, {}, after)


class RollbackDeploy(_AppExecutor):
    """Puts the version before the last deployment back."""

    spec = ActionSpec(
        id="app.rollback_deploy",
        summary="Go back to the version before the last deployment.",
        target_kind=_KIND,
        params=RollbackParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=45.0,
        cost=0.1,
        family="rollback",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse when there is nothing to go back to, or the deployment is old."""
        facts = await self._snapshot(ctx)
        wanted = ctx.params.version or facts["previous"]
        facts["wanted"] = wanted
        if not wanted or wanted == facts["version"]:
            return Check(ok=False, reason="there is no other version to go back to", facts=facts)
        age = ctx.clock.now() - float(facts["deployed_at"] or 0.0)
        if age > ctx.params.window_seconds:
            return Check(ok=False, reason=f"the last deployment is {age:.0f} s old", facts=facts)
        return Check(ok=True, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """POST /deploy with the former version."""
        before = await self._snapshot(ctx)
        is_done = before["key"] == ctx.idempotency_key
        wanted = before["version"] if is_done else ctx.params.version or before["previous"]
        if not wanted:
            raise PermanentError("there is no other version to go back to")
        facts = {"wanted": wanted, "version": before["version"]}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        old = await self._deploy(ctx, {"version": wanted}, before)
        return Receipt(self.spec.id, ctx.clock.now(), {**facts, "version": old["version"]})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the former version runs and is healthy for a while."""
        return await self._until_healthy(ctx, {"version": receipt.facts.get("wanted")}, None)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Deploy the newer version again."""
        return await self._restore(ctx, "version", receipt.facts["version"])


class ScaleUp(_AppExecutor):
    """Adds replicas up to a bound."""

    spec = ActionSpec(
        id="app.scale_up",
        summary="Run more replicas of the app.",
        target_kind=_KIND,
        params=ScaleParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=45.0,
        cost=0.1,
        family="scale",
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse at the bound."""
        facts = await self._snapshot(ctx)
        count = int(facts["replicas"] or 0)
        facts["wanted"] = min(count + ctx.params.step, ctx.params.max_replicas)
        if facts["wanted"] <= count:
            return Check(ok=False, reason=f"{count} replicas are the bound", facts=facts)
        return Check(ok=True, instances=facts["wanted"] - count, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """POST /deploy with the new number of replicas."""
        before = await self._snapshot(ctx)
        count = int(before["replicas"] or 0)
        is_done = before["key"] == ctx.idempotency_key
        wanted = count if is_done else min(count + ctx.params.step, ctx.params.max_replicas)
        facts = {"wanted": wanted, "replicas": count}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        old = await self._deploy(ctx, {"replicas": wanted}, before)
        return Receipt(self.spec.id, ctx.clock.now(), {**facts, "replicas": old["replicas"]})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the replicas run and the app is healthy for a while."""
        return await self._until_healthy(ctx, {"replicas": receipt.facts.get("wanted")}, None)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Go back to the former number of replicas."""
        return await self._restore(ctx, "replicas", receipt.facts["replicas"])


class AppProber(Prober):
    """Reads `/api/v1/status`: an app that does not answer is down, an unknown host name is blindness."""

    kind = "app"

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._app = AppClient(settings)

    async def __aenter__(self) -> Self:
        await self._app.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._app.http.__aexit__(kind, error, trace)

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Read the app's own numbers and how long it took to give them."""
        began = clock.monotonic()
        try:
            answer = await self._app.read(address_of(target).status, timeout_seconds)
        except UnresolvedError:
            raise
        except TransientError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        except PermanentError as error:
            raise TransientError(f"the app can't be asked: {error.message}") from error
        try:
            status = object_of(answer.check((200,)))
        except ActionError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        return Reading(signals_of(status, clock.monotonic() - began), bounded(status))
