"""An app in this process that speaks the protocol of `actions.app`, on a real loopback port."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from oncall_agent.contract import Clock, SystemClock


class FakePatient:
    """Open it with `async with`; break it by its attributes; `effects` counts what was really done.

    Attributes:
        token: when set, every request must carry it as bearer token.
        hangs: requests are accepted and not answered.
        is_down: the status answers 503.
    """

    def __init__(self, clock: Clock | None = None, *, token: str = "") -> None:
        self.clock, self.token = clock or SystemClock(), token
        self.state: dict[str, Any] = {"version": "1.0.0", "replicas": 1}
        self.old: dict[str, Any] = {"version": "0.9.0", "replicas": 1}
        self.deployed_at = self.started_at = self.clock.now()
        self.key, self.error_rate, self.memory, self.flushes = "", 0.0, 0.5, 0
        self.bad_versions: set[str] = {"1.1.0"}
        self.is_down = self.hangs = False
        self.requests: list[tuple[str, str]] = []
        self.effects = 0
        self._answers: dict[tuple[str, str], dict[str, Any]] = {}
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guarded])
        app.router.add_get("/api/v1/status", self._status)
        app.router.add_get("/deploy", self._deployment)
        app.router.add_get("/logs", self._logs)
        for path in ("/deploy", "/restart", "/flush"):
            app.router.add_post(path, self._change)
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
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _status(self, _request: web.Request) -> web.Response:
        if self.is_down:
            raise web.HTTPServiceUnavailable
        rate = 0.9 if self.state["version"] in self.bad_versions else self.error_rate
        numbers = {
            "error_rate": rate,
            "memory_bytes": self.memory * 100,
            "memory_limit_bytes": 100,
            "cpu": 0.1,
        }
        return web.json_response(
            {**self.state, **numbers, "started_at": self.started_at, "flushes": self.flushes}
        )

    async def _deployment(self, _request: web.Request) -> web.Response:
        return web.json_response(self._deployed())

    async def _logs(self, _request: web.Request) -> web.Response:
        return web.json_response({"lines": ["started", "error: database timeout"]})

    async def _change(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        key = request.headers.get("Idempotency-Key", "")
        known = self._answers.get((request.path, key)) if key else None
        if known is None:
            self.effects += 1
            known = self._act(request.path, body, key)
            self._answers[request.path, key] = known
        return web.json_response(known)

    def _act(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        if path == "/flush":
            self.flushes += 1
            return {"flushes": self.flushes}
        self.started_at = max(self.clock.now(), self.started_at + 1.0)
        if path == "/restart":
            self.error_rate, self.memory, self.is_down = 0.0, 0.5, False
            return {"started_at": self.started_at}
        self.old, self.state, self.key = self.state, {**self.state, **body}, key
        self.deployed_at = self.clock.now()
        if self.state["replicas"] > self.old["replicas"]:
            self.error_rate = 0.0
        return self._deployed()

    def _deployed(self) -> dict[str, Any]:
        previous = self.old["version"] if self.old["version"] != self.state["version"] else None
        return {
            **self.state,
            "previous": previous,
            "previous_replicas": self.old["replicas"],
            "deployed_at": self.deployed_at,
            "key": self.key,
            "started_at": self.started_at,
        }
