"""Which calls to a manager each swarm action makes. Pure tables."""

from __future__ import annotations

from collections.abc import Mapping

from actions.docker_proxy import BAD_FILTERS, NAME, NOBODY, Rule
from actions.docker_rules import CREATE, IMAGE, PULL, REGISTRY, REMOVE
from actions.docker_rules import EXCESS as ENGINE_EXCESS

SERVICES = Rule("service list", "GET", "/services", "/services", BAD_FILTERS)
SERVICE = Rule("service inspect", "GET", f"/services/{NAME}", f"/services/{NOBODY}")
LOGS = Rule("service logs", "GET", f"/services/{NAME}/logs", f"/services/{NOBODY}/logs")
TASKS = Rule("task list", "GET", "/tasks", "/tasks", BAD_FILTERS)
NODES = Rule("node list", "GET", "/nodes", "/nodes", BAD_FILTERS)
# Without a version the manager refuses the call before it looks at anything else.
UPDATE = Rule(
    "service update",
    "POST",
    f"/services/{NAME}/update",
    f"/services/{NOBODY}/update",
    {"version": "none"},
    {},
)
UPDATE_NODE = Rule(
    "node update", "POST", f"/nodes/{NAME}/update", f"/nodes/{NOBODY}/update", {"version": "none"}, {}
)
REMOVE_NODE = Rule("node remove", "DELETE", f"/nodes/{NAME}", f"/nodes/{NOBODY}")

_SERVICE = (SERVICE, TASKS, NODES, LOGS, UPDATE)
_NODE = (SERVICES, TASKS, NODES)
NEEDS: Mapping[str, tuple[Rule, ...]] = {
    "swarm.activate_node": (*_NODE, UPDATE_NODE),
    "swarm.drain_node": (*_NODE, UPDATE_NODE),
    "swarm.force_update_service": _SERVICE,
    "swarm.remove_dead_node": (*_NODE, UPDATE_NODE, REMOVE_NODE),
    "swarm.rollback_service": _SERVICE,
    "swarm.scale_service": _SERVICE,
    "swarm.set_limits_or_image": (*_SERVICE, IMAGE, REGISTRY),
}
"""Action -> the calls that it and its diagnostics make."""

EXCESS = (
    *(rule for rule in ENGINE_EXCESS if rule.name != "swarm node remove"),
    CREATE,
    PULL,
    REMOVE,
    Rule("service create", "POST", "/services/create", "/services/create", body={}),
    Rule("service remove", "DELETE", f"/services/{NAME}", f"/services/{NOBODY}"),
    Rule("swarm inspect", "GET", "/swarm", "/swarm"),
    Rule("swarm update", "POST", "/swarm/update", "/swarm/update", {"version": "none"}, {}),
)
"""Calls that no action makes: whoever may make them may do too much."""
