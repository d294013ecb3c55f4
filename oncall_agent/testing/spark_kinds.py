"""What else runs Spark applications, in this process: YARN with Livy, and Kubernetes with the Spark operator.

Both share one port with a history server, as `FakeSpark` does, and keep its applications: `apps`, `add`, `effects`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from oncall_agent.testing.spark import FakeApp, FakeSpark, stage

_LIVY = {"RUNNING": "running", "FINISHED": "success", "FAILED": "dead", "KILLED": "killed"}
_OPERATOR = {"RUNNING": "RUNNING", "FINISHED": "COMPLETED", "FAILED": "FAILED"}
_LABEL = "oncall-agent/application"


class FakeYarn(FakeSpark):
    """A ResourceManager and a Livy server; `drivers` are Livy's batches by number."""

    def _routes(self) -> list[tuple[str, str, Any]]:
        cluster, api = "/ws/v1/cluster", "/api/v1/applications/{app}/{what}"
        return [
            ("GET", f"{cluster}/info", self._about),
            ("GET", f"{cluster}/apps", self._list),
            ("GET", f"{cluster}/apps/{{app}}", self._one),
            ("PUT", f"{cluster}/apps/{{app}}/state", self._set_state),
            *(("GET", base + api, self._rows) for base in ("/proxy/{page}", "/history")),
            ("GET", "/history/api/v1/applications", self._ended),
            ("POST", "/batches", self._new_batch),
            ("GET", "/batches", self._batches),
            ("GET", "/batches/{id}", self._batch),
            ("DELETE", "/batches/{id}", self._end_batch),
        ]

    async def _about(self, _request: web.Request) -> web.Response:
        return web.json_response({"clusterInfo": {"hadoopVersion": "3.4.1", "state": "STARTED"}})

    async def _list(self, request: web.Request) -> web.Response:
        rows = [_yarn_row(app) for app in self.apps if app.name == request.query["name"]]
        return web.json_response({"apps": {"app": rows} if rows else None})

    async def _one(self, request: web.Request) -> web.Response:
        return web.json_response({"app": _yarn_row(self._app(request.match_info["app"]))})

    async def _set_state(self, request: web.Request) -> web.Response:
        wanted = (await request.json())["state"]
        self.effects += 1
        self._end(self._app(request.match_info["app"]), wanted)
        return web.json_response({"state": wanted}, status=202)

    async def _new_batch(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.effects += 1
        app = self.add(asked["conf"]["spark.app.name"], self.end, age=-0.001, properties=asked["conf"])
        app.driver = str(self.count)
        app.stages = [stage(0, self.clock.now(), "COMPLETE", tasks_done=1)]
        self.drivers[app.driver] = {"id": self.count, "name": asked["name"], "state": self.end}
        return web.json_response(_batch_row(self.drivers[app.driver]), status=201)

    async def _batches(self, request: web.Request) -> web.Response:
        first = int(request.query["from"])
        rows = [_batch_row(one) for one in self.drivers.values()]
        page = rows[first : first + int(request.query["size"])]
        return web.json_response({"from": first, "total": len(rows), "sessions": page})

    async def _batch(self, request: web.Request) -> web.Response:
        found = self.drivers.get(request.match_info["id"])
        if found is None:
            raise web.HTTPNotFound
        return web.json_response(_batch_row(found))

    async def _end_batch(self, request: web.Request) -> web.Response:
        found = next((app for app in self.apps if app.driver == request.match_info["id"]), None)
        if found is None:
            raise web.HTTPNotFound
        self.effects += 1
        self._end(found, "KILLED")
        return web.json_response({"msg": "deleted"})


class FakeOperator(FakeSpark):
    """The part of a Kubernetes API that holds SparkApplications of one namespace."""

    def _routes(self) -> list[tuple[str, str, Any]]:
        resources = "/apis/sparkoperator.k8s.io/v1beta2/namespaces/{namespace}/sparkapplications"
        return [
            ("GET", "/version", self._about),
            ("GET", resources, self._list),
            ("POST", resources, self._new),
            ("GET", resources + "/{app}", self._one),
            ("DELETE", resources + "/{app}", self._delete),
            ("GET", "/history/api/v1/applications/{app}/{what}", self._rows),
            ("GET", "/history/api/v1/applications", self._ended),
        ]

    async def _about(self, _request: web.Request) -> web.Response:
        return web.json_response({"gitVersion": "v1.34.4"})

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"items": [_resource(app) for app in self.apps if app.state != "KILLED"]})

    async def _new(self, request: web.Request) -> web.Response:
        asked = await request.json()
        about = asked["metadata"]
        if any(app.id == about["name"] for app in self.apps):
            raise web.HTTPConflict
        self.effects += 1
        conf = asked["spec"]["sparkConf"]
        app = self.add(about["labels"][_LABEL], self.end, age=-1.0, properties=conf)
        app.id = about["name"]
        return web.json_response(_resource(app), status=201)

    async def _one(self, request: web.Request) -> web.Response:
        return web.json_response(_resource(self._known(request)))

    async def _delete(self, request: web.Request) -> web.Response:
        found = self._known(request)
        self.effects += 1
        found.state = "KILLED"
        return web.json_response({"status": "Success"})

    def _known(self, request: web.Request) -> FakeApp:
        found = self._app(request.match_info["app"])
        if found.state == "KILLED":
            raise web.HTTPNotFound
        return found


def _yarn_row(app: FakeApp) -> dict[str, Any]:
    return {
        "id": app.id,
        "name": app.name,
        "state": app.state,
        "finalStatus": {"RUNNING": "UNDEFINED", "FINISHED": "SUCCEEDED"}.get(app.state, app.state),
        "startedTime": int(app.started_at * 1000),
        "allocatedVCores": -1 if app.is_over else app.cores,
        "runningContainers": -1 if app.is_over else 1,
    }


def _batch_row(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "state": _LIVY[batch["state"]]}


def _resource(app: FakeApp) -> dict[str, Any]:
    state = "COMPLETED" if app.is_over else "RUNNING"
    created = datetime.fromtimestamp(app.started_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metadata": {"name": app.id, "creationTimestamp": created, "labels": {_LABEL: app.name}},
        "status": {
            "applicationState": {"state": _OPERATOR[app.state]},
            "executorState": {"exec-1": state},
        },
    }
