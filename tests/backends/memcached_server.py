"""Two memcached nodes of one pool on loopback."""

import os
import pwd
import signal
import socket
from pathlib import Path

from backends.base import Backend, Need, about, require_command
from backends.processes import Server, free_port, version_of

NEED = Need("memcached", "memcached")


class MemcachedNode:
    """One memcached process that writes every command to its log."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.port = port or free_port()
        user = pwd.getpwuid(os.geteuid()).pw_name  # The tests' folders are closed to others.
        argv = [require_command("memcached"), "-u", user, "-l", "127.0.0.1", "-p", str(self.port)]
        self._server = Server(
            "memcached", [*argv, "-U", "0", "-vv", *options], folder=folder / str(self.port)
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._server.pid

    def start(self) -> "MemcachedNode":
        """Start it; ready when it says its version."""
        self._server.start(lambda: answers_version(self.port))
        return self

    def log(self) -> str:
        """Every command that it was sent since its start."""
        return self._server.log_path.read_text(errors="replace")

    def stop(self) -> None:
        """Stop it at once: asked politely it takes up to a second, and it has nothing to keep."""
        if not self._server.has_ended():
            os.kill(self._server.pid, signal.SIGKILL)
        self._server.stop(timeout_seconds=2.0)


class Memcached(Backend):
    """A pool of two nodes; tests that change a whole node start their own."""

    name = "memcached"
    fixture = "memcached_ports"
    needs = (NEED,)
    variables = ("ONCALL_TEST_MEMCACHED_PORTS",)

    def __init__(self) -> None:
        self._nodes: list[MemcachedNode] = []

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start both."""
        for _ in range(2):
            self._nodes.append(MemcachedNode(folder).start())
        ports = ",".join(str(node.port) for node in self._nodes)
        version = version_of(require_command("memcached"))
        return {"ONCALL_TEST_MEMCACHED_PORTS": ports, **about(self.name, f"{version}, two nodes")}

    def stop(self) -> None:
        """Stop them."""
        for node in self._nodes:
            node.stop()


def answers_version(port: int) -> bool:
    """True when a memcached says something on this loopback port; one with passwords says that it wants one."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"version\r\n")
            return connection.recv(16).startswith((b"VERSION", b"CLIENT_ERROR"))
    except OSError:
        return False
