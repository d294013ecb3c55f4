"""Engines in network namespaces of their own, so that several nodes of one swarm live on one machine.

Swarm's gossip port can't be chosen: two nodes in one namespace would fight over it. Nothing here touches
docker0, the firewall, or the machine's own addresses beyond one bridge.
"""

import contextlib
import ipaddress
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backends.base import find_command, require_command
from backends.docker_engine import choosing_network, free_network, remove_with_mounts
from backends.engine_api import Engine, EngineError
from backends.processes import Server, run_quietly, wait_until

POOL = ipaddress.IPv4Network("172.28.0.0/16")
PORT = 2377
INNER_BRIDGE = "10.213.0.1/24"
INNER_POOL = "base=10.214.0.0/16,size=24"


@dataclass(frozen=True)
class Island:
    """One bridge to which every node of a swarm is connected."""

    bridge: str
    network: str

    @classmethod
    def make(cls) -> Self:
        """Make the bridge on a network that nothing here uses; the machine has its last address."""
        ip = require_command("ip")
        with choosing_network():
            island = cls(f"ocsw{secrets.token_hex(3)}", str(free_network(ip, POOL)))
            run_quietly([ip, "link", "add", island.bridge, "type", "bridge"])
            run_quietly([ip, "address", "add", f"{island.own_address}/24", "dev", island.bridge])
        run_quietly([ip, "link", "set", island.bridge, "up"])
        return island

    @property
    def own_address(self) -> str:
        """Where the machine itself is reached from the nodes."""
        return str(ipaddress.IPv4Network(self.network)[254])

    def address(self, number: int) -> str:
        """The address of a node."""
        return str(ipaddress.IPv4Network(self.network)[number])

    def remove(self) -> None:
        """Remove the bridge."""
        _try([find_command("ip") or "ip", "link", "delete", self.bridge])


class NodeEngine:
    """One dockerd in a namespace of its own, with a host name of its own; root only."""

    def __init__(self, folder: Path, island: Island, number: int) -> None:
        self.address = island.address(number)
        self.name = f"{island.bridge}-n{number}"
        self.engine = Engine(f"unix://{folder}/docker.sock")
        self._folder, self._island = folder, island
        # An interface's name has at most 15 characters.
        self._link = f"{island.bridge}v{number}"
        self._server: Server | None = None

    def start(self) -> Engine:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._connect()
        dockerd, nsenter, unshare = map(require_command, ("dockerd", "nsenter", "unshare"))
        # Not `ip netns exec`: it mounts a /sys without the control groups.
        argv = [nsenter, f"--net=/run/netns/{self.name}", unshare, "--uts", "sh", "-c"]
        argv += ['hostname "$0" && exec "$@"', self.name, dockerd]
        argv += ["--data-root", str(self._folder / "root"), "--exec-root", str(self._folder / "exec")]
        argv += ["-H", self.engine.host, "-p", str(self._folder / "docker.pid")]
        argv += ["--iptables=false", "--ip-masq=false", "--ip-forward=false", "--bip", INNER_BRIDGE]
        argv += ["--default-address-pool", INNER_POOL, "--insecure-registry", self._island.network]
        self._server = Server("dockerd", argv, folder=self._folder, env={"DOCKER_HOST": ""})
        self._server.start(lambda: self.engine.version() is not None, timeout_seconds=60.0)
        return self.engine

    def kill(self) -> None:
        """Cut it off, as a machine that lost its power: the others hear nothing more of it."""
        _try([find_command("ip") or "ip", "link", "set", self._link, "down"])

    def revive(self) -> None:
        """Connect it again."""
        _try([find_command("ip") or "ip", "link", "set", self._link, "up"])

    def stop(self) -> None:
        """Stop it and remove its namespace and files; safe to call twice."""
        self._remove_containers()
        if self._server is not None:
            # Its containers are gone: what a node without a majority still waits for is of no use.
            self._server.stop(timeout_seconds=5.0)
        remove_with_mounts(self._folder)
        ip = find_command("ip") or "ip"
        _try([ip, "netns", "delete", self.name])
        _try([ip, "link", "delete", self._link])

    def _connect(self) -> None:
        ip = require_command("ip")
        inside = [ip, "-n", self.name]
        run_quietly([ip, "netns", "add", self.name])
        peer = ["peer", "name", "eth0", "netns", self.name]
        run_quietly([ip, "link", "add", self._link, "type", "veth", *peer])
        run_quietly([ip, "link", "set", self._link, "master", self._island.bridge, "up"])
        run_quietly([*inside, "link", "set", "lo", "up"])
        run_quietly([*inside, "address", "add", f"{self.address}/24", "dev", "eth0"])
        run_quietly([*inside, "link", "set", "eth0", "up"])
        run_quietly([*inside, "route", "add", "default", "via", self._island.own_address])

    def _remove_containers(self) -> None:
        """Else the engine waits for each of them to end by itself."""
        if self.engine.version() is None:
            return
        with contextlib.suppress(EngineError):
            wait_until(lambda: not self.engine.containers(None), timeout_seconds=0.5)
            for container in self.engine.containers(None):
                self.engine.remove_container(container)


def _try(argv: list[str]) -> None:
    subprocess.run(argv, check=False, capture_output=True)
