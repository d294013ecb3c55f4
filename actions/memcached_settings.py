"""What the operator declares under `backends.memcached`: pools of nodes, and what may be done to them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from oncall_agent.contract import SecretRef

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MemcachedNode(_Group):
    """One server of a pool."""

    host: str = Field("127.0.0.1", min_length=1, max_length=253)
    """Name or address."""
    port: int = Field(11211, ge=1, le=65_535)
    """Of the text protocol."""
    memory_mb: int | None = Field(None, ge=8)
    """MiB that this node may have of its machine; without it its limit is never raised."""
    container: str | None = Field(None, min_length=1, max_length=255)
    """Docker container that it runs in: `memcached.restart_node` restarts that."""
    unit: str | None = Field(None, pattern=r"^[A-Za-z0-9@:._\\-]{1,200}\.service$")
    """systemd unit of this machine that it runs as."""
    pod: str | None = Field(None, pattern=r"^[a-z0-9.-]{1,63}/[a-z0-9.-]{1,253}$")
    """Kubernetes pod `namespace/name` that it runs in; its controller makes it anew."""
    protected: bool = False
    """Nothing is ever changed there."""

    @model_validator(mode="after")
    def _runs_in_one_way(self) -> MemcachedNode:
        if sum(one is not None for one in (self.container, self.unit, self.pod)) > 1:
            raise ValueError("a node has at most one of container, unit and pod")
        return self


class MemcachedPool(_Group):
    """Nodes that share the keys of one cache."""

    nodes: dict[Id, MemcachedNode] = Field(min_length=1, max_length=64)
    """Name -> node; a target's address says `pool` and `node`."""
    username: str = Field("", max_length=64, pattern=r"^[!-~]*$")
    """For servers started with an authentication file."""
    password: SecretRef | None = None
    """By reference."""
    consistent_hashing: bool = False
    """The clients spread keys by consistent hashing: without it no node is restarted, since all keys would move."""
    origin_gets_per_second: float | None = Field(None, gt=0)
    """Reads that the origin behind the pool bears; without it, or beyond it, no node is flushed."""
    flush_gap_seconds: float = Field(60.0, ge=1, le=86_400)
    """Least time between two flushes of nodes of this pool."""

    @model_validator(mode="after")
    def _has_both_or_none(self) -> MemcachedPool:
        if bool(self.username) != bool(self.password):
            raise ValueError("username and password stand together")
        return self


class MemcachedSettings(_Group):
    """The group `backends.memcached`."""

    pools: dict[Id, MemcachedPool] = {}
    """Name -> pool."""
    timeout_seconds: float = Field(2.0, ge=0.1, le=60)
    """For one question to one node."""
    max_memlimit_mb: int = Field(65_536, ge=8)
    """No limit is raised beyond this."""
    memory_share: float = Field(0.8, gt=0, le=0.95)
    """No limit is raised beyond this share of the node's `memory_mb`; memcached takes more than its limit."""
    docker_host: str = "unix:///var/run/docker.sock"
    """Engine of the nodes that are containers."""
    systemctl: str = Field("/usr/bin/systemctl", pattern=r"^/")
    """The program for nodes that are units."""
    kubectl: str = Field("/usr/bin/kubectl", pattern=r"^/")
    """The program for nodes that are pods; it finds its own credentials."""
    restart_timeout_seconds: float = Field(60.0, ge=1, le=600)
    """For the engine or program that restarts a node."""
