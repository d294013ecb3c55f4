"""Faults on declared sandboxes: an endpoint breaks something, its question tells sick from well, its undo mends.

Each drill needs an endpoint under `backends.http.endpoints` with `verify` and `undo`, and what its action works
on. Nothing but declared requests is ever made; what an action changed is put back by the action's own undo.
"""

from __future__ import annotations

from typing import Any, ClassVar

from actions.http_cdn import PurgeCdn
from actions.http_executor import HttpExecutor, as_attempt, declared
from actions.http_flags import ToggleFlag
from actions.http_pipeline import RollbackDeploy
from actions.http_probe import HealthProbe
from actions.http_settings import Call, Endpoint, Question
from actions.http_traffic import DrainBackend, ShiftTraffic
from oncall_agent.contract import (
    Check,
    Drill,
    DrillSpec,
    PermanentError,
    Receipt,
    SystemContext,
    Target,
    Trial,
)
from oncall_agent.models import JsonObject

_ANY_URL = "http://127.0.0.1"


class _FaultDrill(Drill):
    """A fault that a declared endpoint makes."""

    kind: ClassVar[type[HttpExecutor]]
    fault_key: ClassVar[str]
    keys: ClassVar[dict[str, str]] = {}
    """Parameter of the action -> key of the sandbox."""
    asks: ClassVar[bool] = True
    """Whether the endpoint's question tells sick from well."""

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._target = Target("sandbox", "http_app", address=_address(sandbox))
        self._executor: HttpExecutor = self.kind(settings)
        self._endpoint: Endpoint | None = None
        self._before: Receipt | None = None

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Look up what is declared; the sandbox has to be well."""
        await self._executor.__aenter__()
        endpoint = declared(self._executor.conf.endpoints, str(self.sandbox.get(self.fault_key)), "endpoint")
        if endpoint.undo is None or (endpoint.verify is None and self.asks):
            raise PermanentError(f"the endpoint that {self.fault_key} names needs verify and undo")
        self._endpoint = endpoint
        params = await self.params(ctx)
        await self._note_before(ctx, params)
        trial = Trial(self._target, params)
        check = await self.symptom(ctx, trial)
        if not check.ok:
            raise PermanentError(f"the sandbox must be well before the drill: {check.reason}")
        return trial

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Call the endpoint that breaks the sandbox."""
        await self._call(ctx, self._declared())

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Ask the endpoint's own question once."""
        endpoint = self._declared()
        question = endpoint.verify or Question(url=_ANY_URL)
        return await self._executor.holds(
            as_attempt(ctx, target=self._target), question, endpoint.secret_headers
        )

    async def clean_up(self, ctx: SystemContext) -> None:
        """Mend the sandbox, and put back what the action changed."""
        try:
            if self._endpoint is not None and self._endpoint.undo is not None:
                await self._call(ctx, self._endpoint.undo)
                await self._put_back(ctx)
        finally:
            self._endpoint = self._before = None
            await self._executor.__aexit__(None, None, None)

    async def params(self, ctx: SystemContext) -> JsonObject:
        """Give the action's parameters."""
        return {param: self.sandbox[key] for param, key in self.keys.items() if key in self.sandbox}

    async def _note_before(self, ctx: SystemContext, params: JsonObject) -> None:
        if self.kind.spec.reversible:
            attempt = self._attempt(ctx, params, dry_run=True)
            self._before = await self._executor.execute(attempt)

    async def _put_back(self, ctx: SystemContext) -> None:
        if self._before is None:
            return
        check = await self._executor.rollback(self._attempt(ctx, await self.params(ctx)), self._before)
        if not check.ok:
            raise PermanentError(f"the sandbox is not as before: {check.reason}")

    def _attempt(self, ctx: SystemContext, params: JsonObject, *, dry_run: bool = False) -> Any:
        typed = self.kind.spec.params.model_validate(dict(params))
        return as_attempt(ctx, target=self._target, params=typed, dry_run=dry_run)

    async def _call(self, ctx: SystemContext, call: Call) -> None:
        endpoint = self._declared()
        sent = await self._executor.send(as_attempt(ctx, target=self._target), call, endpoint.secret_headers)
        sent.check(call.expect_status)

    def _declared(self) -> Endpoint:
        if self._endpoint is None:
            raise PermanentError("the drill is not prepared")
        return self._endpoint


def _spec(fault: str, action: str, scenario: str, summary: str, *keys: str) -> DrillSpec:
    return DrillSpec(f"http.{fault}", action, scenario, summary, sandbox="named", sandbox_keys=keys)


class WrongFlag(_FaultDrill):
    """A flag has a value that hurts."""

    kind, fault_key = ToggleFlag, "flag_fault"
    keys: ClassVar = {"flag": "flag", "value": "flag_value"}
    spec = _spec(
        "wrong_flag",
        "http.toggle_flag",
        "bad_configuration",
        "The sandbox's flag is set to a value that makes it fail.",
        "flag_fault",
        "flag",
        "flag_value",
    )


class SickMember(_FaultDrill):
    """One member of a pool answers with errors."""

    kind, fault_key = DrainBackend, "member_fault"
    keys: ClassVar = {"pool": "pool", "member": "member"}
    spec = _spec(
        "sick_member",
        "http.drain_backend",
        "service_crash_handling",
        "One member of the sandbox pool answers with errors.",
        "member_fault",
        "pool",
        "member",
    )


class OverloadedMember(_FaultDrill):
    """One member of a pool can't bear its share."""

    kind, fault_key = ShiftTraffic, "member_fault"
    keys: ClassVar = {"pool": "pool", "member": "member", "weight": "member_weight"}
    spec = _spec(
        "overloaded_member",
        "http.shift_traffic",
        "saturation",
        "One member of the sandbox pool can't bear its share of the traffic.",
        "member_fault",
        "pool",
        "member",
        "member_weight",
    )


class StaleCache(_FaultDrill):
    """The cache keeps what the origin no longer has."""

    kind, fault_key, asks = PurgeCdn, "cache_fault", False
    _executor: PurgeCdn
    keys: ClassVar = {"cache": "cache"}
    spec = _spec(
        "stale_cache",
        "http.purge_cdn",
        "stale_cache",
        "The sandbox cache keeps an object that the origin has changed.",
        "cache_fault",
        "cache",
        "cache_key",
    )

    async def params(self, ctx: SystemContext) -> JsonObject:
        """Give the cache and the one key."""
        return {"cache": self.sandbox.get("cache"), "keys": [self.sandbox.get("cache_key")]}

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Compare what the cache gives with what the origin has."""
        attempt = self._attempt(ctx, trial.params)
        cache = declared(self._executor.conf.caches, attempt.params.cache, "cache")
        if cache.origin is None:
            raise PermanentError("the sandbox cache needs its origin declared")
        ok = await self._executor.is_fresh(attempt, cache)
        return Check(ok=ok, reason="" if ok else "the cache is not what the origin has")

    async def _put_back(self, ctx: SystemContext) -> None:
        # The origin has changed back: what the cache took meanwhile has to go, too.
        await self._executor.execute(self._attempt(ctx, await self.params(ctx)))


class BadDeploy(_FaultDrill):
    """A bad version is deployed."""

    kind, fault_key = RollbackDeploy, "deploy_fault"
    spec = _spec(
        "bad_deploy",
        "http.rollback_deploy",
        "bad_release",
        "A bad version is deployed through the sandbox pipeline.",
        "deploy_fault",
        "pipeline",
    )

    async def params(self, ctx: SystemContext) -> JsonObject:
        """Give the pipeline, and the version from before the fault."""
        if self._before is not None:
            return {"pipeline": self.sandbox["pipeline"], "version": self._before.facts["version"]}
        name = str(self.sandbox.get("pipeline"))
        pipeline = declared(self._executor.conf.pipelines, name, "pipeline")
        attempt = as_attempt(ctx, target=self._target)
        version = await self._executor.look(attempt, pipeline.read, pipeline.secret_headers)
        return {"pipeline": name, "version": version}


class FailedCall(_FaultDrill):
    """Something that a declared call mends."""

    kind, fault_key = HealthProbe, "call_fault"
    keys: ClassVar = {"endpoint": "call"}
    spec = _spec(
        "failed_call",
        "http.call",
        "service_crash_handling",
        "The sandbox has a fault that one of its own endpoints mends.",
        "call_fault",
        "call",
    )


def _address(sandbox: JsonObject) -> dict[str, Any]:
    url = sandbox.get("url")
    return {"url": url} if isinstance(url, str) else {}
