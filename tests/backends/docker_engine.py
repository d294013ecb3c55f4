"""A Docker engine: the one that answers on the default socket, else a private one on its own bridge.

The private engine never touches docker0, the firewall or /var/lib/docker, so it leaves no trace.
"""

import contextlib
import fcntl
import ipaddress
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from backends import compose, image_archive, images
from backends.base import Backend, MissingBackendError, Need, about, find_command, require_command
from backends.engine_api import Engine, EngineError
from backends.processes import Server, run_quietly

DEFAULT_HOST = "unix:///var/run/docker.sock"
RUN_LABEL = "oncall-agent.test.run"
ADDRESS_POOL = ipaddress.IPv4Network("172.29.0.0/16")
NETWORK_LOCK = Path("/run/oncall-test-networks.lock")
POOL_DISTANCE = 1 << 16  # networks of tests lie in 172.30.0.0/16, beside the bridges of 172.29.0.0/16


class Docker(Backend):
    """A real engine with the tests' images loaded."""

    name = "docker"
    fixture = "docker_host"
    needs = (
        Need("docker.io", "dockerd"),
        Need("mmdebstrap", "mmdebstrap"),
        Need("iproute2", "ip"),
    )
    variables = (
        "ONCALL_TEST_DOCKER_HOST",
        "ONCALL_TEST_DOCKER_IMAGE",
        "ONCALL_TEST_DOCKER_IMAGE_2",
        "ONCALL_TEST_DOCKER_RUN",
    )

    def __init__(self) -> None:
        self.run_id = secrets.token_hex(4)
        self._private: PrivateEngine | None = None
        self._engine: Engine | None = None

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Reuse the running engine or start one, and load the images into it."""
        self._engine = Engine(DEFAULT_HOST)
        is_running = self._engine.version() is not None
        if not is_running and os.geteuid() != 0:
            raise MissingBackendError("no engine answers on the default socket, and starting one needs root")
        archive = _image_archive(cache, is_running=is_running)
        if not is_running:
            self._private = PrivateEngine(folder)
            self._engine = self._private.start()
        try:
            images.load(self._engine, archive)
        except EngineError as error:
            raise MissingBackendError(f"loading the test images: {error}") from error
        return self._variables(self._engine)

    def _variables(self, engine: Engine) -> dict[str, str]:
        whose = "own engine" if self._private else "running engine"
        return {
            "ONCALL_TEST_DOCKER_HOST": engine.host,
            "ONCALL_TEST_DOCKER_IMAGE": images.FIRST,
            "ONCALL_TEST_DOCKER_IMAGE_2": images.SECOND,
            "ONCALL_TEST_DOCKER_RUN": self.run_id,
            **about(self.name, f"{engine.version()}, {whose}"),
        }

    def stop(self) -> None:
        """Remove the run's containers; stop the engine if it is ours."""
        label = None if self._private else f"{RUN_LABEL}={self.run_id}"
        if self._engine is not None and self._engine.version() is not None:
            remove_containers(self._engine, label)
        if self._private is not None:
            self._private.stop()


class PrivateEngine:
    """One dockerd with its own socket, data, bridge and address range; root only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bridge = f"octest{secrets.token_hex(3)}"
        self._server: Server | None = None

    def start(self) -> Engine:
        """Start it and wait until it answers."""
        dockerd = require_command("dockerd")
        network = self._add_bridge()
        socket_path = self._folder / "docker.sock"
        argv = [dockerd, "--data-root", str(self._folder / "root"), "--exec-root", str(self._folder / "exec")]
        argv += ["-H", f"unix://{socket_path}", "-p", str(self._folder / "docker.pid")]
        argv += [f"--bridge={self._bridge}", "--iptables=false", "--ip-masq=false", "--ip-forward=false"]
        argv += ["--default-address-pool", f"base={network},size=28"]
        engine = Engine(f"unix://{socket_path}")
        self._server = Server("dockerd", argv, folder=self._folder, env={"DOCKER_HOST": ""})
        self._server.start(lambda: engine.version() is not None, timeout_seconds=60.0)
        return engine

    def stop(self) -> None:
        """Stop it, then undo mounts, data and bridge."""
        if self._server is not None:
            self._server.stop(timeout_seconds=30.0)
        remove_with_mounts(self._folder)
        ip = find_command("ip")
        if ip is not None:
            subprocess.run([ip, "link", "delete", self._bridge], check=False, capture_output=True)

    def _add_bridge(self) -> ipaddress.IPv4Network:
        """Make the bridge; returns the range for networks that tests create."""
        ip = require_command("ip")
        with choosing_network():
            network = free_network(ip, ADDRESS_POOL)
            run_quietly([ip, "link", "add", self._bridge, "type", "bridge"])
            run_quietly([ip, "address", "add", f"{network.network_address + 1}/24", "dev", self._bridge])
        run_quietly([ip, "link", "set", self._bridge, "up"])
        return ipaddress.IPv4Network((int(network.network_address) + POOL_DISTANCE, 24))


def _image_archive(cache: Path, *, is_running: bool) -> Path | None:
    """The image's archive; None when the running engine has built the image itself."""
    if is_running and find_command("mmdebstrap") is None:
        compose.build_image()
        return None
    return image_archive.build_archive(cache)


def remove_containers(engine: Engine, label: str | None) -> None:
    """Remove all containers, or those with the label, running or not."""
    for container in engine.containers(label):
        with contextlib.suppress(EngineError):  # another removal of it may be under way
            engine.remove_container(container)


@contextlib.contextmanager
def choosing_network() -> Iterator[None]:
    """One at a time looks for a free network and takes it, also among runs side by side."""
    with NETWORK_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_network(ip: str, pool: ipaddress.IPv4Network) -> ipaddress.IPv4Network:
    """A /24 of the pool that no interface of this machine uses."""
    links = json.loads(run_quietly([ip, "-json", "address"]) or "[]")
    used = [
        ipaddress.ip_interface(f"{address['local']}/{address['prefixlen']}").network
        for link in links
        for address in link.get("addr_info", [])
        if address.get("family") == "inet"
    ]
    for network in pool.subnets(new_prefix=24):
        if not any(network.overlaps(other) for other in used):
            return network
    raise MissingBackendError(f"no free network in {pool}")


def remove_with_mounts(folder: Path) -> None:
    """Unmount whatever is mounted below the folder, and remove it."""
    for mount in _mounts_below(folder):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def _mounts_below(folder: Path) -> list[str]:
    """Mount points under the folder, deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{folder}/")), key=len, reverse=True)
