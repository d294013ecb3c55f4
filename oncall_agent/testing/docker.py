"""A Docker engine in memory, at the border of the library docker: it stands where `docker.APIClient` stands.

Needs the library itself only to raise its own errors.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from oncall_agent.contract import Clock

_HOLD_SECONDS = 5.0
_GIB = 1_073_741_824


@dataclass
class FakeContainer:
    """One container; set its fields to make it sick.

    Attributes:
        health: word of its health check; None without one.
        heals: whether a start makes it healthy again.
    """

    name: str
    image: str = "sha256:" + "1" * 64
    status: str = "running"
    health: str | None = "healthy"
    heals: bool = True
    oom_killed: bool = False
    exit_code: int = 0
    restart_count: int = 0
    memory: int = 104_857_600
    nano_cpus: int = 0
    policy: str = "no"
    labels: dict[str, str] = field(default_factory=dict)
    env: list[str] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    id: str = ""
    started_at: float = 0.0
    swap: int = 0


class FakeDocker:
    """Call it like the class `docker.APIClient`; `calls` holds what changed something, in order.

    Attributes:
        images: reference or id -> id.
        hold: while cleared, the engine does not answer (at most 5 s).
        is_down: connecting fails.
    """

    base_url, api_version, timeout = "http+fake://engine", "1.41", 10

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.containers_by_name: dict[str, FakeContainer] = {}
        self.images: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.is_down = False
        self.memory_total = 8 * _GIB
        self._events: list[tuple[float, str, str]] = []
        self._count = 0

    def __call__(self, **_settings: Any) -> FakeDocker:
        """Give itself, as the class would give a client."""
        return self

    def add(self, container: FakeContainer) -> FakeContainer:
        """Put a container into the engine, started now."""
        self._count += 1
        container.id = container.id or f"{self._count:064x}"
        container.started_at = container.started_at or self.clock.now()
        container.swap = container.swap or container.memory * 2
        self.containers_by_name[container.name] = container
        self.images.setdefault(container.image, container.image)
        return container

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def version(self) -> dict[str, Any]:
        """Give a version."""
        self._answer()
        return {"Version": "0-fake"}

    def info(self) -> dict[str, Any]:
        """Give the host's size."""
        return {"MemTotal": self.memory_total, "NCPU": 2}

    def containers(self, *, all: bool = False, filters: dict[str, str] | None = None) -> list[dict[str, Any]]:  # noqa: A002
        """List containers."""
        self._answer()
        part = (filters or {}).get("name", "")
        shown = [
            one
            for one in self.containers_by_name.values()
            if part in one.name and (all or one.status == "running")
        ]
        return [{"Id": one.id, "Names": [f"/{one.name}"], "State": one.status} for one in shown]

    def inspect_container(self, name: str) -> dict[str, Any]:
        """Give all that is known of a container."""
        self._answer()
        return copy.deepcopy(_inspected(self._find(name)))

    def inspect_image(self, reference: str) -> dict[str, Any]:
        """Give an image that is on the host."""
        self._answer()
        if reference not in self.images:
            raise not_found("image")
        return {"Id": self.images[reference], "Config": {"Env": ["PATH=/bin"], "Labels": None}}

    def logs(self, name: str, **_more: Any) -> bytes:
        """Give two lines."""
        self._find(name)
        return b"started\nserving\n"

    def top(self, name: str) -> dict[str, Any]:
        """Give one process."""
        self._find(name)
        return {"Processes": [["1", "sleep"]]}

    def stats(self, name: str, **_more: Any) -> dict[str, Any]:
        """Give half of the memory, and CPU that grows with time by a quarter."""
        one, passed = self._find(name), self.clock.monotonic()
        cpu = {"cpu_usage": {"total_usage": passed * 0.25}, "system_cpu_usage": passed}
        memory = {"usage": one.memory // 2, "limit": one.memory, "stats": {"total_inactive_file": 0}}
        return {"cpu_stats": cpu, "memory_stats": memory}

    def events(
        self, *, since: str, until: str, filters: dict[str, str], decode: bool
    ) -> Iterator[dict[str, Any]]:
        """Give what happened to a container."""
        self._answer()
        wanted = self._find(filters["container"]).id
        found = [
            at
            for at, kind, who in self._events
            if kind == filters["event"] and who == wanted and at >= float(since)
        ]
        return iter([{"timeNano": int(at * 1e9)} for at in found])

    def restart(self, name: str, timeout: int = 10) -> None:
        """Stop and start."""
        self._change("restart", name, self._started)

    def start(self, name: str) -> None:
        """Start."""
        self._change("start", name, self._started)

    def stop(self, name: str, timeout: int = 10) -> None:
        """Stop."""
        self._change("stop", name, lambda one: setattr(one, "status", "exited"))

    def pause(self, name: str) -> None:
        """Pause."""
        self._change("pause", name, lambda one: setattr(one, "status", "paused"))

    def unpause(self, name: str) -> None:
        """Unpause."""
        self._change("unpause", name, lambda one: setattr(one, "status", "running"))

    def rename(self, name: str, new_name: str) -> None:
        """Give another name."""

        def renamed(one: FakeContainer) -> None:
            if new_name in self.containers_by_name:
                raise conflict(f"the name {new_name} is taken")
            self.containers_by_name[new_name] = self.containers_by_name.pop(one.name)
            one.name = new_name

        self._change("rename", name, renamed)

    def remove_container(self, name: str, force: bool = False) -> None:
        """Remove."""

        def removed(one: FakeContainer) -> None:
            if one.status == "running" and not force:
                raise conflict("the container runs")
            del self.containers_by_name[one.name]

        self._change("remove", name, removed)

    def create_container_from_config(self, config: dict[str, Any], name: str) -> dict[str, Any]:
        """Create, not started."""
        self._answer()
        if name in self.containers_by_name:
            raise conflict(f"the name {name} is taken")
        host = config["HostConfig"]
        one = FakeContainer(
            name, image=config["Image"], status="created", health="healthy", memory=host["Memory"]
        )
        one.labels, one.env = dict(config["Labels"]), list(config["Env"])
        one.policy, one.swap = host["RestartPolicy"]["Name"], host["MemorySwap"]
        self.calls.append(("create", name))
        return {"Id": self.add(one).id}

    def connect_container_to_network(self, name: str, network: str, **_more: Any) -> None:
        """Note it."""
        self._change(f"connect {network}", name, lambda _one: None)

    def post(self, url: str, *, json: dict[str, Any], timeout: float) -> None:
        """Take the one request that the library has no method for: update."""
        name = url.rpartition("/containers/")[2].removesuffix("/update")
        self._change("update", name, lambda one: _updated(one, json))

    def _raise_for_status(self, answer: None) -> None:
        """Do nothing: errors were raised already."""

    def _started(self, one: FakeContainer) -> None:
        one.status, one.oom_killed, one.exit_code, one.restart_count = "running", False, 0, 0
        # Two starts never have one time, even when the virtual clock stands still.
        one.started_at = max(self.clock.now(), one.started_at) + 0.001
        if one.heals and one.health is not None:
            one.health = "healthy"
        self._note("start", one)

    def _note(self, kind: str, one: FakeContainer) -> None:
        self._events.append((max(self.clock.now(), one.started_at) + 0.001, kind, one.id))
        del self._events[:-1_000]

    def _change(self, verb: str, name: str, change: Callable[[FakeContainer], None]) -> None:
        self._answer()
        one = self._find(name)
        self.calls.append((verb, one.name))
        change(one)
        if verb == "update":
            self._note(verb, one)

    def _find(self, name: str) -> FakeContainer:
        for one in self.containers_by_name.values():
            if name in (one.name, one.id):
                return one
        raise not_found("container")

    def _answer(self) -> None:
        self.hold.wait(_HOLD_SECONDS)
        if self.is_down:
            raise ConnectionError("connection refused")


def _updated(one: FakeContainer, limits: dict[str, Any]) -> None:
    one.memory = limits.get("Memory", one.memory)
    one.swap = limits.get("MemorySwap", one.swap)
    one.nano_cpus = limits.get("NanoCpus", one.nano_cpus)
    one.policy = limits.get("RestartPolicy", {"Name": one.policy})["Name"]


def _inspected(one: FakeContainer) -> dict[str, Any]:
    state: dict[str, Any] = {
        "Status": one.status,
        "Running": one.status == "running",
        "OOMKilled": one.oom_killed,
        "ExitCode": one.exit_code,
        "StartedAt": datetime.fromtimestamp(one.started_at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    if one.health is not None:
        state["Health"] = {"Status": one.health if one.status == "running" else "unhealthy"}
    host = {"Memory": one.memory, "MemorySwap": one.swap, "NanoCpus": one.nano_cpus, "NetworkMode": "none"}
    return {
        "Id": one.id,
        "Name": f"/{one.name}",
        "Image": one.image,
        "State": state,
        "RestartCount": one.restart_count,
        "Mounts": one.mounts,
        "Config": {"Labels": one.labels, "Env": one.env, "Hostname": one.id[:12]},
        "HostConfig": {**host, "RestartPolicy": {"Name": one.policy, "MaximumRetryCount": 0}},
    }


def not_found(what: str) -> Exception:
    """Give the library's own error for something that is not there."""
    return _error("NotFound", 404, f"No such {what}")


def conflict(text: str) -> Exception:
    """Give the library's own error for something that does not fit."""
    return _error("APIError", 409, text)


def _error(kind: str, status: int, text: str) -> Exception:
    import docker.errors  # noqa: PLC0415 - the rest of the fakes works without the library
    import requests  # noqa: PLC0415

    answer = requests.Response()
    answer.status_code = status
    error: Exception = getattr(docker.errors, kind)(text, response=answer, explanation=text)
    return error
