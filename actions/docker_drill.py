"""What the docker drills share: containers that a drill makes for itself and removes.

They need more of the engine than the actions do: where those go through a socket proxy, the sandbox names another
way with `host`. Faults are made by signals, so that nothing is executed inside a container.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from actions.docker_engine import KIND, Api, Engine, MissingError, inspect, judge, state_of
from oncall_agent.contract import (
    Check,
    Drill,
    PermanentError,
    SystemContext,
    Target,
    Trial,
)
from oncall_agent.models import JsonObject

T = TypeVar("T")
_LABEL = "oncall-agent.drill"
_POLL_SECONDS = 0.1
_MEMORY_BYTES = 128 * 1_048_576
_STABLE = {"stable_seconds": 1.0}


class DockerDrill(Drill):
    """What the drills share: an engine, a name, containers and images that are removed at the end."""

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        host = {"host": sandbox["host"]} if sandbox.get("host") else {}
        self.engine = Engine({**settings, **host})
        self.name = f"oncall-drill-{secrets.token_hex(4)}"
        self.images: list[str] = []

    async def ask(self, ctx: SystemContext, question: Callable[[Api], T]) -> T:
        """Ask the engine inside the drill's deadline."""
        return await self.engine.ask(ctx.run_blocking, ctx.seconds_left, question)

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Make the sandbox and wait until it is well."""
        image = self.sandbox.get("image")
        if not isinstance(image, str) or not image:
            raise PermanentError("name an image on the host that has sh: validation.sandboxes.docker.image")
        try:
            await self.ask(ctx, lambda api: api.inspect_image(image))
        except MissingError:
            raise PermanentError(f"the image {image} is not on the host") from None
        await self.ask(ctx, lambda api: self.make(api, image))
        trial = self.trial()
        await self.until(ctx, trial, is_well=True)
        return trial

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make the fault, and wait until it shows."""
        await self.ask(ctx, self.break_it)
        await self.until(ctx, trial, is_well=False)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether the sandbox is well."""
        now = ctx.clock.now()
        try:
            return await self.ask(ctx, lambda api: self.look(api, now))
        except MissingError as error:
            return Check(ok=False, reason=error.message)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Remove the containers, those that an action left beside them, and the images."""
        try:
            await self.ask(ctx, self._remove)
        finally:
            self.engine.close()

    async def until(self, ctx: SystemContext, trial: Trial, *, is_well: bool) -> None:
        """Wait for the symptom, or its absence.

        Raises:
            PermanentError: it did not come within the deadline.
        """
        while True:
            check = await self.symptom(ctx, trial)
            if check.ok is is_well:
                return
            if ctx.seconds_left < 2 * _POLL_SECONDS:
                raise PermanentError(f"the sandbox is not {'well' if is_well else 'sick'}: {check.reason}")
            await ctx.clock.sleep(_POLL_SECONDS)

    def trial(self) -> Trial:
        """Give what the action is carried out on."""
        return Trial(Target(self.name, KIND, address={"container": self.name}), dict(_STABLE))

    @abstractmethod
    def make(self, api: Api, image: str) -> None:
        """Make the sandbox. Blocking."""

    @abstractmethod
    def break_it(self, api: Api) -> None:
        """Make the fault. Blocking."""

    def look(self, api: Api, now: float) -> Check:
        """Look at the sandbox. Blocking."""
        return judge(state_of(inspect(api, self.name, now)))

    def run(
        self,
        api: Api,
        image: str,
        script: str | None,
        *,
        name: str = "",
        memory: int = _MEMORY_BYTES,
        restart: str = "no",
        **more: Any,
    ) -> None:
        """Start a container of the drill: no network, no capabilities, little memory."""
        host = api.create_host_config(
            network_mode="none",
            mem_limit=memory,
            memswap_limit=memory,
            cap_drop=["ALL"],
            restart_policy={"Name": restart},
        )
        labels = {_LABEL: self.spec.id, **more.pop("labels", {})}
        command = None if script is None else ["sh", "-c", script]
        made = api.create_container(
            image, command, name=name or self.name, labels=labels, host_config=host, **more
        )
        api.start(made["Id"])

    def _remove(self, api: Api) -> None:
        for listed in api.containers(all=True, filters={"name": f"^/?{self.name}"}):
            api.remove_container(listed["Id"], force=True, v=True)
        for image in self.images:
            try:
                api.remove_image(image, force=True)
            except Exception as error:
                if getattr(error, "status_code", 0) != 404:  # noqa: PLR2004 - gone already
                    raise
