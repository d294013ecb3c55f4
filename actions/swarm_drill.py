"""What the swarm drills share: one small service that a drill makes for itself and removes.

They need more of the manager than the actions do: where those go through a socket proxy, the sandbox names another
way with `host`.
"""

from __future__ import annotations

import copy
import secrets
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from actions.docker_engine import Api, MissingError
from actions.docker_scripts import IDLE
from actions.swarm_engine import SERVICE, SwarmSettings, engine_for, send
from actions.swarm_state import CHANGING, Service, Task, judge, service_of, task_of
from oncall_agent.contract import Check, Drill, PermanentError, SystemContext, Target, Trial
from oncall_agent.models import JsonObject

T = TypeVar("T")
_SECOND = 1_000_000_000
_POLL_SECONDS = 0.1
_LABEL = "oncall-agent.drill"
_QUICK = {"Parallelism": 0, "Monitor": _SECOND // 2, "FailureAction": "pause", "Order": "stop-first"}


class SwarmDrill(Drill):
    """One service, made healthy, broken, and removed."""

    replicas = 2

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        host = {"host": sandbox["host"]} if sandbox.get("host") else {}
        self.engine = engine_for(SwarmSettings.model_validate({**settings, **host}))
        self.name = f"oncall-drill-{secrets.token_hex(4)}"

    async def ask(self, ctx: SystemContext, question: Callable[[Api], T]) -> T:
        """Ask the manager inside the drill's deadline."""
        return await self.engine.ask(ctx.run_blocking, ctx.seconds_left, question)

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Make the service and wait until its tasks run."""
        image = self.sandbox.get("image")
        if not isinstance(image, str) or not image:
            raise PermanentError("name an image that has sh: validation.sandboxes.swarm.image")
        await self.ask(ctx, self.look_before)
        await self.ask(ctx, lambda api: self._create(api, image))
        trial = self.trial()
        await self.until(ctx, trial, is_well=True)
        return trial

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make the fault, and wait until it shows."""
        await self.ask(ctx, self.break_it)
        await self.until(ctx, trial, is_well=False)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether the service is well."""
        try:
            return await self.ask(ctx, self.look)
        except MissingError as error:
            return Check(ok=False, reason=error.message)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Remove the service."""
        try:
            await self.ask(ctx, self.undo)
            await self.ask(ctx, lambda api: api.remove_service(self.name))
        except MissingError:
            return
        finally:
            self.engine.close()

    async def until(self, ctx: SystemContext, trial: Trial, *, is_well: bool) -> None:
        """Wait for the symptom, or its absence.

        Raises:
            PermanentError: it did not come within the deadline.
        """
        while True:
            check = await self.symptom(ctx, trial)
            if check.ok is is_well and (is_well or await self.ask(ctx, self.is_settled)):
                return
            if ctx.seconds_left < 2 * _POLL_SECONDS:
                raise PermanentError(f"the sandbox is not {'well' if is_well else 'sick'}: {check.reason}")
            await ctx.clock.sleep(_POLL_SECONDS)

    def trial(self) -> Trial:
        """Give what the action is carried out on."""
        return Trial(Target(self.name, SERVICE, address={"service": self.name}), {"stable_seconds": 1.0})

    def look_before(self, api: Api) -> None:
        """Refuse a sandbox that is not fit. Blocking."""

    def shape(self, api: Api, body: dict[str, Any]) -> None:
        """Change the body of create to what this drill needs. Blocking."""

    @abstractmethod
    def break_it(self, api: Api) -> None:
        """Make the fault. Blocking."""

    def is_settled(self, api: Api) -> bool:
        """Say whether the swarm has done with the fault what it does by itself. Blocking."""
        return self.service(api).update_state not in CHANGING

    def undo(self, api: Api) -> None:
        """Take back what was done to others than the service. Blocking."""

    def look(self, api: Api) -> Check:
        """Look at the service. Blocking."""
        return judge(self.service(api), self.tasks(api))

    def service(self, api: Api) -> Service:
        """Give the service as it is now. Blocking."""
        return service_of(api.inspect_service(self.name))

    def tasks(self, api: Api) -> list[Task]:
        """Give its tasks that ought to run. Blocking."""
        found = api.tasks(filters={"service": self.name, "desired-state": "running"})
        return [task_of(one) for one in found]

    def change(self, api: Api, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change its specification. Blocking."""
        service = self.service(api)
        spec: dict[str, Any] = copy.deepcopy(dict(service.spec))
        edit(spec)
        send(api, service, spec)

    def _create(self, api: Api, image: str) -> None:
        container = {"Image": image, "Command": ["sh", "-c", IDLE], "StopGracePeriod": _SECOND}
        body: dict[str, Any] = {
            "Name": self.name,
            "Labels": {_LABEL: self.spec.id},
            "TaskTemplate": {
                "ContainerSpec": container,
                "RestartPolicy": {"Condition": "any", "Delay": _SECOND // 5},
                "Placement": {},
                "Resources": {},
            },
            "Mode": {"Replicated": {"Replicas": self.replicas}},
            "UpdateConfig": dict(_QUICK),
            # A way back that stops at the first task that is late would be a fault of its own.
            "RollbackConfig": {**_QUICK, "FailureAction": "continue"},
        }
        self.shape(api, body)
        answer = api.post(
            f"{api.base_url}/v{api.api_version}/services/create", json=body, timeout=api.timeout
        )
        api._raise_for_status(answer)  # noqa: SLF001 - as in send
