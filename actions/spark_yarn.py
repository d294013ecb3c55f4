"""YARN: the ResourceManager's REST API, and Livy for submitting. Not proven on a real server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actions.spark_http import rows_of
from actions.spark_masters import Application, Master, Product, Sent, marks
from actions.spark_settings import Submission
from oncall_agent.contract import PermanentError

_OVER = frozenset({"FINISHED", "FAILED", "KILLED"})
_LIVY_OVER = frozenset({"success", "dead", "killed", "error", "shutting_down"})
_PAGE = 100
_MAX_PAGES = 10


class Yarn(Master):
    """Hadoop's scheduler. Livy names a batch, so an attempt's own batch is found again by its name."""

    kind = "yarn"

    async def product(self, seconds: float) -> Product:
        """Read the ResourceManager's information."""
        about = _object(await self.http.json(seconds, f"{self._cluster}/info"), "clusterInfo")
        return Product("Apache Hadoop YARN", str(about.get("hadoopVersion", "")), None)

    async def applications(self, seconds: float, name: str) -> tuple[Application, ...]:
        """Ask for Spark's applications of that name."""
        query = {"applicationTypes": "SPARK", "name": name, "limit": "200"}
        found = _object(await self.http.json(seconds, f"{self._cluster}/apps", **query), "apps")
        rows = [row for row in rows_of(found.get("app") or []) if row.get("name") == name]
        return tuple(
            sorted((_application(row) for row in rows), key=lambda one: one.started_at, reverse=True)
        )

    async def kill(self, seconds: float, application: Application) -> None:
        """Set its state; the ResourceManager answers 200 when done, 202 when it has begun."""
        url = f"{self._cluster}/apps/{application.id}/state"
        (await self.http.send("PUT", seconds, url, {"state": "KILLED"})).check((200, 202))

    async def executors_left(self, seconds: float, application: Application) -> int:
        """Count its containers."""
        found = _object(await self.http.json(seconds, f"{self._cluster}/apps/{application.id}"), "app")
        return max(0, int(found.get("runningContainers") or 0))

    async def submit(self, seconds: float, what: Submission, attempt: str, conf: Mapping[str, str]) -> str:
        """Ask Livy for a batch under the attempt's name."""
        body: dict[str, Any] = {
            "name": attempt,
            "file": what.resource,
            "args": list(what.arguments),
            "conf": {**what.conf, **conf, **marks(what, attempt), "spark.app.name": what.app_name},
        }
        if not what.main_class.endswith(".SparkSubmit"):
            body["className"] = what.main_class
        said = (await self.http.send("POST", seconds, f"{self._livy}/batches", body)).check((200, 201)).json()
        return str(said["id"])

    async def find(self, seconds: float, attempt: str, since: float) -> Sent | None:
        """Look for the batch of that name."""
        for page in range(_MAX_PAGES):
            query = {"from": str(page * _PAGE), "size": str(_PAGE)}
            found = await self.http.json(seconds, f"{self._livy}/batches", **query)
            rows = rows_of(found.get("sessions", []))
            for row in rows:
                if row.get("name") == attempt:
                    return _sent(row)
            if len(rows) < _PAGE:
                return None
        raise PermanentError("Livy lists too many batches to look through")

    async def sent(self, seconds: float, submission: str) -> Sent:
        """Ask Livy for the batch."""
        answer = await self.http.get(seconds, f"{self._livy}/batches/{submission}")
        if answer.status == 404:  # noqa: PLR2004 - Livy forgets batches that are over
            return Sent(submission, "NOT_FOUND", is_over=True, has_succeeded=False)
        return _sent(answer.check((200,)).json())

    async def withdraw(self, seconds: float, submission: str) -> None:
        """Delete the batch; Livy ends its application."""
        (await self.http.send("DELETE", seconds, f"{self._livy}/batches/{submission}")).check((200, 404))

    async def ui_of(self, seconds: float, application: Application) -> str:
        """Give the ResourceManager's proxy: it passes reading on, and no button."""
        return f"{self.url}/proxy/{application.id}"

    @property
    def _cluster(self) -> str:
        return f"{self.url}/ws/v1/cluster"

    @property
    def _livy(self) -> str:
        if not self.settings.submit_url:
            raise PermanentError("backends.spark.submit_url is not set: nothing can be submitted")
        return self.settings.submit_url.rstrip("/")


def _application(row: Mapping[str, Any]) -> Application:
    state = str(row["state"])
    final = str(row.get("finalStatus", ""))
    return Application(
        id=str(row["id"]),
        name=str(row["name"]),
        state=final if state == "FINISHED" and final != "SUCCEEDED" else state,
        started_at=int(row.get("startedTime") or 0) / 1000,
        is_over=state in _OVER,
        cores=max(0, int(row.get("allocatedVCores") or 0)),
    )


def _sent(row: Mapping[str, Any]) -> Sent:
    state = str(row.get("state", ""))
    return Sent(str(row["id"]), state, state in _LIVY_OVER, state == "success")


def _object(found: Any, key: str) -> dict[str, Any]:
    if not isinstance(found, dict) or key not in found:
        raise PermanentError("what answers is not a YARN ResourceManager")
    return found[key] or {}
