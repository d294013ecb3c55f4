"""What the actions on flags, pools, caches and pipelines share: the client, declared requests, questions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeVar

import jmespath

from actions.http_settings import HttpSettings
from actions.http_templates import Call, Lookup, Question, fill, fill_url
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    Check,
    Executor,
    PermanentError,
    SystemContext,
    Target,
    held,
)
from oncall_agent.contract.http import HttpAnswer, SafeHttp
from oncall_agent.contract.secret import resolve
from oncall_agent.models import JsonObject

T = TypeVar("T")
_MAX_SHOWN = 200


@lru_cache(512)
def _compiled(expression: str) -> Any:
    return jmespath.compile(expression)


def picked(expression: str, found: Any) -> Any:
    """Give what an expression finds, None when the answer is otherwise than it expects."""
    try:
        return _compiled(expression).search(found)
    except jmespath.exceptions.JMESPathError:
        return None


class HttpExecutor(Executor):
    """An action made of declared requests."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.conf = HttpSettings.model_validate(dict(settings))
        self.http = SafeHttp(max_body_bytes=self.conf.max_body_bytes)

    async def __aenter__(self) -> Self:
        await self.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.__aexit__(kind, error, trace)

    def timeout(self, ctx: ActionContext) -> float:
        """Give the time for one request."""
        return min(self.conf.timeout_seconds, ctx.seconds_left)

    async def send(
        self,
        ctx: ActionContext,
        call: Call,
        secrets: Mapping[str, str],
        values: Mapping[str, Any] | None = None,
        *,
        key: str = "",
    ) -> HttpAnswer:
        """Send one declared request; errors as `SafeHttp.send`.

        Args:
            secrets: header -> reference.
            key: sent as Idempotency-Key.
        """
        values = values or {}
        url = self.url(ctx, call.url, values)
        headers = {name: str(fill(text, values)) for name, text in call.headers.items()}
        return await self.http.send(
            call.method,
            url,
            allowed=self.conf.allowed(url, ctx.target.address.get("url")),
            timeout_seconds=self.timeout(ctx),
            headers={**headers, **({"Idempotency-Key": key} if key else {})},
            secret_headers={name: resolve(reference) for name, reference in secrets.items()},
            json=fill(call.body, values) if call.body is not None else None,
        )

    async def read(self, ctx: ActionContext, lookup: Lookup, secrets: Mapping[str, str]) -> Any:
        """Give the whole JSON answer to a lookup; `picked` takes the value out of it."""
        return (await self.send(ctx, lookup, secrets)).check(lookup.expect_status).json()

    async def look(self, ctx: ActionContext, lookup: Lookup, secrets: Mapping[str, str]) -> Any:
        """Give the value of a lookup.

        Raises:
            PermanentError: the answer has none.
        """
        value = picked(lookup.value, await self.read(ctx, lookup, secrets))
        if value is None:
            raise PermanentError(f"the answer has no {lookup.value}"[:_MAX_SHOWN])
        return value

    async def holds(self, ctx: ActionContext, question: Question, secrets: Mapping[str, str]) -> Check:
        """Ask a question once."""
        try:
            answer = await self.send(ctx, question, secrets)
            answer.check(question.expect_status)
            found = answer.json() if question.assertion else None
        except ActionError as error:
            return Check(ok=False, reason=error.message)
        if question.assertion and picked(question.assertion, found) is not True:
            reason = "the assertion does not hold"
            return Check(ok=False, reason=reason, facts={"assertion": question.assertion})
        return Check(ok=True, facts={"status": answer.status})

    async def settled(
        self, ctx: ActionContext, change: Any, question: Question | None, secrets: Mapping[str, str]
    ) -> Check:
        """Wait until the change is seen and, where one is declared, the symptom is gone for its time.

        Args:
            change: gives a check of the change alone.
        """

        async def sample() -> Check:
            try:
                seen: Check = await change()
            except ActionError as error:
                return Check(ok=False, reason=error.message)
            if not seen.ok or question is None:
                return seen
            asked = await self.holds(ctx, question, secrets)
            return Check(ok=asked.ok, reason=asked.reason, facts={**seen.facts, **asked.facts})

        return await held(
            ctx,
            sample,
            hold_seconds=question.hold_seconds if question else 0.0,
            within_seconds=question.within_seconds if question else 5.0,
            interval_seconds=question.interval_seconds if question else 0.1,
        )

    def url(self, ctx: ActionContext, template: str, values: Mapping[str, Any]) -> str:
        """Give a declared URL with its variables; a path belongs to the target.

        Raises:
            PermanentError: the target has no url.
        """
        base = str(ctx.target.address.get("url", "")).rstrip("/")
        if template.startswith("/") and not base:
            raise PermanentError(f"target {ctx.target.name} has no url for {template}")
        return fill_url(template if "://" in template else base + template, values)


def declared(group: Mapping[str, T], name: str, kind: str) -> T:
    """Give what the operator declared under a name.

    Raises:
        PermanentError: nothing.
    """
    found = group.get(name)
    if found is None:
        raise PermanentError(f"no {kind} is named {name!r}")
    return found


def as_attempt(
    ctx: SystemContext, *, target: Target | None = None, params: Any = None, dry_run: bool = False
) -> ActionContext:
    """Give the context of an inspection or a drill as an attempt's, under a key of its own."""
    key = f"oncall-agent-drill-{ctx.clock.monotonic():.6f}"
    return ActionContext(
        target=target or Target("unknown", "*"),
        params=params,
        idempotency_key=key,
        attempt_id=key,
        started_at=ctx.clock.now(),
        deadline_at=ctx.deadline_at,
        clock=ctx.clock,
        log=ctx.log,
        run_blocking=ctx.run_blocking,
        dry_run=dry_run,
    )
