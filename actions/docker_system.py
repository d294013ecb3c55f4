"""The Docker engine as a system: what it is, what we may do there, the least that we need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

from actions.docker_drills import DRILLS
from actions.docker_engine import Api, Engine
from actions.docker_proxy import Needs, Rule, nginx_rules, privileges
from actions.docker_rules import ALWAYS, EXCESS, NEEDS
from actions.docker_time import seconds_of
from oncall_agent.contract import Grants, Inspection, Privilege, System, SystemContext
from oncall_agent.models import JsonObject

SOCKET = "/var/run/docker.sock"
_OLDEST_API = (1, 40)
_AS_ROOT = (
    "docker.recreate_with_image needs to create containers, and whoever may do that can become root on the "
    "host: leave that action out where this is too much."
)


class EngineSystem(System):
    """What the systems on a Docker engine share; the tables of rules make the difference."""

    needs: ClassVar[Needs]
    always: ClassVar[Sequence[Rule]]
    excess: ClassVar[Sequence[Rule]]

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.engine = self.opened(settings)

    async def __aexit__(self, *_: object) -> None:
        self.engine.close()

    def opened(self, settings: JsonObject) -> Engine:
        """Give the client of the engine that the settings name."""
        return Engine(settings)

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Read version, clock and privileges; no question that is asked changes anything."""

        def look(api: Api) -> tuple[dict[str, Any], dict[str, Any], tuple[Privilege, ...]]:
            asked = privileges(api, actions, self.needs, self.always, self.excess)
            return api.version(), api.info(), asked

        version, info, held = await self.engine.ask(ctx.run_blocking, ctx.seconds_left, look)
        return Inspection(
            product=self.product(version, info),
            version=str(version.get("Version", "")),
            unsupported=self.unsupported(version, info),
            identity=f"user id {os.geteuid()} at {self.engine.settings.host}",
            server_time=seconds_of(str(info.get("SystemTime", ""))) or None,
            privileges=held,
        )

    def product(self, version: JsonObject, info: JsonObject) -> str:
        """Name what answers."""
        names = [str(part.get("Name", "")) for part in version.get("Components") or []]
        other = next((name for name in names if "podman" in name.lower()), "")
        return f"Docker-compatible ({other})" if other else "Docker Engine"

    def unsupported(self, version: JsonObject, info: JsonObject) -> str:
        """Say why this engine is not supported, or give an empty text."""
        found = str(version.get("ApiVersion", "0.0"))
        parts = tuple(int(part) for part in found.split(".") if part.isdecimal())
        return "" if parts >= _OLDEST_API else f"its API is {found}, 1.40 or later is needed"

    def upstream(self) -> str:
        """Give the engine's own socket."""
        host = self.engine.settings.host
        is_own = host.startswith("unix://") and "oncall-agent" not in host
        return host.removeprefix("unix://") if is_own else SOCKET


class DockerSystem(EngineSystem):
    """One engine and its containers."""

    name = "docker"
    drills = DRILLS
    needs, always, excess = NEEDS, ALWAYS, EXCESS

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the rules of a socket proxy for these actions."""
        warning = _AS_ROOT if "docker.recreate_with_image" in actions else ""
        return nginx_rules(
            actions, NEEDS, ALWAYS, system=self.name, upstream=self.upstream(), warning=warning
        )
