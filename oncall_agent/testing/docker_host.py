"""The engine in memory, with what concerns the whole host: networks, unused images, the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import statvfs_result
from typing import Any

from oncall_agent.contract import Clock
from oncall_agent.testing.docker import FakeContainer, FakeDocker

_MIB = 1_048_576


@dataclass
class FakeImage:
    """An image that no container uses."""

    name: str
    size: int = 100 * _MIB
    created_at: float = 0.0
    labels: dict[str, str] = field(default_factory=dict)


class FakeDockerHost(FakeDocker):
    """A `FakeDocker` on a disk of 1000 MiB; put `statvfs` where `os.statvfs` stands.

    Attributes:
        networks: container's name -> its networks.
        unused: images by name.
        other_mib: what else lies on the disk.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.networks: dict[str, dict[str, dict[str, Any]]] = {}
        self.unused: dict[str, FakeImage] = {}
        self.other_mib = 800

    def info(self) -> dict[str, Any]:
        """Give the host's size and where the engine keeps its own."""
        self._answer()
        return {**super().info(), "DockerRootDir": "/"}

    def statvfs(self, path: str) -> statvfs_result:
        """Measure the disk: blocks of one MiB."""
        used = self.other_mib + sum(image.size for image in self.unused.values()) // _MIB
        free = 1_000 - used
        return statvfs_result((_MIB, _MIB, 1_000, free, free, 0, 0, 0, 0, 255))

    def containers(self, *, all: bool = False, filters: dict[str, Any] | None = None) -> list[dict[str, Any]]:  # noqa: A002
        """List containers, also by label."""
        labels = [one.split("=", 1) for one in (filters or {}).get("label", [])]
        listed = super().containers(all=all, filters={"name": (filters or {}).get("name", "")})
        return [one for one in listed if all_match(self._find(one["Id"]), labels)]

    def inspect_container(self, name: str) -> dict[str, Any]:
        """Give a container with its networks."""
        found = super().inspect_container(name)
        networks = self.networks.get(found["Name"].lstrip("/"), {})
        host = {**found["HostConfig"], "NetworkMode": next(iter(networks), "none")}
        return {**found, "HostConfig": host, "NetworkSettings": {"Networks": dict(networks)}}

    def disconnect_container_from_network(self, container: str, network: str) -> None:
        """Disconnect."""

        def disconnected(one: FakeContainer) -> None:
            del self.networks[one.name][network]

        self._change("disconnect", container, disconnected)

    def connect_container_to_network(self, name: str, network: str, **settings: Any) -> None:
        """Connect."""
        end = {"Aliases": settings.get("aliases")}
        self._change(
            "connect", name, lambda one: self.networks.setdefault(one.name, {}).update({network: end})
        )

    def df(self) -> dict[str, Any]:
        """List what lies on the disk."""
        self._answer()
        images = [
            {
                "Id": name,
                "RepoTags": [name],
                "Containers": 0,
                "Size": image.size,
                "SharedSize": 0,
                "Created": image.created_at,
                "Labels": image.labels,
            }
            for name, image in self.unused.items()
        ]
        return {"Images": images, "Containers": [], "BuildCache": [], "Volumes": []}

    def remove_image(self, name: str, *, force: bool) -> None:
        """Remove an image that no container uses."""
        self._answer()
        del self.unused[name]
        self.calls.append(("remove image", name))
        self.removed_at = self.clock.now()

    removed_at: float = 0.0

    def events(
        self, *, since: str, until: str, filters: dict[str, str] | None = None, decode: bool
    ) -> Iterator[dict[str, Any]]:
        """Give what happened to a container, or the removals on the whole host."""
        if filters is not None:
            return super().events(since=since, until=until, filters=filters, decode=decode)
        self._answer()
        is_within = self.removed_at and self.removed_at >= float(since)
        found = [{"Type": "image", "Action": "delete", "Actor": {"ID": "x"}}] if is_within else []
        return iter(found)


def all_match(container: FakeContainer, labels: list[list[str]]) -> bool:
    """Say whether a container carries all of these labels."""
    return all(container.labels.get(key) == value for key, value in labels)
