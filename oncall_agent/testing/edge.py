"""What declared requests usually lead to, in this process: flags, a balancer, a cache with its origin, a pipeline."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from oncall_agent.contract import Clock, SystemClock


class FakeEdge:
    """Open it with `async with`; make it sick by its attributes; `effects` counts what was really changed.

    Attributes:
        token: when set, every request but those of visitors must carry it as bearer token.
        hangs: requests are accepted and not answered.
        weights, healthy: the balancer's members.
        origin, cached: path -> content.
        pipeline: what `GET /pipeline` answers.
    """

    def __init__(self, clock: Clock | None = None, *, token: str = "") -> None:
        self.clock, self.token = clock or SystemClock(), token
        self.flags: dict[str, Any] = {"new-checkout": True}
        self.weights: dict[str, int] = {"blue": 1, "green": 1}
        self.healthy = ["blue", "green"]
        self.origin: dict[str, str] = {"/a.css": "new", "/b.css": "new"}
        self.cached: dict[str, str] = {"/a.css": "old", "/b.css": "old"}
        self.tags: dict[str, list[str]] = {"css": ["/a.css", "/b.css"]}
        self.artifacts, self.is_frozen, self.has_room = ["1.0.0", "1.1.0"], False, True
        self.pipeline: dict[str, Any] = {}
        self.broken = False
        self.hangs = False
        self.effects = 0
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self._keys: set[str] = set()
        self._runner: web.AppRunner | None = None
        self.deploy("1.0.0", "")
        self.deploy("1.1.0", "")

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guarded])
        add = app.router.add_route
        add("GET", "/flags/{name}", self._flag)
        add("PUT", "/flags/{name}", self._set_flag)
        add("GET", "/pool", self._members)
        add("PUT", "/pool/{member}", self._set_weight)
        add("GET", "/cdn{path:/.*}", self._visit)
        add("GET", "/origin{path:/.*}", self._ask_origin)
        add("PUT", "/origin{path:/.*}", self._change_origin)
        add("PURGE", "/purge{path:/.*}", self._purge)
        add("POST", "/purge-tag/{tag}", self._purge_tag)
        add("GET", "/pipeline", self._deployed)
        add("POST", "/pipeline", self._deploy)
        add("GET", "/status", self._status)
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

    def deploy(self, version: str, key: str) -> None:
        """Deploy a version, as a person or the pipeline's caller would."""
        self.pipeline = {
            "version": version,
            "previous": self.pipeline.get("version"),
            "at": self.clock.now(),
            "key": key,
        }

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if self.hangs:
            await asyncio.sleep(3600)
        is_visitor = request.path.startswith(("/cdn/", "/origin/"))
        if self.token and not is_visitor and request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _flag(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.flags:
            raise web.HTTPNotFound
        return web.json_response({"value": self.flags[name]})

    async def _set_flag(self, request: web.Request) -> web.Response:
        self.effects += 1
        self.flags[request.match_info["name"]] = (await request.json())["value"]
        return web.Response(status=204)

    async def _members(self, _request: web.Request) -> web.Response:
        return web.json_response({"weights": self.weights, "healthy": self.healthy})

    async def _set_weight(self, request: web.Request) -> web.Response:
        self.effects += 1
        self.weights[request.match_info["member"]] = (await request.json())["weight"]
        return web.Response(status=204)

    async def _visit(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        if path not in self.cached and path not in self.origin:
            raise web.HTTPNotFound(headers={"X-Cache-Status": "MISS"})
        status = "HIT" if path in self.cached else "MISS"
        content = self.cached.setdefault(path, self.origin.get(path, ""))
        return web.Response(text=content, headers={"X-Cache-Status": status})

    async def _ask_origin(self, request: web.Request) -> web.Response:
        return web.Response(text=self.origin.get(request.match_info["path"], ""))

    async def _change_origin(self, request: web.Request) -> web.Response:
        self.effects += 1
        self.origin[request.match_info["path"]] = str(await request.json())
        return web.Response(status=204)

    async def _purge(self, request: web.Request) -> web.Response:
        self.effects += 1
        self.cached.pop(request.match_info["path"], None)
        return web.Response(status=204)

    async def _purge_tag(self, request: web.Request) -> web.Response:
        self.effects += 1
        for path in self.tags.get(request.match_info["tag"], []):
            self.cached.pop(path, None)
        return web.Response(status=204)

    async def _deployed(self, _request: web.Request) -> web.Response:
        more = {"artifacts": self.artifacts, "frozen": self.is_frozen, "live": self.pipeline["version"]}
        return web.json_response({**self.pipeline, **more})

    async def _deploy(self, request: web.Request) -> web.Response:
        key = request.headers.get("Idempotency-Key", "")
        if key not in self._keys:
            self._keys.add(key)
            self.effects += 1
            self.deploy((await request.json())["version"], key)
        return await self._deployed(request)

    async def _status(self, _request: web.Request) -> web.Response:
        if self.broken:
            raise web.HTTPInternalServerError
        return web.json_response({"ok": True, "room": self.has_room, "bad": self.flags["new-checkout"]})
