"""A memcached node whose process hangs: made through the Docker engine, on a container that the operator names."""

from __future__ import annotations

from actions.memcached_client import KIND, Memcached
from actions.memcached_facts import read
from oncall_agent.contract import (
    ActionError,
    Check,
    Drill,
    DrillSpec,
    PermanentError,
    SystemContext,
    Target,
    Trial,
    UnfitSandboxError,
)
from oncall_agent.models import JsonObject


class HungNode(Drill):
    """Stops the process of a container where it is; a restart brings it back."""

    spec = DrillSpec(
        "memcached.hung_node",
        "memcached.restart_node",
        "service_crash_handling",
        "The process of the sandbox node's container hangs.",
        sandbox="named",
        sandbox_keys=("pool", "node"),
    )

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._memcached = Memcached(settings)
        self._container = ""

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Look up the node's container."""
        address = {key: str(self.sandbox.get(key, "")) for key in self.spec.sandbox_keys}
        target = Target("sandbox", KIND, address=address)
        self._place = self._memcached.place_of(target)
        if not self._place.node.container:
            raise UnfitSandboxError(f"memcached {self._place} runs in no container: its hang can't be made")
        self._container = self._place.node.container
        params = {"stop_seconds": 1, "min_uptime_seconds": 0, "hold_seconds": 1.0}
        return Trial(target, params)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Stop the process."""
        await self._signal(ctx, "SIGSTOP")

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Ask the node."""
        try:
            await self._memcached.ask(ctx.run_blocking, ctx.seconds_left, self._place, read)
        except ActionError as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Let the process go on, if it still stands."""
        if self._container:
            await self._signal(ctx, "SIGCONT")

    async def _signal(self, ctx: SystemContext, name: str) -> None:
        try:
            # Without the Docker client library this drill is off, and the memcached system is not.
            from actions.docker_engine import Engine  # noqa: PLC0415
        except ImportError as error:
            raise PermanentError("the Docker client library is not installed") from error
        engine = Engine({"host": self._memcached.settings.docker_host})
        try:
            await engine.ask(
                ctx.run_blocking, ctx.seconds_left, lambda api: api.kill(self._container, signal=name)
            )
        finally:
            engine.close()
