"""A Kubernetes API server in this process, on a real loopback port, with controllers that work at once."""

from __future__ import annotations

import asyncio
import copy
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from oncall_agent.contract import Clock, SystemClock
from oncall_agent.testing.kubernetes_state import ClusterState, Json, Key, matches, merged

_JSON_PATCH = "application/json-patch+json"
_NODES = 4


class FakeKubernetes:
    """Open it with `async with`; look at and break it through `state`.

    It knows Deployments with their replica sets and pods, autoscalers, nodes, Jobs, leases and evictions; it has no
    disruption budgets, quotas or rights.

    Attributes:
        token: every request must carry it.
        hangs: requests are accepted and not answered.
    """

    def __init__(self, clock: Clock | None = None, *, token: str = "") -> None:
        self.token, self.hangs, self.url = token, False, ""
        self.state = ClusterState(clock or SystemClock())
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        room = {"allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"}}
        for number in range(_NODES):
            self.state.put(("nodes", "", f"node{number}"), {"status": {**ready, **room}})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def deploy(self, namespace: str, name: str, *, replicas: int = 1, secret: str = "") -> None:
        """Make a Deployment, well; its environment holds the secret."""
        container = {
            "name": "main",
            "command": ["serve"],
            "env": [{"name": "PASSWORD", "value": secret}],
            "resources": {"limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}},
        }
        labels = {"app": name}
        template = {"metadata": {"labels": dict(labels)}, "spec": {"containers": [container]}}
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        self.state.put(("deployments", namespace, name), {"spec": spec})
        self.state.settle()

    def change(self, key: Key, change: Json) -> None:
        """Change an object by a merge patch, as a person would; it does not count."""
        before = self.state.changes.copy()
        self.state.replace(key, merged(self.state.objects[key], change))
        self.state.settle()
        self.state.changes = before

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.hangs:
            await asyncio.sleep(3600)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _refused(401, "Unauthorized")
        if request.path == "/version":
            return web.json_response({"gitVersion": "v1.34.0"})
        key, sub = _parsed(request.path)
        if request.method == "GET":
            return self._read(request, key, sub)
        body = await request.json() if request.can_read_body else {}
        answer = self._write(request, key, sub, body)
        self.state.settle()
        return answer

    def _read(self, request: web.Request, key: Key, sub: str) -> web.Response:
        if sub == "log":
            return web.Response(text="started\nstopped\n")
        if key[2]:
            found = self.state.objects.get(key)
            return web.json_response(found) if found else _refused(404, f"{key[0]} {key[2]} not found")
        items = [
            one
            for one in self.state.of(key[0], key[1])
            if matches(one, request.query.get("labelSelector", ""))
            and _is_on(one, request.query.get("fieldSelector", ""))
        ]
        return web.json_response({"items": items, "metadata": {}})

    def _write(self, request: web.Request, key: Key, sub: str, body: Any) -> web.Response:
        if sub == "eviction":
            options = body.get("deleteOptions") or {}
            return self._delete(key, options, is_dry=bool(options.get("dryRun")))
        if request.method == "POST":
            return self._create((key[0], key[1], body["metadata"]["name"]), body)
        if request.method == "DELETE":
            return self._delete(key, body, is_dry=False)
        found = self.state.objects.get(key)
        if found is None:
            return _refused(404, f"{key[0]} {key[2]} not found")
        if request.method == "PUT":
            changed = {**found, **body, "metadata": {**found["metadata"], **body["metadata"]}}
        else:
            changed = _patched(found, body, is_json_patch=request.content_type == _JSON_PATCH)
        if any(changed["metadata"][word] != found["metadata"][word] for word in ("uid", "resourceVersion")):
            return _refused(409, "the object has been modified")
        self.state.replace(key, changed)
        return web.json_response(self.state.objects[key])

    def _create(self, key: Key, body: Json) -> web.Response:
        if key in self.state.objects:
            return _refused(409, "already exists")
        self.state.changes[key[0]] += 1
        return web.json_response(self.state.put(key, body), status=201)

    def _delete(self, key: Key, options: Json, *, is_dry: bool) -> web.Response:
        found = self.state.objects.get(key)
        if found is None:
            return _refused(404, f"{key[0]} {key[2]} not found")
        if (options.get("preconditions") or {}).get("uid") not in (None, found["metadata"]["uid"]):
            return _refused(409, "the uid is another one")
        if not is_dry:
            self.state.changes[key[0]] += 1
            del self.state.objects[key]
        return web.json_response({"status": "Success"})


def _parsed(path: str) -> tuple[Key, str]:
    words = path.strip("/").split("/")
    words = words[2:] if words[0] == "api" else words[3:]
    namespace = ""
    if words[0] == "namespaces":
        namespace, words = words[1], words[2:]
    words += ["", ""]
    return (words[0], namespace, words[1]), words[2]


def _patched(found: Json, body: Any, *, is_json_patch: bool) -> Json:
    if not is_json_patch:
        changed: Json = merged(copy.deepcopy(found), body)
        return changed
    changed = copy.deepcopy(found)
    for one in body:
        *way, last = one["path"].strip("/").split("/")
        place = changed
        for word in way:
            place = place[word]
        place[last] = copy.deepcopy(one["value"])
    return changed


def _is_on(item: Json, selector: str) -> bool:
    field, _, value = selector.partition("=")
    return field != "spec.nodeName" or item["spec"].get("nodeName") == value


def _refused(status: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "message": message}, status=status)
