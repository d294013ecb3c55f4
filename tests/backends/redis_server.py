"""Redis on loopback, nothing on disk."""

import socket
from pathlib import Path

from backends.base import Backend, Need, about, require_command
from backends.processes import Server, free_port, version_of


class Redis(Backend):
    """A redis-server of its own; tests flush it as they like."""

    name = "redis"
    fixture = "redis_url"
    needs = (Need("redis-server", "redis-server"),)
    variables = ("ONCALL_TEST_REDIS_URL",)

    def __init__(self) -> None:
        self._server: Server | None = None

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start it; ready when it answers PONG."""
        port = free_port()
        program = require_command("redis-server")
        argv = [program, "--port", str(port), "--bind", "127.0.0.1"]
        argv += ["--dir", str(folder), "--save", "", "--appendonly", "no"]
        argv += [
            "--maxmemory",
            "64mb",
            "--maxmemory-policy",
            "allkeys-lru",
            "--enable-debug-command",
            "local",
        ]
        self._server = Server("redis", argv, folder=folder)
        self._server.start(lambda: answers_ping(port))
        url = f"redis://127.0.0.1:{port}/0"
        return {"ONCALL_TEST_REDIS_URL": url, **about(self.name, version_of(program))}

    def stop(self) -> None:
        """Stop it."""
        if self._server is not None:
            self._server.stop()


def answers_ping(port: int) -> bool:
    """True when a Redis answers PONG on this loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
