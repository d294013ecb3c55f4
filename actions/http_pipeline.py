"""Rolling a deployment back through a declared pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cachetools import LRUCache
from pydantic import Field

from actions.http_declared import Pipeline
from actions.http_executor import HttpExecutor, declared, picked
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
)
from oncall_agent.contract.http import SentError
from oncall_agent.models import JsonObject


class PipelineParams(Params):
    """Which pipeline, and which version it goes back to."""

    pipeline: str = Field(min_length=1, max_length=64)
    """A name under `backends.http.pipelines`."""
    version: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")
    """The default is the one before the last deployment, where the pipeline tells it."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What the pipeline says of its last deployment."""

    version: str
    previous: str | None
    at: float
    key: str


class RollbackDeploy(HttpExecutor):
    """Deploys an older version; rollback deploys the newer one again."""

    spec = ActionSpec(
        id="http.rollback_deploy",
        summary="Go back to an older version through a deployment pipeline.",
        target_kind="*",
        params=PipelineParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=300.0,
        cost=0.1,
        family="rollback",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._done: LRUCache[str, Receipt] = LRUCache(8192)

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the pipelines answer."""
        for pipeline in self.conf.pipelines.values():
            await self._deployed(ctx, pipeline)
        return Check(ok=True, reason=f"{len(self.conf.pipelines)} pipelines")

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect what was deployed last, and what runs."""
        pipeline = self._pipeline(ctx)
        deployed = await self._deployed(ctx, pipeline)
        return {
            "version": deployed.version,
            "deployed_at": deployed.at,
            "live": await self._live(ctx, pipeline),
        }

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse an old deployment, a missing artifact, a freeze, and when there is nothing to go back to."""
        if ctx.target.protected:
            return Check(ok=False, reason="the target is protected")
        try:
            pipeline = self._pipeline(ctx)
            deployed = await self._deployed(ctx, pipeline)
            wanted = self._wanted(ctx, deployed)
            reason = await self._refusal(ctx, pipeline, deployed, wanted)
        except PermanentError as error:
            return Check(ok=False, reason=error.message)
        facts = {"version": deployed.version, "wanted": wanted, "deployed_at": deployed.at}
        return Check(ok=not reason, reason=reason, facts=facts)

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Deploy the older version under the idempotency key, unless it is deployed."""
        pipeline = self._pipeline(ctx)
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return known
        deployed = await self._deployed(ctx, pipeline)
        is_ours = bool(deployed.key) and deployed.key == ctx.idempotency_key
        wanted = deployed.version if is_ours else self._wanted(ctx, deployed)
        facts: dict[str, Any] = {"wanted": wanted, "version": deployed.version}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        if is_ours or deployed.version == wanted:
            # A former call came through; what was before is what the pipeline remembers.
            facts["version"] = deployed.previous
        else:
            await self._deploy(ctx, pipeline, wanted, ctx.idempotency_key, facts)
        receipt = Receipt(self.spec.id, ctx.clock.now(), facts)
        self._done[ctx.idempotency_key] = receipt
        return receipt

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the version is live, and the symptom gone where one is declared."""
        pipeline, wanted = self._pipeline(ctx), receipt.facts.get("wanted")

        async def change() -> Check:
            live = await self._live(ctx, pipeline)
            ok = live == wanted
            return Check(ok=ok, reason="" if ok else f"{live} is live", facts={"live": live})

        return await self.settled(ctx, change, pipeline.symptom, pipeline.secret_headers)

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Deploy the newer version again."""
        pipeline, newer = self._pipeline(ctx), receipt.facts.get("version")
        if not newer:
            return Check(ok=False, reason="which version was deployed before is not known")
        if (await self._deployed(ctx, pipeline)).version != newer:
            await self._deploy(ctx, pipeline, newer, f"{ctx.idempotency_key}-undo", {})
        deployed = await self._deployed(ctx, pipeline)
        ok = deployed.version == newer
        reason = "" if ok else f"{deployed.version} is deployed"
        return Check(ok=ok, reason=reason, facts={"version": deployed.version})

    async def _refusal(self, ctx: ActionContext, pipeline: Pipeline, deployed: Deployed, wanted: str) -> str:
        if wanted == deployed.version:
            return "that version is deployed"
        age = ctx.clock.now() - deployed.at
        if age > pipeline.window_seconds:
            return f"the last deployment is {age:.0f} s old"
        secrets = pipeline.secret_headers
        if pipeline.frozen and await self.look(ctx, pipeline.frozen, secrets) is not False:
            return "the pipeline is frozen"
        artifacts = await self.look(ctx, pipeline.artifacts, secrets)
        if not isinstance(artifacts, list) or wanted not in artifacts:
            return f"there is no artifact of version {wanted}"
        return ""

    async def _deployed(self, ctx: ActionContext, pipeline: Pipeline) -> Deployed:
        found = await self.read(ctx, pipeline.read, pipeline.secret_headers)
        version = picked(pipeline.read.value, found)
        if not isinstance(version, str) or not version:
            raise PermanentError("the pipeline does not say which version was deployed last")
        previous = picked(pipeline.previous, found) if pipeline.previous else None
        key = picked(pipeline.last_key, found) if pipeline.last_key else ""
        at = _epoch(picked(pipeline.deployed_at, found))
        return Deployed(version, previous if isinstance(previous, str) else None, at, str(key or ""))

    async def _live(self, ctx: ActionContext, pipeline: Pipeline) -> str:
        return str(await self.look(ctx, pipeline.live or pipeline.read, pipeline.secret_headers))

    async def _deploy(
        self, ctx: ActionContext, pipeline: Pipeline, version: str, key: str, facts: JsonObject
    ) -> None:
        try:
            answer = await self.send(
                ctx, pipeline.deploy, pipeline.secret_headers, {"version": version}, key=key
            )
        except SentError as error:
            if pipeline.last_key:
                raise  # Asked again, the pipeline tells by the key whether it was done.
            raise PermanentError(f"{error.message}: it may have deployed", receipt_facts=facts) from error
        answer.check(pipeline.deploy.expect_status)

    def _pipeline(self, ctx: ActionContext) -> Pipeline:
        return declared(self.conf.pipelines, ctx.params.pipeline, "pipeline")

    def _wanted(self, ctx: ActionContext, deployed: Deployed) -> str:
        wanted = ctx.params.version or deployed.previous
        if not wanted:
            raise PermanentError("there is no other version to go back to")
        return str(wanted)


def _epoch(value: Any) -> float:
    """Give a time as epoch seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        raise PermanentError("the pipeline does not say when it deployed last") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
