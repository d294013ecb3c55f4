"""A pool of memcached nodes with passwords, reached through relays that can be broken."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.memcached_server import MemcachedNode
from pymemcache.client.base import Client

from oncall_agent.contract import ActionContext, Executor, SystemClock, SystemContext, Target
from oncall_agent.testing import Fault, FaultyProxy, RecordingLog, Upstream, context_for
from oncall_agent.testing.harness import run_in_thread

PASSWORD = "s3cr3t-Memcached-Zx81"
VARIABLE = "TEST_MEMCACHED_PASSWORD"
CLOCK = SystemClock()
_keys = itertools.count()


@dataclass
class World:
    """Two nodes; the actions are for `a`."""

    a: MemcachedNode
    b: MemcachedNode
    proxies: list[FaultyProxy]
    more: dict[str, Any] = field(default_factory=dict)
    node: dict[str, Any] = field(default_factory=dict)
    pool: dict[str, Any] = field(default_factory=dict)
    clients: list[Client] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        ports = [proxy.port for proxy in self.proxies]
        nodes = {"a": {"port": ports[0], "memory_mb": 128, **self.node}, "b": {"port": ports[1]}}
        pool = {
            "nodes": nodes,
            "username": "agent",
            "password": f"env:{VARIABLE}",
            "consistent_hashing": True,
            "origin_gets_per_second": 1e6,
            **self.pool,
        }
        return {"pools": {"shop": pool}, "timeout_seconds": 1.0, **self.more}

    def target(self, node: str = "a", *, is_protected: bool = False) -> Target:
        address = {"pool": "shop", "node": node}
        return Target(f"shop-{node}", "memcached_node", address=address, protected=is_protected)

    def attempt(
        self,
        kind: type[Executor],
        *,
        key: str = "",
        seconds: float = 20.0,
        dry_run: bool = False,
        is_protected: bool = False,
        **params: Any,
    ) -> ActionContext:
        return context_for(
            kind.spec.params.model_validate(params),
            self.target(is_protected=is_protected),
            clock=CLOCK,
            key=key or f"memcached-{os.getpid()}-{next(_keys)}",
            seconds=seconds,
            dry_run=dry_run,
            run_blocking=run_in_thread,
        )

    async def become(self, fault: Fault) -> None:
        for proxy in self.proxies:
            await proxy.become(fault)

    def admin(self, node: MemcachedNode | None = None) -> Client:
        client = admin((node or self.a).port)
        self.clients.append(client)
        return client

    def count(self, command: str) -> int:
        """How often node `a` was sent a command, over all of its lives."""
        return len(re.findall(rf"^<\d+ {command}\s*$", self.a.log(), re.MULTILINE))


def admin(port: int) -> Client:
    """A connection past the relays, let in."""
    client = Client(("127.0.0.1", port), timeout=5.0, default_noreply=False)
    client.set("auth", f"agent {PASSWORD}")
    return client


def authentication(folder: Path) -> list[str]:
    """The options of a server that asks for the password."""
    path = folder / "memcached.users"
    path.write_text(f"agent:{PASSWORD}\n")
    folder.chmod(0o755)
    path.chmod(0o644)
    return ["-Y", str(path)]


@asynccontextmanager
async def pool(start: Callable[..., MemcachedNode], folder: Path, *options: str) -> AsyncIterator[World]:
    """Give two nodes with a password behind relays."""
    auth = authentication(folder)
    a, b = start(*auth, *options), start(*auth)
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(FaultyProxy(Upstream(port=one.port), slow_seconds=0.05))
            for one in (a, b)
        ]
        made = World(a, b, proxies)
        try:
            yield made
        finally:
            for client in made.clients:
                client.close()


def fill(client: Client, prefix: str, count: int, size: int, *, expire: int = 0) -> None:
    """Write so many values of one size."""
    for number in range(count):
        client.set(f"{prefix}{number}", b"x" * size, expire=expire, noreply=True)
    client.version()


def skew(client: Client) -> None:
    """Give nearly all of 8 MiB to small items, then let large ones evict each other."""
    client.raw_command("slabs automove 0")
    fill(client, "small", 5_000, 1_000)
    fill(client, "large", 200, 100_000)


@contextmanager
def writing(node: MemcachedNode, prefix: str, count: int, size: int) -> Iterator[None]:
    """Writes so many values over and over."""
    stop = threading.Event()

    def write() -> None:
        client = admin(node.port)
        while not stop.wait(0.005):
            fill(client, prefix, count, size)
        client.close()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


def system_context(seconds: float = 20.0) -> SystemContext:
    """Give what an inspection or drill is given."""
    return SystemContext(CLOCK, RecordingLog(), CLOCK.monotonic() + seconds, run_in_thread)
