"""A Docker Swarm of two nodes with a registry of its own, apart from the engine of the other docker tests."""

import contextlib
import os
import secrets
from pathlib import Path

from backends import tiny_image
from backends.base import Backend, MissingBackendError, Need, about, require_command
from backends.docker_engine import remove_containers
from backends.engine_api import Engine, EngineError
from backends.processes import Server, accepts_connections
from backends.swarm_node import PORT, Island, NodeEngine

REGISTRY_PORT = 5000
HEARTBEAT_SECONDS = 1.0
REPOSITORY = "oncall-test/tiny"
REGISTRY_CONFIG = """version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: {address}}}
"""


class Swarm(Backend):
    """One manager and one worker; a node that stays silent counts as down after three seconds."""

    name = "swarm"
    fixture = "swarm_host"
    needs = (
        Need("docker.io", "dockerd"),
        Need("docker-registry", "docker-registry"),
        Need("iproute2", "ip"),
        tiny_image.NEED,
    )
    variables = (
        "ONCALL_TEST_SWARM_HOST",
        "ONCALL_TEST_SWARM_WORKER_HOST",
        "ONCALL_TEST_SWARM_IMAGE",
        "ONCALL_TEST_SWARM_IMAGE_2",
        "ONCALL_TEST_SWARM_BRIDGE",
        "ONCALL_TEST_SWARM_NETWORK",
    )

    def __init__(self) -> None:
        self._island: Island | None = None
        self._registry: Server | None = None
        self._nodes: list[NodeEngine] = []

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start registry and engines, join them, and push the image under two digests."""
        if os.geteuid() != 0:
            raise MissingBackendError("engines in namespaces of their own need root")
        self._island = Island.make()
        self._start_registry(folder / "registry", self._island.own_address)
        self._nodes = [NodeEngine(folder / f"node{number}", self._island, number) for number in (1, 2)]
        manager, worker = (node.start() for node in self._nodes)
        try:
            images = _push(manager, f"{self._island.own_address}:{REGISTRY_PORT}/{REPOSITORY}")
            _join(self._nodes[0], self._nodes[1])
        except EngineError as error:
            raise MissingBackendError(f"making the swarm: {error}") from error
        return {
            "ONCALL_TEST_SWARM_HOST": manager.host,
            "ONCALL_TEST_SWARM_WORKER_HOST": worker.host,
            "ONCALL_TEST_SWARM_IMAGE": images[0],
            "ONCALL_TEST_SWARM_IMAGE_2": images[1],
            "ONCALL_TEST_SWARM_BRIDGE": self._island.bridge,
            "ONCALL_TEST_SWARM_NETWORK": self._island.network,
            **about(self.name, f"{manager.version()}, two nodes"),
        }

    def stop(self) -> None:
        """Stop the nodes, the registry and the bridge."""
        if self._nodes and self._nodes[0].engine.version() is not None:
            with contextlib.suppress(EngineError):  # a swarm that lost its majority removes nothing
                self._nodes[0].engine.remove_services()
        for node in reversed(self._nodes):
            node.stop()
        if self._registry is not None:
            self._registry.stop()
        if self._island is not None:
            self._island.remove()

    def _start_registry(self, folder: Path, address: str) -> None:
        folder.mkdir(parents=True)
        config = folder / "config.yml"
        config.write_text(
            REGISTRY_CONFIG.format(folder=folder / "images", address=f"{address}:{REGISTRY_PORT}")
        )
        environ = {"REGISTRY_HTTP_SECRET": secrets.token_hex(16), "OTEL_TRACES_EXPORTER": "none"}
        argv = [require_command("docker-registry"), "serve", str(config)]
        self._registry = Server("docker-registry", argv, folder=folder, env=environ)
        self._registry.start(lambda: accepts_connections(REGISTRY_PORT, address))


def _push(engine: Engine, repository: str) -> tuple[str, str]:
    """The references, with digest, of one image in two variants."""
    engine.import_image(tiny_image.archive(), repository, "1", [*tiny_image.CHANGES, "LABEL variant=1"])
    engine.derive_image(f"{repository}:1", repository, "2", "LABEL variant=2")
    first, second = (f"{repository}:{tag}@{engine.push(repository, tag)}" for tag in ("1", "2"))
    remove_containers(engine, None)
    return first, second


def _join(manager: NodeEngine, worker: NodeEngine) -> None:
    address = f"{manager.address}:{PORT}"
    token = manager.engine.swarm_init(address, HEARTBEAT_SECONDS)
    worker.engine.swarm_join(f"{worker.address}:{PORT}", address, token)
