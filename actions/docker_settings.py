"""The settings of the docker actions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DockerSettings(BaseModel):
    """The group `backends.docker`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "unix:///var/run/docker.sock"
    """URL of the engine."""
    timeout_seconds: float = Field(10.0, ge=1, le=300)
    """For one call; restart and stop add their own."""
    protected_label: str = "oncall-agent.protected"
    """A container that carries it with the value `true` is never touched."""
    max_restarts_per_hour: int = Field(10, ge=1)
    """A container that was started more often needs something other than a restart."""
    max_memory_bytes: int = Field(8_589_934_592, ge=4_194_304)
    """No limit is raised beyond this."""
    memory_reserve: float = Field(0.1, ge=0, lt=1)
    """Fraction of the host's memory that the limits of all containers must leave free."""
    allow_pull: bool = False
    """Images that are not on the host may be pulled."""
    service_labels: tuple[str, ...] = Field(
        ("com.docker.compose.project", "com.docker.compose.service"), min_length=1, max_length=5
    )
    """Containers that are equal in all of these are replicas of one service."""
    data_root: str = ""
    """The folder of the engine's data as seen from here; needed for pruning a remote engine's disk."""
    min_prune_age_seconds: int = Field(86_400, ge=0)
    """Nothing that was used more recently is pruned, whatever a runbook says."""
