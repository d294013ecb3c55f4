"""HTTP endpoints that the operator has declared: one call, one question whether it worked, perhaps an undo."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import jmespath
from cachetools import LRUCache
from pydantic import Field

from actions.http_settings import Call, Endpoint, HttpSettings, Question, fill, fill_url
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    ActionSpec,
    Check,
    Executor,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    held,
)
from oncall_agent.contract.http import HttpAnswer, SafeHttp, SentError
from oncall_agent.contract.secret import resolve
from oncall_agent.models import JsonObject

_SAFE_TO_REPEAT = frozenset({"PUT", "DELETE"})
_UNDECIDED = frozenset({500, 502, 504})


class CallParams(Params):
    """Which endpoint, and the values of its declared variables."""

    endpoint: str
    vars: dict[str, str] = Field(default_factory=dict)


class CallEndpoint(Executor):
    """Calls one endpoint of the list; in the happy path one request to act and one to ask."""

    spec = ActionSpec(
        id="http.call",
        summary="Call an HTTP endpoint that the operator has declared.",
        target_kind="*",
        params=CallParams,
        risk=RiskClass.R2,
        reversible=True,
        deadline_seconds=30.0,
        cost=0.05,
        family="call",
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._settings = HttpSettings.model_validate(dict(settings))
        self._http = SafeHttp(max_body_bytes=self._settings.max_body_bytes)
        self._questions = {
            name: jmespath.compile(endpoint.verify.assertion)
            for name, endpoint in self._settings.endpoints.items()
            if endpoint.verify and endpoint.verify.assertion
        }
        # Spares a second call in this process; in another one the server's own memory of the key has to.
        self._done: LRUCache[str, Receipt] = LRUCache(8192)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def ping(self, ctx: ActionContext) -> Check:
        """Say how many endpoints are declared; none of them is called."""
        return Check(ok=True, reason=f"{len(self._settings.endpoints)} endpoints")

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse unknown endpoints and values outside what is declared; asks nobody."""
        try:
            endpoint = self._endpoint(ctx)
            url = self._url(ctx, endpoint, endpoint)
        except PermanentError as error:
            return Check(ok=False, reason=error.message)
        return Check(
            ok=True, facts={"method": endpoint.method, "url": _shown(url), "endpoint": ctx.params.endpoint}
        )

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Send the request with the idempotency key as header."""
        endpoint = self._endpoint(ctx)
        url = self._url(ctx, endpoint, endpoint)
        facts: dict[str, Any] = {
            "method": endpoint.method,
            "url": _shown(url),
            "endpoint": ctx.params.endpoint,
        }
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        known = self._done.get(ctx.idempotency_key)
        if known is not None:
            return known
        answer = await self._act(ctx, endpoint, url, facts)
        receipt = Receipt(self.spec.id, ctx.clock.now(), {**facts, "status": answer.status})
        self._done[ctx.idempotency_key] = receipt
        return receipt

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Ask the declared question; without one the answer of the call is all the evidence there is."""
        endpoint = self._endpoint(ctx)
        question = endpoint.verify
        if question is None:
            ok = "status" in receipt.facts
            return Check(
                ok=ok, reason="" if ok else "whether the call arrived is unknown", facts=dict(receipt.facts)
            )

        async def sample() -> Check:
            return await self._ask(ctx, endpoint, question)

        return await held(
            ctx,
            sample,
            hold_seconds=question.hold_seconds,
            within_seconds=question.within_seconds,
            interval_seconds=question.interval_seconds,
        )

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Call the paired undo under a key of its own."""
        endpoint = self._endpoint(ctx)
        if endpoint.undo is None:
            return Check(ok=False, reason="the endpoint declares no undo")
        url = self._url(ctx, endpoint, endpoint.undo)
        answer = await self._send(ctx, endpoint, endpoint.undo, url, f"{ctx.idempotency_key}-undo")
        answer.check(endpoint.undo.expect_status)
        return Check(ok=True, facts={"url": _shown(url), "status": answer.status})

    async def _act(self, ctx: ActionContext, endpoint: Endpoint, url: str, facts: JsonObject) -> HttpAnswer:
        may_repeat = endpoint.idempotent or endpoint.method in _SAFE_TO_REPEAT
        try:
            answer = await self._send(ctx, endpoint, endpoint, url, ctx.idempotency_key)
        except SentError as error:
            if may_repeat:
                raise
            raise PermanentError(f"{error.message}: it may have acted", receipt_facts=facts) from error
        if answer.status in _UNDECIDED and not may_repeat and answer.status not in endpoint.expect_status:
            raise PermanentError(
                f"the server answered {answer.status}: it may have acted", receipt_facts=facts
            )
        return answer.check(endpoint.expect_status)

    async def _ask(self, ctx: ActionContext, endpoint: Endpoint, question: Question) -> Check:
        url = self._url(ctx, endpoint, question)
        try:
            answer = await self._send(ctx, endpoint, question, url, None)
            answer.check(question.expect_status)
            found = answer.json() if question.assertion else None
        except ActionError as error:
            return Check(ok=False, reason=error.message, facts={"url": _shown(url)})
        facts = {"url": _shown(url), "status": answer.status}
        if question.assertion and not self._holds(ctx.params.endpoint, found):
            return Check(
                ok=False,
                reason="the assertion does not hold",
                facts={**facts, "assertion": question.assertion},
            )
        return Check(ok=True, facts=facts)

    def _holds(self, name: str, found: Any) -> bool:
        try:
            return self._questions[name].search(found) is True
        except jmespath.exceptions.JMESPathError:
            return False  # A field of another type than the expression expects.

    async def _send(
        self, ctx: ActionContext, endpoint: Endpoint, call: Call, url: str, key: str | None
    ) -> HttpAnswer:
        values = self._values(ctx, endpoint)
        return await self._http.send(
            call.method,
            url,
            allowed=self._settings.allowed(url, ctx.target.address.get("url")),
            timeout_seconds=min(self._settings.timeout_seconds, ctx.seconds_left),
            headers={**call.headers, **({"Idempotency-Key": key} if key else {})},
            secret_headers={name: resolve(ref) for name, ref in endpoint.secret_headers.items()},
            json=fill(call.body, values) if call.body is not None else None,
        )

    def _endpoint(self, ctx: ActionContext) -> Endpoint:
        endpoint = self._settings.endpoints.get(ctx.params.endpoint)
        if endpoint is None:
            raise PermanentError(f"no endpoint is named {ctx.params.endpoint!r}")
        return endpoint

    def _url(self, ctx: ActionContext, endpoint: Endpoint, call: Call) -> str:
        base = str(ctx.target.address.get("url", "")).rstrip("/")
        if call.url.startswith("/") and not base:
            raise PermanentError(f"target {ctx.target.name} has no url for {call.url}")
        return fill_url(call.url if "://" in call.url else base + call.url, self._values(ctx, endpoint))

    def _values(self, ctx: ActionContext, endpoint: Endpoint) -> dict[str, str]:
        given: dict[str, str] = ctx.params.vars
        unknown = set(given) - set(endpoint.vars)
        if unknown:
            raise PermanentError(f"variables that are not declared: {sorted(unknown)}")
        for name, pattern in endpoint.patterns.items():
            if not pattern.fullmatch(given.get(name, "")):
                raise PermanentError(f"the variable {name} is not as declared")
        return given


def _shown(url: str) -> str:
    return url.partition("?")[0][:500]
