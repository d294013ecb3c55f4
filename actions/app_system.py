"""The apps as something to validate: what they grant us, and the ways in which a sandbox is made sick.

A drill needs an app that speaks `POST /break`, as the demo's patients do; no app in use should.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from actions.app_client import AppClient, HealthyParams, address_of, judge, object_of
from oncall_agent.contract import (
    ActionError,
    Check,
    Drill,
    DrillSpec,
    Grants,
    Inspection,
    PermanentError,
    System,
    SystemContext,
    Target,
    Trial,
)
from oncall_agent.contract.http import host_of
from oncall_agent.models import JsonObject

_VERBS = {
    "app.deploy": ("POST /deploy",),
    "app.restart": ("POST /restart",),
    "app.rollback_deploy": ("POST /deploy",),
    "app.scale_up": ("POST /deploy",),
}
_READS = ("GET /api/v1/status", "GET /deploy", "GET /logs")


class _AppDrill(Drill):
    """A fault of the named sandbox app, by its own word."""

    fault: ClassVar[str]
    cure: ClassVar[str] = ""
    """The fault that ends this one, when a restart does not."""

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._app = AppClient(settings)
        self._target = Target("sandbox", "http_app", address=dict(sandbox))
        self._version: str | None = None

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Look the app up; it has to be healthy and to know how to fall ill."""
        await self._app.http.__aenter__()
        deployed = await self._app.state(self._target, "/deploy", ctx.seconds_left)
        self._version = str(deployed.get("version"))
        return Trial(self._target, {"hold_seconds": 0.5, **self.params()}, {"version": self._version})

    def params(self) -> dict[str, Any]:
        """Give what the action needs besides."""
        return {}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Ask the app to fall ill."""
        await self._post(ctx, "/break", {"fault": self.fault})

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Read the app's own status."""
        try:
            answer = await self._app.read(address_of(self._target).status, min(2.0, ctx.seconds_left))
            status = object_of(answer.check((200,)))
        except ActionError as error:
            return Check(ok=False, reason=error.message)
        return judge(status, HealthyParams(), {}, None)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Leave the app as it was found: its version, and healthy."""
        if self._version is None:
            return
        try:
            if self.cure:
                await self._post(ctx, "/break", {"fault": self.cure})
            deployed = await self._app.state(self._target, "/deploy", ctx.seconds_left)
            if deployed.get("version") != self._version:
                await self._post(ctx, "/deploy", {"version": self._version})
            if not (await self.symptom(ctx, Trial(self._target))).ok:
                await self._post(ctx, "/restart", {})
        finally:
            await self._app.http.__aexit__(None, None, None)
            self._version = None

    async def _post(self, ctx: SystemContext, path: str, body: dict[str, Any]) -> None:
        url = address_of(self._target).control + path
        sent = self._app.http.send(
            "POST", url, allowed=(host_of(url),), timeout_seconds=ctx.seconds_left, json=body
        )
        answer = await sent
        if path == "/break" and answer.status in (400, 404, 405):
            raise PermanentError(
                "the sandbox has no /break that knows this fault: name an app that is made for drills"
            )
        answer.check()


def _spec(fault: str, action: str, scenario: str, summary: str) -> DrillSpec:
    return DrillSpec(f"app.{fault}", action, scenario, summary, sandbox="named", sandbox_keys=("url",))


class DatabaseTimeouts(_AppDrill):
    """A version that keeps its database connections."""

    fault = "db_timeouts"
    spec = _spec(
        "database_timeouts",
        "app.rollback_deploy",
        "database_timeout_recovery",
        "The sandbox app gets a version whose database queries time out.",
    )


class MemoryClimb(_AppDrill):
    """Memory that climbs to its limit."""

    fault = "memory_climb"
    spec = _spec(
        "memory_climb",
        "app.restart",
        "high_memory_response",
        "The sandbox app's memory climbs to its limit.",
    )


class Crash(_AppDrill):
    """A process that is gone."""

    fault = "crash"
    spec = _spec("crash", "app.restart", "service_crash_handling", "The sandbox app's process dies.")


class BadRelease(_AppDrill):
    """The same, healed by deploying the version that was good."""

    fault = "db_timeouts"
    spec = _spec(
        "bad_release", "app.deploy", "bad_release", "The sandbox app gets a version whose queries time out."
    )

    def params(self) -> dict[str, Any]:
        """Name the good version; the drill itself has just deployed."""
        return {"version": self._version, "quiet_seconds": 0.0}


class Overload(_AppDrill):
    """More traffic than one replica bears."""

    fault, cure = "overload", "none"
    spec = _spec("overload", "app.scale_up", "saturation", "The sandbox app gets more traffic than it bears.")


class AppSystem(System):
    """HTTP apps; each is asked by its own drill."""

    name = "app"
    drills = (DatabaseTimeouts, MemoryClimb, Crash, BadRelease, Overload)

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection | None:
        """Give None: there is no one app to ask."""
        return None

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the requests that the token must permit."""
        changes = sorted({verb for action in actions for verb in _VERBS.get(action, ())})
        return Grants(
            "text", "\n".join((*_READS, *changes)) + "\n", "Let the app's token do these and no more."
        )
