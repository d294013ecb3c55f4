"""The group `backends.kubernetes`: how to reach clusters, and how far the actions may go."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from oncall_agent.contract import SecretRef

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""What Kubernetes takes as the name of an object."""


class KubernetesSettings(BaseModel):
    """The group `backends.kubernetes`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kubeconfig: str = ""
    """Path of a kubeconfig. Empty, and no `host`: inside a cluster the pod's own account, else `~/.kube/config`."""
    context: str = ""
    """Context of the kubeconfig; empty: its current one."""
    contexts: tuple[str, ...] = Field((), max_length=20)
    """Other contexts that a target may name in its address."""
    host: str = Field("", pattern=r"^(https://[^\s@]+|http://(127\.0\.0\.1|localhost)(:\d+)?)?$")
    """URL of an API server, instead of a kubeconfig."""
    token: SecretRef | None = None
    """Bearer token for `host`; read anew for every call, so that it may be rotated."""
    ca_file: str = ""
    """PEM file with the CA of `host`; empty: the system's."""
    timeout_seconds: float = Field(10.0, ge=0.5, le=120)
    """For one call."""
    namespaces: tuple[Name, ...] = Field((), max_length=100)
    """Where targets may be, and where the generated role is bound; empty: everywhere."""
    protected_namespaces: tuple[Name, ...] = ("kube-system", "kube-public", "kube-node-lease")
    """Nothing in these is ever touched."""
    protected_label: str = "oncall-agent.io/protected"
    """An object that carries it as label or annotation with the value `true` is never touched."""
    lease_namespace: Name = "default"
    """Where the leases of node actions are kept; those of a workload lie beside it."""
    service_account: str = Field(
        "oncall-agent/oncall-agent", pattern=r"^[a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]*$"
    )
    """`namespace/name` that the generated role is bound to."""
    max_replicas: int = Field(50, ge=1, le=10_000)
    """No workload and no autoscaler is raised beyond this."""
    max_memory_bytes: int = Field(17_179_869_184, ge=1_048_576)
    """No container's memory is raised beyond this."""
    max_cpus: float = Field(8.0, gt=0, le=1024)
    """No container's CPU is raised beyond this."""
    max_unschedulable_nodes: float = Field(0.25, gt=0, lt=1)
    """Share of the nodes that may be cordoned at once; one always may."""
    removable_finalizers: tuple[str, ...] = Field((), max_length=50)
    """Finalizers that may be taken off a pod that hangs in its deletion."""

    @model_validator(mode="after")
    def _knows_one_way(self) -> Self:
        if self.host and self.kubeconfig:
            raise ValueError("host and kubeconfig exclude each other")
        if not self.host and (self.token or self.ca_file):
            raise ValueError("token and ca_file belong to host")
        return self
