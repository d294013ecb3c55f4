"""A standalone cluster: the master's pages and its REST submission server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from actions.spark_http import rows_of
from actions.spark_masters import ATTEMPT_KEY, Application, Master, Product, Sent, Worker, marks
from actions.spark_settings import Submission
from oncall_agent.contract import PermanentError, TransientError

_VERSION = re.compile(r'class="version"[^>]*>\s*([0-9][0-9A-Za-z.+-]{0,40})')
_LIVE_EXECUTOR = re.compile(r"<td>\s*(?:LAUNCHING|RUNNING)\s*</td>")
_UI_LINK = re.compile(r'href="(https?://[^"\s]{1,300})">\s*Application Detail UI')
_OVER = frozenset({"FINISHED", "FAILED", "KILLED", "ERROR", "UNKNOWN", "NOT_FOUND"})
_SKEW_SECONDS = 300.0
_LOG_BYTES = "16384"
_MAX_DRIVERS = 50


class Standalone(Master):
    """Spark's own master."""

    kind = "standalone"

    async def product(self, seconds: float) -> Product:
        """Read the version from the master's page, its time from the answer."""
        answer = await self.http.get(seconds, f"{self.url}/")
        found = _VERSION.search(answer.check((200,)).body.decode(errors="replace"))
        await self._state(seconds)
        date = answer.headers.get("Date")
        at = parsedate_to_datetime(date).timestamp() if date else None
        return Product("Apache Spark (standalone)", found[1] if found else "", at)

    async def applications(self, seconds: float, name: str) -> tuple[Application, ...]:
        """Read the master's list."""
        state = await self._state(seconds)
        rows = [
            (row, is_over)
            for key, is_over in (("activeapps", False), ("completedapps", True))
            for row in rows_of(state[key])
        ]
        found = [_application(row, is_over=is_over) for row, is_over in rows if row.get("name") == name]
        return tuple(sorted(found, key=lambda one: one.started_at, reverse=True))

    async def kill(self, seconds: float, application: Application) -> None:
        """Press the master's button."""
        url = f"{self.url}/app/kill/"
        await self.http.press(seconds, f"{self.url}/", url, id=application.id, terminate="true")

    async def executors_left(self, seconds: float, application: Application) -> int:
        """Count them on the application's page, which goes on showing those that have ended."""
        page = await self.http.text(seconds, f"{self.url}/app/", appId=application.id)
        return len(_LIVE_EXECUTOR.findall(page))

    async def submit(self, seconds: float, what: Submission, attempt: str, conf: Mapping[str, str]) -> str:
        """Ask the REST server for a driver in the cluster."""
        body = self._body(what, {**what.conf, **conf, **marks(what, attempt)})
        answer = await self.http.send("POST", seconds, f"{self._rest}/create", body)
        said = _object(answer.json())
        if not said.get("success"):
            raise PermanentError(f"Spark does not take the submission: {str(said.get('message'))[:200]}")
        return str(said["submissionId"])

    async def find(self, seconds: float, attempt: str, since: float) -> Sent | None:
        """Look for the attempt's mark in the launch commands of the drivers since then."""
        state = await self._state(seconds)
        drivers = [*rows_of(state["activedrivers"]), *rows_of(state["completeddrivers"])]
        late = [one for one in drivers if _seconds(one) >= since - _SKEW_SECONDS]
        if len(late) > _MAX_DRIVERS:
            raise TransientError(
                f"more than {_MAX_DRIVERS} drivers were submitted since: too many to look through"
            )
        urls = {row["id"]: self._worker_url(row) for row in rows_of(state["workers"])}
        for one in sorted(late, key=_seconds, reverse=True):
            if attempt in await self._marks(seconds, one, urls):
                return _sent(str(one["id"]), str(one["state"]))
        return None

    async def sent(self, seconds: float, submission: str) -> Sent:
        """Ask the REST server."""
        said = _object(await self.http.json(seconds, f"{self._rest}/status/{submission}"))
        return _sent(submission, str(said.get("driverState") or "NOT_FOUND"))

    async def withdraw(self, seconds: float, submission: str) -> None:
        """Ask the REST server to end the driver, and with it its application."""
        await self.http.send("POST", seconds, f"{self._rest}/kill/{submission}")

    async def ui_of(self, seconds: float, application: Application) -> str:
        """Give the address behind the master, or the one that its page names."""
        if self.settings.reverse_proxy:
            return f"{self.url}/proxy/{application.id}"
        page = await self.http.text(seconds, f"{self.url}/app/", appId=application.id)
        found = _UI_LINK.search(page)
        if found is None:
            raise TransientError("the application has no pages yet")
        return found[1].rstrip("/")

    async def workers(self, seconds: float) -> tuple[Worker, ...]:
        """Read the master's list."""
        return tuple(_worker(row) for row in rows_of((await self._state(seconds))["workers"]))

    async def busy_with_drivers(self, seconds: float, host: str) -> int:
        """Count the drivers on the workers of that host."""
        state = await self._state(seconds)
        there = {row["id"] for row in rows_of(state["workers"]) if row.get("host") == host}
        return sum(row.get("worker") in there for row in rows_of(state["activedrivers"]))

    async def decommission(self, seconds: float, host: str) -> None:
        """Ask the master; it may be set to take that from its own host only, or from nobody."""
        answer = await self.http.send("POST", seconds, f"{self.url}/workers/kill/", query={"host": host})
        if answer.status == 405:  # noqa: PLR2004 - what the master says when it may not
            raise PermanentError("the master does not permit it (spark.master.ui.decommission.allow.mode)")
        if answer.status == 404:  # noqa: PLR2004 - as above
            raise PermanentError(f"the master knows no worker on {host}")
        answer.check((200,))

    @property
    def _rest(self) -> str:
        if not self.settings.submit_url:
            raise PermanentError("backends.spark.submit_url is not set: nothing can be submitted")
        return f"{self.settings.submit_url.rstrip('/')}/v1/submissions"

    def _body(self, what: Submission, conf: Mapping[str, str]) -> dict[str, Any]:
        is_python = what.main_class.endswith(".SparkSubmit")
        start = ["--master", self.settings.spark_master, what.resource] if is_python else []
        fixed = {
            "spark.app.name": what.app_name,
            "spark.master": self.settings.spark_master,
            "spark.submit.deployMode": "cluster",
        }
        return {
            "action": "CreateSubmissionRequest",
            "appArgs": [*start, *what.arguments],
            "appResource": what.resource,
            "clientSparkVersion": self.settings.spark_version,
            "environmentVariables": {"SPARK_ENV_LOADED": "1", **what.environment},
            "mainClass": what.main_class,
            "sparkProperties": {**conf, **fixed},
        }

    async def _state(self, seconds: float) -> dict[str, Any]:
        state = _object(await self.http.json(seconds, f"{self.url}/json/"))
        if (
            not {"workers", "activeapps", "completedapps", "activedrivers", "completeddrivers"}
            <= state.keys()
        ):
            raise PermanentError("what answers is not a standalone Spark master")
        if state.get("status") != "ALIVE":
            raise TransientError(f"the master is {str(state.get('status'))[:40]}, not the active one")
        return state

    async def _marks(
        self, seconds: float, driver: Mapping[str, Any], urls: Mapping[str, str]
    ) -> frozenset[str]:
        """Give the attempt that a driver's launch command names.

        Raises:
            TransientError: it can't be read, so whose driver it is can't be told.
        """
        url = urls.get(str(driver.get("worker")))
        if url is None:
            raise TransientError(f"whose the driver {driver['id']} is can't be told: its worker is not there")
        query = {"driverId": str(driver["id"]), "logType": "stderr", "offset": "0", "byteLength": _LOG_BYTES}
        log = await self.http.text(seconds, f"{url}/log/", **query)
        command = next((line for line in log.splitlines() if line.startswith("Launch Command:")), "")
        if not command:
            raise TransientError(
                f"whose the driver {driver['id']} is can't be told yet: it has not been started"
            )
        return frozenset(re.findall(rf'"-D{re.escape(ATTEMPT_KEY)}=([^"]+)"', command))

    def _worker_url(self, row: Mapping[str, Any]) -> str:
        if self.settings.reverse_proxy:
            return f"{self.url}/proxy/{row['id']}"
        parts = urlsplit(str(row.get("webuiaddress")))
        return f"{parts.scheme}://{parts.netloc}"


def _application(row: Mapping[str, Any], *, is_over: bool) -> Application:
    return Application(
        id=str(row["id"]),
        name=str(row["name"]),
        state=str(row["state"]),
        started_at=_seconds(row),
        is_over=is_over,
        cores=int(row.get("cores") or 0),
        memory_mb=int(row.get("memoryperexecutor") or 0),
    )


def _worker(row: Mapping[str, Any]) -> Worker:
    return Worker(
        id=str(row["id"]),
        host=str(row["host"]),
        state=str(row["state"]),
        cores=int(row["cores"]),
        cores_used=int(row["coresused"]),
        memory_mb=int(row["memory"]),
        memory_used_mb=int(row["memoryused"]),
    )


def _sent(submission: str, state: str) -> Sent:
    return Sent(submission, state, state in _OVER, state == "FINISHED")


def _seconds(row: Mapping[str, Any]) -> float:
    return int(row.get("starttime") or 0) / 1000


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise PermanentError("what answers is not a standalone Spark master")
    return found
