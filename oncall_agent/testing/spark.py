"""A standalone Spark cluster in this process, as far as its pages and REST APIs go, on a real loopback port.

Master, REST submission server, application pages behind the master's reverse proxy and history server share
one port: `url` for the master and the submissions, `url + "/history"` for the history server.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from oncall_agent.contract import Clock

CSRF = "0123456789abcdef"


@dataclass
class FakeApp:
    """One application; `stages` are rows of Spark's API."""

    id: str
    name: str
    state: str = "RUNNING"
    started_at: float = 0.0
    cores: int = 1
    driver: str = ""
    stages: list[dict[str, Any]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    """Why executors were removed."""
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state not in ("RUNNING", "WAITING")


class FakeSpark:
    """Open it with `async with`; break it by its attributes; `effects` counts what was really done.

    Attributes:
        token: when set, every request must carry it as bearer token.
        hangs: requests are accepted and not answered.
        end: state in which a submitted application comes to be; RUNNING goes on.
    """

    def __init__(self, clock: Clock, *, token: str = "") -> None:
        self.clock, self.token, self.hangs, self.end = clock, token, False, "RUNNING"
        self.apps: list[FakeApp] = []
        self.drivers: dict[str, dict[str, Any]] = {}
        self.workers = [worker("10.0.0.1"), worker("10.0.0.2")]
        self.effects, self.count = 0, 0
        self.requests: list[tuple[str, str]] = []
        self.has_csrf = self.permits_kill = True
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guarded])
        add = app.router.add_route
        for method, path, answer in self._routes():
            add(method, path, answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def add(self, name: str, state: str = "RUNNING", *, age: float = 60.0, **more: Any) -> FakeApp:
        """Put an application in that was begun so long ago."""
        self.count += 1
        found = FakeApp(f"app-{self.count:04}", name, state, self.clock.now() - age, **more)
        self.apps.append(found)
        return found

    def _routes(self) -> list[tuple[str, str, Any]]:
        api = "/api/v1/applications/{app}"
        pages = "/proxy/{app}"
        return [
            ("GET", "/", self._page),
            ("GET", "/json/", self._state),
            ("GET", "/app/", self._app_page),
            ("POST", "/app/kill/", self._kill_app),
            ("POST", "/workers/kill/", self._decommission),
            ("GET", "/proxy/{worker}/log/", self._log),
            ("GET", pages + "/stages/", self._page),
            ("GET", pages + "/jobs/", self._page),
            ("POST", pages + "/stages/stage/kill/", self._kill_stage),
            *(("GET", base + api + "/{what}", self._rows) for base in ("/proxy/{page}", "/history")),
            ("GET", "/history/api/v1/applications", self._ended),
            ("POST", "/v1/submissions/create", self._create),
            ("GET", "/v1/submissions/status/{id}", self._status),
            ("POST", "/v1/submissions/kill/{id}", self._kill_driver),
        ]

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if self.hangs:
            await asyncio.sleep(3600)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPForbidden
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _page(self, _request: web.Request) -> web.Response:
        button = f'<input type="hidden" name="csrfToken" value="{CSRF}"/>' if self.has_csrf else ""
        version = '<span class="version" style="margin-right: 15px;">4.1.4</span>'
        return web.Response(text=f"<html>{version}{button}</html>", content_type="text/html")

    async def _state(self, _request: web.Request) -> web.Response:
        rows = [(app, _app_row(app)) for app in self.apps]
        drivers = list(self.drivers.values())
        return web.json_response(
            {
                "workers": self.workers,
                "activeapps": [row for app, row in rows if not app.is_over],
                "completedapps": [row for app, row in rows if app.is_over],
                "activedrivers": [row for row in drivers if row["state"] == "RUNNING"],
                "completeddrivers": [row for row in drivers if row["state"] != "RUNNING"],
                "status": "ALIVE",
            }
        )

    async def _app_page(self, request: web.Request) -> web.Response:
        app = self._app(request.query["appId"])
        state = app.state if app.is_over else "RUNNING"
        return web.Response(text=f"<a>Executor Summary (1)</a><tr><td>0</td><td>\n{state}</td></tr>")

    def _app(self, wanted: str) -> FakeApp:
        found = next((app for app in self.apps if app.id == wanted), None)
        if found is None:
            raise web.HTTPNotFound
        return found

    def _check_button(self, request: web.Request) -> None:
        if not self.permits_kill:
            raise web.HTTPMethodNotAllowed("POST", ["GET"])
        if self.has_csrf and request.query.get("csrfToken") != CSRF:
            raise web.HTTPForbidden
        self.effects += 1

    async def _kill_app(self, request: web.Request) -> web.Response:
        self._check_button(request)
        self._end(self._app(request.query["id"]), "KILLED")
        raise web.HTTPFound("/")

    def _end(self, app: FakeApp, state: str) -> None:
        app.state = state
        if app.driver:
            self.drivers[app.driver]["state"] = "KILLED" if state == "KILLED" else state

    async def _kill_stage(self, request: web.Request) -> web.Response:
        self._check_button(request)
        for stage in self._app(request.match_info["app"]).stages:
            if str(stage["stageId"]) == request.query["id"]:
                stage["status"] = "FAILED"
        raise web.HTTPFound("/")

    async def _decommission(self, request: web.Request) -> web.Response:
        if not self.permits_kill:
            raise web.HTTPMethodNotAllowed("POST", ["GET"])
        here = [
            row for row in self.workers if row["host"] == request.query["host"] and row["state"] == "ALIVE"
        ]
        if not here:
            raise web.HTTPNotFound
        self.effects += 1
        other = next(row for row in self.workers if row not in here)
        for row in here:
            other["coresused"] += row["coresused"]
            row.update(state="DECOMMISSIONED", coresused=0)
        return web.Response()

    async def _log(self, request: web.Request) -> web.Response:
        marks = " ".join(
            f'"-D{key}={value}"' for key, value in self.drivers[request.query["driverId"]]["conf"].items()
        )
        return web.Response(text=f'==== Bytes ====\nLaunch Command: "java" {marks}\n')

    async def _rows(self, request: web.Request) -> web.Response:
        app, what = self._app(request.match_info["app"]), request.match_info["what"]
        if what == "environment":
            return web.json_response({"sparkProperties": [list(pair) for pair in app.properties.items()]})
        if what == "allexecutors":
            return web.json_response(
                [{"id": str(n), "removeReason": why} for n, why in enumerate(app.removed)]
            )
        wanted = request.query.get("status", "").upper()
        return web.json_response([row for row in app.stages if not wanted or row["status"] == wanted])

    async def _ended(self, _request: web.Request) -> web.Response:
        over = [app for app in self.apps if app.is_over]
        rows = [
            {"id": app.id, "name": app.name, "attempts": [{"endTimeEpoch": at}]}
            for at, app in enumerate(over)
        ]
        return web.json_response(rows)

    async def _create(self, request: web.Request) -> web.Response:
        conf = (await request.json())["sparkProperties"]
        self.effects += 1
        app = self.add(conf["spark.app.name"], self.end, age=-0.001, properties=conf)
        app.driver = f"driver-{self.count:04}"
        app.stages = [stage(0, self.clock.now(), "COMPLETE", tasks_done=1)]
        self.drivers[app.driver] = {
            "id": app.driver,
            "starttime": str(int(self.clock.now() * 1000)),
            "state": self.end,
            "worker": self.workers[0]["id"],
            "conf": conf,
        }
        return web.json_response({"success": True, "submissionId": app.driver})

    async def _status(self, request: web.Request) -> web.Response:
        found = self.drivers.get(request.match_info["id"])
        return web.json_response({"success": bool(found), "driverState": found["state"] if found else None})

    async def _kill_driver(self, request: web.Request) -> web.Response:
        found = next((app for app in self.apps if app.driver == request.match_info["id"]), None)
        if found is not None and not found.is_over:
            self.effects += 1
            self._end(found, "KILLED")
        return web.json_response({"success": found is not None})


def worker(host: str, *, cores: int = 4, used: int = 0) -> dict[str, Any]:
    """A row of the master's list of workers."""
    return {
        "id": f"worker-{host}",
        "host": host,
        "state": "ALIVE",
        "webuiaddress": f"http://{host}:8081",
        "cores": cores,
        "coresused": used,
        "memory": 4096,
        "memoryused": used * 512,
    }


def stage(
    number: int,
    began_at: float,
    status: str,
    *,
    name: str = "count",
    seconds: float = 1.0,
    tasks_done: int = 0,
) -> dict[str, Any]:
    """A row of an application's list of stages."""
    ended = {} if status == "ACTIVE" else {"completionTime": _time(began_at + seconds)}
    tasks = {"numTasks": 2, "numCompleteTasks": tasks_done, "numActiveTasks": int(status == "ACTIVE")}
    return {
        "stageId": number,
        "status": status,
        "name": name,
        "submissionTime": _time(began_at),
        **tasks,
        **ended,
    }


def _app_row(app: FakeApp) -> dict[str, Any]:
    return {
        "id": app.id,
        "name": app.name,
        "state": app.state,
        "starttime": int(app.started_at * 1000),
        "cores": app.cores,
        "memoryperexecutor": 512,
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "GMT"
