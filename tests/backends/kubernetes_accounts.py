"""Accounts of the test cluster with exactly the generated role, each with names of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from actions.kubernetes_system import KubernetesSystem
from backends.kubernetes_world import World

ACCOUNT = "agent"


@dataclass
class Accounts:
    """Makes accounts in the namespace of a test; `close` removes what is not in it."""

    world: World
    _made: list[tuple[str, str]] = field(default_factory=list)

    def settings(self, actions: Sequence[str], **more: Any) -> tuple[dict[str, Any], str]:
        """Apply the role that is generated for these actions; give settings without credentials, and a token."""
        found = {
            "host": self.world.access.url,
            "ca_file": str(self.world.access.ca),
            "namespaces": [self.world.namespace],
            "lease_namespace": self.world.namespace,
            "service_account": f"{self.world.namespace}/{ACCOUNT}",
            **more,
        }
        for document in yaml.safe_load_all(KubernetesSystem(found).grants(actions).text):
            self._apply(document)
        return found, self._token()

    def close(self) -> None:
        """Remove what is of the whole cluster."""
        for kind, name in self._made:
            self.world.delete(kind, name)

    def _apply(self, document: dict[str, Any]) -> None:
        kind, meta = document["kind"], document["metadata"]
        if kind != "ServiceAccount":
            # Roles of the whole cluster have fixed names, and tests run side by side.
            meta["name"] += f"-{self.world.namespace}"
        if "roleRef" in document:
            document["roleRef"]["name"] += f"-{self.world.namespace}"
        if kind.startswith("Cluster"):
            self._made.append((kind, meta["name"]))
        self.world.access.request("POST", self.world.path(kind), document)

    def _token(self) -> str:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        path = self.world.path("ServiceAccount", ACCOUNT, "token")
        return str(self.world.access.request("POST", path, body)["status"]["token"])
