"""An Airflow in this process, on a real loopback port, that speaks either of its two REST APIs.

Airflow 2 (`/api/v1`) is spoken as its documentation says, Airflow 3 (`/api/v2`) as a real server does.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from oncall_agent.contract import Clock, SystemClock
from oncall_agent.testing.airflow_state import FakeDag, FakePool, FakeRun, FakeTask, FakeWorld, date_of

_PUBLIC = ("/version", "/health", "/monitor/health")


class FakeAirflow:
    """Open it with `async with`; `world` is what its API shows and changes.

    Attributes:
        version: 2.x is asked over `/api/v1` with basic authentication, 3.x over `/api/v2` with a token.
        may_change: whether the user's role permits more than reading.
        hangs: requests are accepted and not answered.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        version: str = "3.3.2",
        username: str = "me",
        password: str,
    ) -> None:
        self.world = FakeWorld(clock or SystemClock())
        self.version, self.username, self.password = version, username, password
        self.may_change, self.hangs = True, False
        self.tokens: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    @property
    def is_v1(self) -> bool:
        """Whether it speaks the API of Airflow 2."""
        return self.version.startswith("2.")

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guarded])
        base = "/api/v1" if self.is_v1 else "/api/v2"
        runs, run = f"{base}/dags/{{dag}}/dagRuns", f"{base}/dags/{{dag}}/dagRuns/{{run}}"
        add = app.router.add_route
        if not self.is_v1:
            add("POST", "/auth/token", self._sign_in)
        add("GET", f"{base}/version", self._version)
        add("GET", f"{base}/health" if self.is_v1 else f"{base}/monitor/health", self._health)
        add("GET", f"{base}/dags", self._dags)
        add("GET", f"{base}/dags/{{dag}}", self._dag)
        add("PATCH", f"{base}/dags/{{dag}}", self._pause)
        add("GET", f"{base}/dags/{{dag}}/tasks/{{task}}", self._task)
        add("POST", f"{base}/dags/{{dag}}/clearTaskInstances", self._clear)
        add("GET", runs, self._runs)
        add("POST", runs, self._trigger)
        add("GET", run, self._run)
        add("PATCH", run, self._patch_run)
        add("PATCH", f"{run}/setNote", self._note)
        add("POST", f"{run}/clear", self._clear_run)
        add("GET", f"{run}/taskInstances", self._work)
        add("PATCH", f"{run}/taskInstances/{{task}}", self._patch_task)
        add("GET", f"{run}/taskInstances/{{task}}/logs/{{number}}", self._log)
        add("GET", f"{base}/pools/{{pool}}", self._pool)
        add("PATCH", f"{base}/pools/{{pool}}", self._patch_pool)
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

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if self.hangs:
            await asyncio.sleep(3600)
        self.world.go_on()
        if request.path != "/auth/token" and not request.path.endswith(_PUBLIC):
            self._check(request)
        answer: web.StreamResponse = await handler(request)
        return answer

    def _check(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "")
        if self.is_v1:
            pair = b64encode(f"{self.username}:{self.password}".encode()).decode()
            if given != f"Basic {pair}":
                raise _refusal(web.HTTPUnauthorized, title="Unauthorized")
        elif not given:
            raise _refusal(web.HTTPUnauthorized, detail="Not authenticated")
        elif given.removeprefix("Bearer ") not in self.tokens:
            raise _refusal(web.HTTPForbidden, detail="Invalid JWT token")
        if request.method != "GET" and not self.may_change:
            raise _refusal(web.HTTPForbidden, detail="Forbidden")

    async def _sign_in(self, request: web.Request) -> web.Response:
        if await request.json() != {"username": self.username, "password": self.password}:
            raise _refusal(web.HTTPUnauthorized, detail="Invalid credentials")
        self.tokens.append(f"token-{len(self.tokens)}-of-{self.username}")
        return web.json_response({"access_token": self.tokens[-1]}, status=201)

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": self.version, "git_version": None})

    async def _health(self, _request: web.Request) -> web.Response:
        state = "healthy" if self.world.has_scheduler else "unhealthy"
        beat = date_of(self.world.clock.now())
        scheduler = {"status": state, "latest_scheduler_heartbeat": beat}
        return web.json_response({"metadatabase": {"status": "healthy"}, "scheduler": scheduler})

    async def _dags(self, _request: web.Request) -> web.Response:
        shown = [self._shown_dag(dag) for dag in self.world.dags.values()]
        return web.json_response({"dags": shown, "total_entries": len(shown)})

    async def _dag(self, request: web.Request) -> web.Response:
        return web.json_response(self._shown_dag(self._found_dag(request)))

    async def _pause(self, request: web.Request) -> web.Response:
        dag, body = self._found_dag(request), await request.json()
        if not isinstance(body["is_paused"], bool):
            raise _refusal(web.HTTPUnprocessableEntity, detail="is_paused: a boolean is wanted")
        self.world.changes.append(("pause", dag.id))
        dag.is_paused = body["is_paused"]
        return web.json_response(self._shown_dag(dag))

    async def _task(self, request: web.Request) -> web.Response:
        after = ["publish"] if request.match_info["task"] == "load" else []
        return web.json_response({"task_id": request.match_info["task"], "downstream_task_ids": after})

    async def _clear(self, request: web.Request) -> web.Response:
        self._found_dag(request)
        body = await request.json()
        run = self._named_run(request.match_info["dag"], body["dag_run_id"])
        names = self.world.cleared(run, list(body.get("task_ids") or []), only_failed=body["only_failed"])
        if not body["dry_run"]:
            self.world.clear(run, names)
        return web.json_response({"task_instances": [self._shown_task(run, name) for name in names]})

    async def _runs(self, request: web.Request) -> web.Response:
        self._found_dag(request)
        states = request.query.getall("state", [])
        order, limit = request.query.get("order_by", ""), int(request.query.get("limit", "100"))
        known = "execution_date" if self.is_v1 else "run_after"
        if order.removeprefix("-") not in ("", known):
            raise _refusal(web.HTTPBadRequest, detail=f"no ordering by {order}")
        chosen = [
            run
            for run in self.world.runs.values()
            if run.dag == request.match_info["dag"] and (not states or run.state in states)
        ]
        chosen.sort(key=lambda run: run.made_at, reverse=order.startswith("-"))
        shown = [self._shown_run(run) for run in chosen[:limit]]
        return web.json_response({"dag_runs": shown, "total_entries": len(chosen)})

    async def _trigger(self, request: web.Request) -> web.Response:
        dag, body = self._found_dag(request), await request.json()
        if not self.is_v1 and body.get("logical_date", "") is not None:
            raise _refusal(web.HTTPUnprocessableEntity, detail="logical_date: null or a date is wanted")
        if (dag.id, body["dag_run_id"]) in self.world.runs:
            raise _refusal(web.HTTPConflict, detail="DAGRun already exists")
        run = FakeRun(dag.id, body["dag_run_id"], made_at=self.world.clock.now(), note=body.get("note"))
        run.conf = dict(body.get("conf") or {})
        self.world.changes.append(("trigger", run.id))
        self.world.runs[dag.id, run.id] = run
        return web.json_response(self._shown_run(run))

    async def _run(self, request: web.Request) -> web.Response:
        return web.json_response(self._shown_run(self._found_run(request)))

    async def _patch_run(self, request: web.Request) -> web.Response:
        run, body = self._found_run(request), await request.json()
        if "note" in body and not self.is_v1:
            run.note = body["note"]
        if "state" in body:
            self.world.end(run, body["state"])
        return web.json_response(self._shown_run(run))

    async def _note(self, request: web.Request) -> web.Response:
        run = self._found_run(request)
        run.note = (await request.json())["note"]
        return web.json_response(self._shown_run(run))

    async def _clear_run(self, request: web.Request) -> web.Response:
        run = self._found_run(request)
        if not (await request.json())["dry_run"]:
            self.world.clear(run, list(run.tasks))
        return web.json_response(self._shown_run(run))

    async def _work(self, request: web.Request) -> web.Response:
        run, start = self._found_run(request), int(request.query.get("offset", "0"))
        shown = [self._shown_task(run, name) for name in list(run.tasks)[start:]]
        return web.json_response({"task_instances": shown, "total_entries": len(run.tasks)})

    async def _patch_task(self, request: web.Request) -> web.Response:
        run, body, name = self._found_run(request), await request.json(), request.match_info["task"]
        if run.tasks[name].state == body["new_state"]:
            raise _refusal(web.HTTPConflict, detail=f"Task id {name} is already in that state")
        if not body.get("dry_run"):
            self.world.end_task(run, name, body["new_state"])
        return web.json_response(self._shown_task(run, name))

    async def _log(self, _request: web.Request) -> web.Response:
        lines = [{"level": "error", "event": "Task failed with exception"}]
        return web.json_response({"content": "Task failed with exception" if self.is_v1 else lines})

    async def _pool(self, request: web.Request) -> web.Response:
        return web.json_response(_shown_pool(self._found_pool(request)))

    async def _patch_pool(self, request: web.Request) -> web.Response:
        pool, body = self._found_pool(request), await request.json()
        if not self.is_v1 and not {"pool", "include_deferred"} <= set(body):
            raise _refusal(web.HTTPUnprocessableEntity, detail="pool, include_deferred: Field required")
        self.world.changes.append(("slots", pool.name))
        pool.slots = int(body["slots"])
        return web.json_response(_shown_pool(pool))

    def _found_dag(self, request: web.Request) -> FakeDag:
        try:
            return self.world.dags[request.match_info["dag"]]
        except KeyError:
            raise _refusal(web.HTTPNotFound, detail="DAG not found") from None

    def _found_run(self, request: web.Request) -> FakeRun:
        return self._named_run(request.match_info["dag"], request.match_info["run"])

    def _named_run(self, dag: str, run: str) -> FakeRun:
        try:
            return self.world.runs[dag, run]
        except KeyError:
            raise _refusal(web.HTTPNotFound, detail="DAGRun not found") from None

    def _found_pool(self, request: web.Request) -> FakePool:
        try:
            return self.world.pools[request.match_info["pool"]]
        except KeyError:
            raise _refusal(web.HTTPNotFound, detail="Pool not found") from None

    def _shown_dag(self, dag: FakeDag) -> dict[str, Any]:
        shown = {"dag_id": dag.id, "is_paused": dag.is_paused, "max_active_runs": dag.max_active_runs}
        tags = [{"name": tag} for tag in dag.tags]
        life = {"is_active": True} if self.is_v1 else {"is_stale": False}
        return {**shown, "tags": tags, "has_import_errors": False, **life}

    def _shown_run(self, run: FakeRun) -> dict[str, Any]:
        due = {"execution_date" if self.is_v1 else "run_after": date_of(run.made_at)}
        times = {"start_date": date_of(run.started_at), "end_date": date_of(run.ended_at)}
        known = {"dag_id": run.dag, "dag_run_id": run.id, "state": run.state, "note": run.note}
        return {**known, **due, **times, "conf": run.conf}

    def _shown_task(self, run: FakeRun, name: str) -> dict[str, Any]:
        task: FakeTask = run.tasks[name]
        known = {"dag_id": run.dag, "dag_run_id": run.id, "task_id": name, "map_index": -1}
        times = {"start_date": date_of(run.started_at), "end_date": date_of(run.ended_at)}
        return {**known, "state": task.state, "try_number": task.tries, **times}


def _shown_pool(pool: FakePool) -> dict[str, Any]:
    free = {"open_slots": pool.slots, "running_slots": 0, "queued_slots": 0, "include_deferred": False}
    return {"name": pool.name, "slots": pool.slots, "scheduled_slots": pool.waiting, **free}


def _refusal(kind: type[web.HTTPException], **said: str) -> web.HTTPException:
    return kind(text=json.dumps(said), content_type="application/json")
