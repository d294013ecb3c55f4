"""What Redis says of itself, read into values; and what is decided from them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from oncall_agent.models import JsonObject


@dataclass(frozen=True, slots=True)
class Memory:
    """The part of `INFO memory` that tells sick from well; bytes."""

    used: int
    rss: int
    limit: int
    policy: str
    host: int

    @property
    def excess(self) -> int:
        """What the process holds beyond what its data needs."""
        return max(0, self.rss - self.used)

    @property
    def ratio(self) -> float:
        """Fragmentation, 1 is none."""
        return self.rss / self.used if self.used else 0.0

    @property
    def share(self) -> float | None:
        """Of the limit, 0..1; None without one."""
        return min(1.0, self.used / self.limit) if self.limit else None

    def as_facts(self) -> dict[str, Any]:
        """Give it as JSON-safe evidence."""
        return {**asdict(self), "fragmentation": round(self.ratio, 2)}


def memory_of(info: JsonObject) -> Memory:
    """Read `INFO`."""
    return Memory(
        used=int(info.get("used_memory") or 0),
        rss=int(info.get("used_memory_rss") or 0),
        limit=int(info.get("maxmemory") or 0),
        policy=str(info.get("maxmemory_policy") or "noeviction"),
        host=int(info.get("total_system_memory") or 0),
    )


def version_of(info: JsonObject) -> tuple[str, str]:
    """Give product and version: Valkey names both."""
    if info.get("server_name") == "valkey" or info.get("valkey_version"):
        return "Valkey", str(info.get("valkey_version", ""))
    return "Redis", str(info.get("redis_version", ""))


def unsupported(product: str, version: str) -> str:
    """Give why a version is not supported, or an empty text."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if product == "Redis" and numbers < (6, 2):
        return f"Redis {version or '?'} is older than 6.2"
    return ""


def full_facts(info: JsonObject) -> dict[str, Any]:
    """Give what a person asks first, from the whole `INFO`."""
    product, version = version_of(info)
    names = (
        "role",
        "uptime_in_seconds",
        "connected_clients",
        "blocked_clients",
        "maxclients",
        "evicted_keys",
        "expired_keys",
        "rejected_connections",
        "connected_slaves",
        "master_link_status",
        "instantaneous_ops_per_sec",
        "loading",
        "rdb_last_bgsave_status",
        "aof_last_write_status",
    )
    found = {name: info[name] for name in names if name in info}
    return {
        "product": f"{product} {version}",
        **found,
        "memory": memory_of(info).as_facts(),
        "hit_rate": hit_rate(info),
    }


def hit_rate(info: JsonObject) -> float | None:
    """Give hits of all look-ups since the start, 0..1."""
    hits, misses = int(info.get("keyspace_hits") or 0), int(info.get("keyspace_misses") or 0)
    return round(hits / (hits + misses), 4) if hits + misses else None


def errors_of(info: JsonObject, kind: str = "OOM") -> int:
    """Give how often the server answered with this kind of error; its own counter."""
    found = info.get(f"errorstat_{kind}")
    if isinstance(found, Mapping):
        return int(found.get("count") or 0)
    return int(str(found).rpartition("=")[2]) if found else 0


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as its primary sees it."""

    host: str
    port: int
    state: str
    offset: int


def replicas_of(info: JsonObject) -> tuple[Replica, ...]:
    """Read `INFO replication` of a primary."""
    found = []
    for name, value in info.items():
        if name.startswith("slave") and name[5:].isdecimal() and isinstance(value, Mapping):
            found.append(
                Replica(
                    str(value.get("ip")),
                    int(value.get("port") or 0),
                    str(value.get("state")),
                    int(value.get("offset") or 0),
                )
            )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Connected:
    """One line of `CLIENT LIST`."""

    id: int
    address: str
    name: str
    user: str
    age: int
    idle: int
    flags: str
    subscriptions: int

    @property
    def is_replication(self) -> bool:
        """Whether it is a primary, a replica or a monitor."""
        return any(flag in self.flags for flag in "MSO")

    @property
    def is_blocked(self) -> bool:
        """Whether it waits in a blocking command."""
        return "b" in self.flags


def clients_of(listed: Iterable[Mapping[str, Any]]) -> tuple[Connected, ...]:
    """Read `CLIENT LIST`."""
    return tuple(
        Connected(
            id=int(one["id"]),
            address=str(one.get("addr", "")),
            name=str(one.get("name", "")),
            user=str(one.get("user", "default")),
            age=int(one.get("age") or 0),
            idle=int(one.get("idle") or 0),
            flags=str(one.get("flags", "")),
            subscriptions=sum(int(one.get(key) or 0) for key in ("sub", "psub", "ssub")),
        )
        for one in listed
    )
