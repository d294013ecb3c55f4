"""Paging people through Apprise, and through a page file when there is no other way out.

A page is written to the file before it is sent, so that neither a crash nor a dead channel loses it silently.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from actions.page_file import PageFile
from actions.page_text import body_of, title_of
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Executor,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    SecretRef,
    TransientError,
)
from oncall_agent.contract.secret import resolve
from oncall_agent.errors import ConfigError
from oncall_agent.models import JsonObject


class EscalateSettings(BaseModel):
    """The group `backends.escalate`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    urls: tuple[SecretRef, ...] = ()
    """Apprise URLs by reference: they carry tokens."""
    file: str = "oncall-agent-pages.jsonl"
    """Every page is kept here, one JSON line each, whether or not a channel took it."""
    max_file_bytes: int = Field(10_485_760, ge=65_536, le=1_073_741_824)
    """At this size the file is renamed to `<file>.1`, replacing the former one."""


class PageParams(Params):
    """What the runbook's author wants people to read first."""

    note: str = Field("", max_length=1_000)


class Page(Executor):
    """Pages people with everything collected; `delivered` in the receipt counts the channels that took it."""

    spec = ActionSpec(
        id="escalate.page",
        summary="Page people with everything collected.",
        target_kind="*",
        params=PageParams,
        risk=RiskClass.R0,
        reversible=False,
        irreversible_reason="a page that people have read can't be taken back",
        blast_radius=0,
        cooldown_seconds=0.0,
        deadline_seconds=30.0,
        cost=0.3,
        family="escalate",
        read_only=True,
        exemptions={
            "verify_fails_when_sick": "it asks whether the page left; healing the target is now up to people",
            "rollback_restores": "a page that people have read can't be taken back",
        },
    )

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._settings = EscalateSettings.model_validate(dict(settings))
        self._pages = PageFile(Path(self._settings.file), self._settings.max_file_bytes)

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether a page would leave this machine, without sending one."""
        if not self._settings.urls:
            return Check(ok=True, reason="no channel is configured: pages go to the log and the page file")
        problem = await ctx.run_blocking(self._problem)
        return Check(ok=problem is None, reason=problem or f"{len(self._settings.urls)} channels")

    async def precheck(self, ctx: ActionContext) -> Check:
        """Always permit it: asking people must never be refused."""
        return Check(ok=True, instances=0, facts={"channels": len(self._settings.urls)})

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Keep the page in the file, then hand it to every channel; once per idempotency key."""
        facts: dict[str, Any] = {"key": ctx.idempotency_key, "channels": len(self._settings.urls)}
        if ctx.dry_run:
            return Receipt(self.spec.id, ctx.clock.now(), facts, planned=True)
        title, body = title_of(ctx), body_of(ctx)
        known = await ctx.run_blocking(self._keep, ctx.idempotency_key, ctx.clock.now(), title, body)
        facts["file"] = self._settings.file
        if known == "sent":
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "delivered": len(self._settings.urls)})
        if not self._settings.urls:
            ctx.log.warning("page.written", title=title, body=body, file=self._settings.file)
            return Receipt(self.spec.id, ctx.clock.now(), {**facts, "delivered": 0})
        delivered = await self._deliver(ctx, title, body, facts)
        return Receipt(self.spec.id, ctx.clock.now(), {**facts, "delivered": delivered})

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether the page left, or is in the page file when there is no channel."""
        state = await ctx.run_blocking(self._pages.state_of, ctx.idempotency_key)
        facts = {"state": state, "channels": len(self._settings.urls)}
        wanted = ("sent",) if self._settings.urls else ("kept", "sent")
        ok = state in wanted
        return Check(ok=ok, reason="" if ok else "no channel took the page", facts=facts)

    def _keep(self, key: str, at: float, title: str, body: str) -> str:
        try:
            known = self._pages.state_of(key)
            if known == "absent":
                self._pages.append({"at": at, "key": key, "state": "kept", "title": title, "body": body})
        except OSError as error:
            # A full disk must not stop the page itself: the channels are still tried.
            return "absent" if self._settings.urls else self._lost(error)
        return known

    def _lost(self, error: OSError) -> str:
        raise TransientError(f"the page file can't be written: {error.strerror}") from error

    async def _deliver(self, ctx: ActionContext, title: str, body: str, facts: JsonObject) -> int:
        try:
            async with asyncio.timeout(max(ctx.seconds_left, 0.05)):
                delivered = await ctx.run_blocking(partial(self._send, title, body))
        except TimeoutError:
            raise TransientError("the channels do not answer in time", receipt_facts=facts) from None
        except ConfigError as error:
            ctx.log.warning("page.written", title=title, file=self._settings.file)
            raise PermanentError(error.message, receipt_facts=facts) from error
        if delivered == 0:
            ctx.log.warning("page.refused", title=title, file=self._settings.file)
            raise TransientError("no channel took the page", receipt_facts=facts)
        await ctx.run_blocking(self._mark_sent, ctx.idempotency_key, ctx.clock.now(), delivered)
        return delivered

    def _mark_sent(self, key: str, at: float, delivered: int) -> None:
        self._pages.remember(key)
        try:
            self._pages.append({"at": at, "key": key, "state": "sent", "delivered": delivered})
        except OSError:
            return  # The page has left; memory still prevents a second one in this process.

    def _send(self, title: str, body: str) -> int:
        apprise = _library()
        delivered = 0
        for reference in self._settings.urls:
            channel = apprise.Apprise()
            if channel.add(resolve(reference).reveal()):
                delivered += bool(channel.notify(title=title, body=body, body_format="text"))
        return delivered

    def _problem(self) -> str | None:
        try:
            apprise = _library()
            for reference in self._settings.urls:
                if not apprise.Apprise().add(resolve(reference).reveal()):
                    return f"the URL behind {reference} is not one that Apprise knows"
        except ConfigError as error:
            return error.message
        return None


def _library() -> Any:
    # Imported late: it costs memory and time, and most daemons page seldom.
    try:
        import apprise  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("the library apprise is not installed (extra `notify`)") from error
    return apprise
