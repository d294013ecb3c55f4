"""A small app that really falls ill: `python -m oncall_agent.demo.patient --name checkout`.

Two processes: the app itself, which can crash, leak and stall, and its supervisor, which speaks `/deploy`,
`/restart`, `/logs`, and outlives it. Faults come in through `/break` only. `/effects` counts from outside what
was really done under each Idempotency-Key. On start it prints one JSON line with its addresses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from oncall_agent.demo.supervisor import FAULTS, AppState, Supervisor

_MAX_KEYS = 200_000
_Change = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Effects:
    """What was asked for and what was done, by Idempotency-Key; the oldest keys go at the bound."""

    def __init__(self, *, remembers: bool) -> None:
        self._remembers = remembers
        self._answers: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._counts: OrderedDict[str, list[int]] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}
        self.total = 0

    async def once(
        self, key: str, path: str, change: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Carry a change out once per key and give the same answer ever after."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                return await self._once(key, path, change)
        finally:
            if not lock.locked():
                self._locks.pop(key, None)

    async def _once(
        self, key: str, path: str, change: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        counts = self._counts.setdefault(key, [0, 0])
        counts[0] += 1
        known = self._answers.get(f"{path} {key}") if key and self._remembers else None
        if known is not None:
            return known
        answer = await change()
        counts[1] += 1
        self.total += 1
        self._answers[f"{path} {key}"] = answer
        for store in (self._answers, self._counts):
            while len(store) > _MAX_KEYS:
                store.popitem(last=False)
        return answer

    def as_json(self, over: int) -> dict[str, Any]:
        """Give the keys with more than `over` effects, and the totals."""
        counts = {
            key: {"requests": got, "effects": done}
            for key, (got, done) in self._counts.items()
            if done > over
        }
        requests = sum(got for got, _ in self._counts.values())
        return {"total": self.total, "requests": requests, "keys": len(self._counts), "by_key": counts}


def build(supervisor: Supervisor, effects: Effects) -> web.Application:
    """Give the control side as an aiohttp application."""
    app = web.Application(client_max_size=65_536)
    flushes = 0

    def changing(path: str, change: _Change) -> None:
        async def post(request: web.Request) -> web.Response:
            body = await _body(request)
            key = request.headers.get("Idempotency-Key", "")[:200]
            body["key"] = key
            return web.json_response(await effects.once(key, path, lambda: change(body)))

        app.router.add_post(path, post)

    async def flush(_body: dict[str, Any]) -> dict[str, Any]:
        nonlocal flushes
        flushes += 1
        return {"flushes": flushes}

    changing("/restart", lambda _body: supervisor.restart())
    changing("/deploy", supervisor.deploy)
    changing("/flush", flush)

    async def broken(request: web.Request) -> web.Response:
        fault = str((await _body(request)).get("fault"))
        if fault not in FAULTS:
            raise web.HTTPBadRequest(
                text=json.dumps({"error": "unknown fault"}), content_type="application/json"
            )
        await supervisor.break_down(fault)
        return web.json_response({"fault": fault})

    app.router.add_post("/break", broken)
    app.router.add_get("/deploy", _reading(supervisor.deployment))
    app.router.add_get("/logs", _reading(lambda: {"lines": list(supervisor.lines)}))
    app.router.add_get("/flush", _reading(lambda: {"flushes": flushes}))
    app.router.add_get("/effects", _effects(effects))
    return app


def _reading(read: Callable[[], dict[str, Any]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def get(_request: web.Request) -> web.Response:
        return web.json_response(read())

    return get


def _effects(effects: Effects) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def get(request: web.Request) -> web.Response:
        over = request.query.get("over", "0")
        return web.json_response(effects.as_json(int(over) if over.isdecimal() else 0))

    return get


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        value = await request.json() if request.can_read_body else {}
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise web.HTTPBadRequest(
            text=json.dumps({"error": "a JSON object is wanted"}), content_type="application/json"
        )
    return value


async def serve(arguments: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT; the app ends with its supervisor."""
    state = AppState(
        name=arguments.name,
        version=arguments.version,
        replicas=arguments.replicas,
        memory_mib=arguments.memory_mib,
        bad_versions=tuple(arguments.bad_version),
    )
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    supervisor = Supervisor(state, arguments.host, arguments.port)
    runner = web.AppRunner(build(supervisor, Effects(remembers=not arguments.forgetful)), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, arguments.host, arguments.control_port)
        await site.start()
        port = runner.addresses[0][1]
        await supervisor.start()
        ready = {
            "name": arguments.name,
            "url": supervisor.url,
            "control_url": f"http://{arguments.host}:{port}",
        }
        print(json.dumps(ready), flush=True)  # noqa: T201 - whoever started it reads the addresses there
        await stopped.wait()
    finally:
        await supervisor.close()
        await runner.cleanup()


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="oncall_agent.demo.patient", description="A small app that falls ill."
    )
    parser.add_argument("--name", default="patient")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="of the app; 0 lets the system choose")
    parser.add_argument("--control-port", type=int, default=0, help="of /deploy, /restart, /logs")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument(
        "--bad-version", action="append", default=["1.1.0"], help="leaks database connections"
    )
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--memory-mib", type=int, default=64, help="the limit that the leak stays under")
    parser.add_argument("--forgetful", action="store_true", help="act again on a repeated Idempotency-Key")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the patient; the exit code is 0 unless it could not start."""
    asyncio.run(serve(_arguments(sys.argv[1:] if argv is None else argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
