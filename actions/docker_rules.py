"""Which calls to the engine each docker action makes. Pure tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actions.docker_proxy import BAD_FILTERS, NAME, NOBODY, REFERENCE, Rule

_CONTAINER = f"/containers/{NAME}"


def _on_container(verb: str, method: str = "POST", body: Mapping[str, Any] | None = None) -> Rule:
    return Rule(
        f"container {verb}", method, f"{_CONTAINER}/{verb}", f"/containers/{NOBODY}/{verb}", body=body
    )


def _on_network(verb: str) -> Rule:
    path = f"/networks/{NAME}/{verb}"
    return Rule(f"network {verb}", "POST", path, f"/networks/{NOBODY}/{verb}", body={"Container": NOBODY})


VERSION = Rule("version", "GET", "/version", "/version")
PING = Rule("ping", "GET", "/_ping", "/_ping")
INFO = Rule("info", "GET", "/info", "/info")
EVENTS = Rule("events", "GET", "/events", "/events", BAD_FILTERS)
LIST = Rule("container list", "GET", "/containers/json", "/containers/json", BAD_FILTERS)
INSPECT = _on_container("json", "GET")
LOGS, TOP, STATS = _on_container("logs", "GET"), _on_container("top", "GET"), _on_container("stats", "GET")
START, STOP, RESTART = _on_container("start"), _on_container("stop"), _on_container("restart")
PAUSE, UNPAUSE, RENAME = _on_container("pause"), _on_container("unpause"), _on_container("rename")
UPDATE = _on_container("update", body={})
# Without force a running container stays; without v no volume goes.
REMOVE = Rule(
    "container remove",
    "DELETE",
    _CONTAINER,
    f"/containers/{NOBODY}",
    {"v": "False", "link": "False", "force": "False"},
    query="v=False&link=False&force=False",
)
REMOVE_RUNNING = Rule(
    "container remove by force",
    "DELETE",
    _CONTAINER,
    f"/containers/{NOBODY}",
    {"v": "False", "link": "False", "force": "True"},
    query="v=False&link=False&force=True",
)
CREATE = Rule("container create", "POST", "/containers/create", "/containers/create", body={})
IMAGE = Rule("image inspect", "GET", f"/images/{REFERENCE}/json", f"/images/{NOBODY}/json")
# An upper-case name is no repository: the engine asks no registry for it.
REGISTRY = Rule(
    "registry inspect", "GET", f"/distribution/{REFERENCE}/json", f"/distribution/{NOBODY.upper()}/json"
)
PULL = Rule("image pull", "POST", "/images/create", "/images/create", {"platform": "a/b/c/d"})
REMOVE_IMAGE = Rule(
    "image remove",
    "DELETE",
    f"/images/{REFERENCE}",
    f"/images/{NOBODY}",
    {"force": "False", "noprune": "False"},
    query="force=False&noprune=False",
)
USAGE = Rule("disk usage", "GET", "/system/df", "/system/df")
PRUNE_CACHE = Rule("build cache prune", "POST", "/build/prune", "/build/prune", BAD_FILTERS)
CONNECT, DISCONNECT = _on_network("connect"), _on_network("disconnect")

ALWAYS = (PING, VERSION, INFO)
READING = (INSPECT, LOGS, TOP, STATS, EVENTS)
NEEDS: Mapping[str, tuple[Rule, ...]] = {
    "docker.isolate_or_stop": (*READING, LIST, STOP, START, DISCONNECT, CONNECT),
    "docker.prune": (EVENTS, INSPECT, USAGE, REMOVE, REMOVE_IMAGE, PRUNE_CACHE),
    "docker.recreate_with_image": (
        *(*READING, LIST, IMAGE, REGISTRY, PULL, CREATE, STOP, START, UPDATE),
        *(RENAME, REMOVE, REMOVE_RUNNING, CONNECT),
    ),
    "docker.restart_container": (*READING, RESTART),
    "docker.start_or_unpause": (*READING, START, UNPAUSE, STOP, PAUSE),
    "docker.update_limits": (*READING, LIST, UPDATE, START, STOP),
}
"""Action -> the calls that it, its diagnostics and the prober make."""

EXCESS = (
    _on_container("exec", body={"Cmd": ["true"]}),
    _on_container("kill"),
    _on_container("archive", "GET"),
    Rule("container prune", "POST", "/containers/prune", "/containers/prune", BAD_FILTERS),
    Rule("volume remove", "DELETE", f"/volumes/{NAME}", f"/volumes/{NOBODY}"),
    Rule("volume prune", "POST", "/volumes/prune", "/volumes/prune", BAD_FILTERS),
    Rule("network remove", "DELETE", f"/networks/{NAME}", f"/networks/{NOBODY}"),
    Rule("build", "POST", "/build", "/build", {"version": "none"}),
    Rule("commit", "POST", "/commit", "/commit", {"container": NOBODY}, {}),
    Rule("swarm node remove", "DELETE", f"/nodes/{NAME}", f"/nodes/{NOBODY}"),
    Rule("swarm secret list", "GET", "/secrets", "/secrets", BAD_FILTERS),
)
"""Calls that no action makes: whoever may make them may do too much."""
