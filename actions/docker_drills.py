"""Faults of a container that the drill makes and removes itself; its image is named by the operator."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from actions.docker_engine import KIND, Api, Engine, MissingError, judge, state_of
from oncall_agent.contract import Check, Drill, DrillSpec, SystemContext, Target, Trial
from oncall_agent.models import JsonObject

T = TypeVar("T")
_SECOND = 1_000_000_000
_LABEL = "oncall-agent.drill"
_WELL = ["/bin/sh", "-c", "rm -f /tmp/hung; while :; do sleep 0.1; done"]
_HEALTH = {
    "Test": ["CMD-SHELL", "test ! -e /tmp/hung"],
    "Interval": _SECOND,
    "Timeout": 2 * _SECOND,
    "Retries": 1,
}


class _ContainerDrill(Drill):
    """A small container of its own, without network, mounts or published ports."""

    has_health_check: ClassVar[bool] = False

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._engine = Engine(settings)
        self._name = f"oncall-agent-drill-{uuid.uuid4().hex[:12]}"

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Start it."""
        image = str(self.sandbox["image"])
        await self._ask(ctx, lambda api: self._start(api, image))
        trial = Trial(Target("sandbox", KIND, address={"container": self._name}), {"stable_seconds": 1.0})
        while not (check := await self.symptom(ctx, trial)).ok and ctx.seconds_left:
            if "starting" not in check.reason:
                break
            await ctx.clock.sleep(0.1)
        return trial

    def _start(self, api: Api, image: str) -> None:
        host = api.create_host_config(
            network_mode="none", mem_limit="64m", cap_drop=["ALL"], restart_policy={"Name": "no"}
        )
        api.create_container(
            image,
            _WELL,
            name=self._name,
            host_config=host,
            labels={_LABEL: "true"},
            healthcheck=_HEALTH if self.has_health_check else None,
        )
        api.start(self._name)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make the fault."""
        await self._ask(ctx, self.break_it)

    @abstractmethod
    def break_it(self, api: Api) -> None:
        """Make the fault, by the engine's client."""

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Ask the engine."""
        try:
            found = await self._ask(ctx, lambda api: api.inspect_container(self._name))
        except MissingError as error:
            return Check(ok=False, reason=error.message)
        return judge(state_of(found))

    async def clean_up(self, ctx: SystemContext) -> None:
        """Remove the container."""
        try:
            await self._ask(ctx, lambda api: api.remove_container(self._name, force=True, v=True))
        except MissingError:
            return
        finally:
            self._engine.close()

    async def _ask(self, ctx: SystemContext, question: Callable[[Any], T]) -> T:
        return await self._engine.ask(ctx.run_blocking, ctx.seconds_left, question)


def _spec(fault: str, action: str, scenario: str, summary: str) -> DrillSpec:
    return DrillSpec(f"docker.{fault}", action, scenario, summary, sandbox="named", sandbox_keys=("image",))


class Crashed(_ContainerDrill):
    """A container whose process was killed."""

    spec = _spec(
        "crashed",
        "docker.start_or_unpause",
        "service_crash_handling",
        "A sandbox container's process is killed.",
    )

    def break_it(self, api: Api) -> None:
        """Kill its first process."""
        api.kill(self._name)


class Paused(_ContainerDrill):
    """A container that stands still."""

    spec = _spec("paused", "docker.start_or_unpause", "container_paused", "A sandbox container is paused.")

    def break_it(self, api: Api) -> None:
        """Pause it."""
        api.pause(self._name)


class HungHealthCheck(_ContainerDrill):
    """A container that runs and does not answer."""

    has_health_check = True
    spec = _spec(
        "hung_health_check",
        "docker.restart_container",
        "hung_service",
        "A sandbox container runs on, but its health check fails until it is restarted.",
    )

    def break_it(self, api: Api) -> None:
        """Let the health check fail from now on."""
        call = api.exec_create(self._name, ["/bin/sh", "-c", ": > /tmp/hung"])
        api.exec_start(call["Id"])
