"""Redis servers of a test's own: sick ones, with a password, with a replica, watched by a sentinel."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from backends.base import require_command
from backends.processes import Server, free_port, wait_until
from backends.redis_server import answers_ping

PASSWORD = "s3cr3t-Redis-Zx81"
StartRedis = Callable[..., "RedisNode"]


class RedisNode:
    """One server process; `client` is an administrator's connection."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.port = port or free_port()
        self._options = options
        self.folder = folder / str(self.port)
        argv = [require_command("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        argv += [
            "--dir",
            str(self.folder),
            "--save",
            "",
            "--appendonly",
            "no",
            "--enable-debug-command",
            "local",
        ]
        argv += ["--repl-diskless-sync-delay", "0", "--busy-reply-threshold", "50", *options]
        self._server = Server("redis", argv, folder=self.folder)

    def start(self) -> "RedisNode":
        """Start it, also anew."""
        self._server.start(lambda: answers_ping(self.port))
        return self

    @property
    def client(self) -> redis.Redis:
        """A fresh connection of the user `default`."""
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=10.0)

    def freeze(self) -> None:
        """Stop the process where it is."""
        os.kill(self._server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._server.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process, as a crash would."""
        os.kill(self._server.pid, signal.SIGKILL)
        wait_until(self._server.has_ended, timeout_seconds=5.0)

    def stop(self) -> None:
        """Stop it, whatever state it is in."""
        if not self._server.has_ended():
            self.thaw()
        self._server.stop(timeout_seconds=5.0)


class Sentinel:
    """One sentinel that alone decides, and by itself never within a test's time."""

    def __init__(self, folder: Path, primary: int, *, quorum: int = 1) -> None:
        self.port = free_port()
        self.folder = folder / f"sentinel-{self.port}"
        self.folder.mkdir(parents=True)
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"sentinel monitor shop 127.0.0.1 {primary} {quorum}",
            "sentinel down-after-milliseconds shop 60000",
            "sentinel failover-timeout shop 10000",
        ]
        path = self.folder / "sentinel.conf"
        path.write_text("\n".join(lines) + "\n")
        self._server = Server(
            "sentinel", [require_command("redis-server"), str(path), "--sentinel"], folder=self.folder
        )

    def start(self) -> "Sentinel":
        """Start it and wait until it knows the primary's replica."""
        self._server.start(lambda: answers_ping(self.port))
        client = redis.Redis(port=self.port, decode_responses=True)
        wait_until(lambda: any(map(_is_promotable, client.sentinel_slaves("shop"))), timeout_seconds=15.0)
        client.close()
        return self

    def stop(self) -> None:
        """Stop it."""
        self._server.stop(timeout_seconds=5.0)


@pytest.fixture
def start_redis(redis_url: str, tmp_path: Path) -> Iterator[StartRedis]:
    """Starts servers with the given options and stops them after the test."""
    started: list[RedisNode] = []

    def start(*options: str) -> RedisNode:
        node = RedisNode(tmp_path / "redis", *options)
        started.append(node)
        return node.start()

    yield start
    for node in started:
        node.stop()


@pytest.fixture
def redis_pair(start_redis: StartRedis) -> tuple[RedisNode, RedisNode]:
    """A primary and its replica, in step."""
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))
    with primary.client as client:
        wait_until(lambda: is_in_step(client), timeout_seconds=10.0)
    return primary, replica


@pytest.fixture
def start_sentinel(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Sentinel]]:
    """Starts sentinels of a primary and stops them after the test."""
    started: list[Sentinel] = []

    def start(primary: RedisNode, *, quorum: int = 1) -> Sentinel:
        started.append(Sentinel(tmp_path / "redis", primary.port, quorum=quorum))
        return started[-1].start()

    yield start
    for sentinel in started:
        sentinel.stop()


def _is_promotable(replica: dict[str, object]) -> bool:
    return replica.get("flags") == "slave" and replica.get("master-link-status") == "ok"


def is_in_step(client: redis.Redis) -> bool:
    """True when a replica is online and lacks nothing."""
    info = client.info("replication")
    replica = info.get("slave0") or {}
    return replica.get("state") == "online" and replica.get("offset") == info["master_repl_offset"]
