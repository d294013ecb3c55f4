"""Docker Swarm as a system: what it is, what we may do there, the least that we need."""

from __future__ import annotations

from collections.abc import Sequence

from actions.docker_engine import Engine
from actions.docker_proxy import nginx_rules
from actions.docker_rules import ALWAYS
from actions.docker_system import EngineSystem
from actions.swarm_drills import DRILLS
from actions.swarm_engine import SwarmSettings, engine_for
from actions.swarm_rules import EXCESS, NEEDS
from oncall_agent.contract import Grants
from oncall_agent.models import JsonObject

_WARNING = (
    "Whoever may update a service can run any image with any mount on the nodes: the proxy can't look into the "
    "specification, so keep the agent's access to it as close as that of an administrator."
)
_UPDATING = (
    "swarm.force_update_service",
    "swarm.rollback_service",
    "swarm.scale_service",
    "swarm.set_limits_or_image",
)


class SwarmSystem(EngineSystem):
    """One swarm, by one of its managers."""

    name = "swarm"
    drills = DRILLS
    needs, always, excess = NEEDS, ALWAYS, EXCESS

    def opened(self, settings: JsonObject) -> Engine:
        """Give the client of the manager."""
        return engine_for(SwarmSettings.model_validate(dict(settings)))

    def product(self, version: JsonObject, info: JsonObject) -> str:
        """Name what answers, with the nodes that it leads."""
        swarm = info.get("Swarm") or {}
        return f"Docker Swarm ({swarm.get('Managers', 0)} managers of {swarm.get('Nodes', 0)} nodes)"

    def unsupported(self, version: JsonObject, info: JsonObject) -> str:
        """Say that the engine leads no swarm."""
        if not (info.get("Swarm") or {}).get("ControlAvailable"):
            return "the engine is no manager of a swarm"
        return super().unsupported(version, info)

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the rules of a socket proxy for these actions."""
        warning = _WARNING if set(actions) & set(_UPDATING) else ""
        return nginx_rules(
            actions, NEEDS, ALWAYS, system=self.name, upstream=self.upstream(), warning=warning
        )
