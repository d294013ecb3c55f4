"""Kubernetes: SparkApplications of the Spark operator, over the Kubernetes API. Not proven on a real server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from actions.spark_http import rows_of
from actions.spark_masters import Application, Master, Product, Sent, marks
from actions.spark_settings import Submission
from oncall_agent.contract import PermanentError

_GROUP = "sparkoperator.k8s.io/v1beta2"
_NAME_LABEL = "oncall-agent/application"
_OVER = frozenset({"COMPLETED", "FAILED", "SUBMISSION_FAILED"})
_CONFLICT = 409


class Operator(Master):
    """The operator's resources. An attempt's resource has a name made from its key: Kubernetes keeps it single."""

    kind = "kubernetes"

    async def product(self, seconds: float) -> Product:
        """Read Kubernetes' version, and that it knows SparkApplications."""
        version = await self.http.json(seconds, f"{self.url}/version")
        await self.http.json(seconds, self._resources, limit="1")
        return Product("Spark operator on Kubernetes", str(version.get("gitVersion", "")), None)

    async def applications(self, seconds: float, name: str) -> tuple[Application, ...]:
        """List the resources whose application has that name."""
        found = await self.http.json(seconds, self._resources, limit="500")
        if not isinstance(found, dict) or "items" not in found:
            raise PermanentError("what answers does not know SparkApplications")
        rows = [_application(row) for row in rows_of(found["items"])]
        return tuple(
            sorted((one for one in rows if one.name == name), key=lambda one: one.started_at, reverse=True)
        )

    async def kill(self, seconds: float, application: Application) -> None:
        """Delete the resource; the operator ends driver and executors."""
        answer = await self.http.send("DELETE", seconds, f"{self._resources}/{application.id}")
        answer.check((200, 202, 404))

    async def executors_left(self, seconds: float, application: Application) -> int:
        """Count the executors that its resource still names as running."""
        answer = await self.http.get(seconds, f"{self._resources}/{application.id}")
        if answer.status == 404:  # noqa: PLR2004 - gone with everything
            return 0
        states = answer.check((200,)).json().get("status", {}).get("executorState", {})
        return sum(state == "RUNNING" for state in states.values())

    async def submit(self, seconds: float, what: Submission, attempt: str, conf: Mapping[str, str]) -> str:
        """Create the resource of the settings under the attempt's name."""
        if not what.manifest:
            raise PermanentError("the submission has no manifest for Kubernetes")
        name, spec = _name_of(attempt), dict(what.manifest.get("spec", {}))
        spec["sparkConf"] = {**spec.get("sparkConf", {}), **what.conf, **conf, **marks(what, attempt)}
        labels = {**what.manifest.get("metadata", {}).get("labels", {}), _NAME_LABEL: what.app_name}
        body = {
            "apiVersion": _GROUP,
            "kind": "SparkApplication",
            "metadata": {"name": name, "labels": labels},
            "spec": spec,
        }
        answer = await self.http.send("POST", seconds, self._resources, body)
        if answer.status != _CONFLICT:
            answer.check((200, 201, 202))
        return name

    async def find(self, seconds: float, attempt: str, since: float) -> Sent | None:
        """Look for the resource of that name."""
        found = await self.sent(seconds, _name_of(attempt))
        return None if found.state == "NOT_FOUND" else found

    async def sent(self, seconds: float, submission: str) -> Sent:
        """Read the resource's state."""
        answer = await self.http.get(seconds, f"{self._resources}/{submission}")
        if answer.status == 404:  # noqa: PLR2004 - gone
            return Sent(submission, "NOT_FOUND", is_over=True, has_succeeded=False)
        state = _state(answer.check((200,)).json())
        return Sent(submission, state, state in _OVER, state == "COMPLETED")

    async def withdraw(self, seconds: float, submission: str) -> None:
        """Delete the resource."""
        answer = await self.http.send("DELETE", seconds, f"{self._resources}/{submission}")
        answer.check((200, 202, 404))

    @property
    def _resources(self) -> str:
        return f"{self.url}/apis/{_GROUP}/namespaces/{self.settings.namespace}/sparkapplications"


def _name_of(attempt: str) -> str:
    return f"oncall-{hashlib.sha256(attempt.encode()).hexdigest()[:32]}"


def _state(row: Mapping[str, Any]) -> str:
    return str(row.get("status", {}).get("applicationState", {}).get("state") or "NEW")


def _application(row: Mapping[str, Any]) -> Application:
    about, state = row["metadata"], _state(row)
    created = datetime.fromisoformat(str(about["creationTimestamp"]))
    return Application(
        id=str(about["name"]),
        name=str(about.get("labels", {}).get(_NAME_LABEL) or about["name"]),
        state=state,
        started_at=created.timestamp(),
        is_over=state in _OVER,
    )
