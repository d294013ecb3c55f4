"""What the Spark actions share: the cluster behind its kind, looking applications up, diagnostics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from actions.spark_http import SparkHttp
from actions.spark_masters import Application, Master
from actions.spark_operator import Operator
from actions.spark_settings import SparkSettings, is_protected, text_of
from actions.spark_standalone import Standalone
from actions.spark_ui import Pages
from actions.spark_yarn import Yarn
from oncall_agent.contract import ActionContext, Check, Executor, PermanentError, TransientError, held
from oncall_agent.models import JsonObject

MASTERS: dict[str, type[Master]] = {kind.kind: kind for kind in (Standalone, Yarn, Operator)}
UNPROVEN = {
    "yarn": "YARN was only to be had as a fake",
    "kubernetes": "the Spark operator was only to be had as a fake",
}
"""Kinds of cluster whose actions no real server has proven, and why."""
_POLL_SECONDS = 0.5


class Cluster:
    """One cluster: its master, the pages of its applications, and the session that both use."""

    def __init__(self, settings: JsonObject) -> None:
        self.settings = SparkSettings.model_validate(dict(settings))
        self.http = SparkHttp(self.settings)
        self.master: Master = MASTERS[self.settings.kind](self.http)
        self.pages = Pages(self.http)

    @property
    def history(self) -> str:
        """The history server's URL, empty when there is none."""
        return self.settings.history_url.rstrip("/")


class SparkExecutor(Executor):
    """One action on a cluster."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.cluster = Cluster(settings)
        self.master, self.pages = self.cluster.master, self.cluster.pages
        unproven = UNPROVEN.get(self.cluster.settings.kind)
        if unproven:
            # The class is proven on a standalone cluster, this instance leads to another kind.
            vars(self)["spec"] = replace(self.spec, unproven=unproven)

    async def __aenter__(self) -> Self:
        await self.cluster.http.session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cluster.http.session.__aexit__(kind, error, trace)

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the master answers."""
        try:
            product = await self.master.product(ctx.seconds_left)
        except (TransientError, PermanentError) as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True, reason=f"{product.name} {product.version}")

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect the last applications of the name, and what is known of lost executors."""
        try:
            found = await self.master.applications(ctx.seconds_left, text_of(ctx.target, "application"))
            facts: dict[str, Any] = {"applications": [one.as_facts() for one in found[:5]]}
            running = next((one for one in found if not one.is_over), None)
            if running is not None:
                base = await self.master.ui_of(ctx.seconds_left, running)
                stages = await self.pages.running(ctx.seconds_left, base, running.id, "stage")
                facts["stages"] = [one.as_facts() for one in stages[:10]]
                facts["losses"] = list(await self.pages.losses(ctx.seconds_left, base, running.id))
        except (TransientError, PermanentError) as error:
            return {"reason": error.message}
        return facts

    async def active(self, ctx: ActionContext) -> tuple[Application, ...]:
        """Give the target's applications that have not ended, newest first."""
        found = await self.master.applications(ctx.seconds_left, text_of(ctx.target, "application"))
        return tuple(one for one in found if not one.is_over)

    def objection(self, ctx: ActionContext) -> str:
        """Give the reason why the target's application may not be touched at all, or an empty text."""
        name = text_of(ctx.target, "application")
        return "the application is protected" if is_protected(ctx.target, self.cluster.settings, name) else ""

    async def until(
        self, ctx: ActionContext, sample: Callable[[], Awaitable[Check]], *, hold_seconds: float
    ) -> Check:
        """Poll until it held; an answer that does not come is a bad sample, not an error."""

        async def guarded() -> Check:
            try:
                return await sample()
            except (TransientError, PermanentError) as error:
                return Check(ok=False, reason=error.message)

        return await held(
            ctx,
            guarded,
            hold_seconds=hold_seconds,
            within_seconds=ctx.seconds_left,
            interval_seconds=_POLL_SECONDS,
        )
