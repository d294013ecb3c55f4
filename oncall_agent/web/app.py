"""The application: every route, one border where errors become responses, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from oncall_agent.errors import OncallAgentError
from oncall_agent.telemetry.log import logger
from oncall_agent.web import api, dashboard, health, openapi
from oncall_agent.web.auth import GATE, Gate
from oncall_agent.web.errors import response_of, response_of_http, unexpected
from oncall_agent.web.ingest import INGEST, Ingest
from oncall_agent.web.parts import PARTS, Parts
from oncall_agent.web.routes import Answer, Call, Route, served
from oncall_agent.web.stream import Streams

WEBHOOKS = "/webhooks/"
"""Below it each source has its own authentication, which no foreign page can carry; `Ingest` checks the rest."""
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(parts: Parts) -> web.Application:
    """Give the whole HTTP side for these parts.

    Run it with `access_log=None`: the log has its own lines.

    Raises:
        ConfigError: an expression of a source can't be compiled.
    """
    app = web.Application(middlewares=[border], client_max_size=parts.settings.server.max_body_bytes)
    gate = Gate(parts.settings.server, parts.secrets, parts.clock)
    ingest, streams = Ingest(parts, gate), Streams(parts.settings.server.max_streams)
    app[PARTS], app[GATE], app[INGEST] = parts, gate, ingest
    # First, so that the hot path is found first.
    app.router.add_post("/webhooks/{source}", ingest.receive)
    _add_routes(app, parts, streams)
    dashboard.add_routes(app, parts)
    app.on_shutdown.append(_calling(streams.close))
    app.on_cleanup.append(_calling(ingest.close))
    return app


def _add_routes(app: web.Application, parts: Parts, streams: Streams) -> None:
    stream = Route(
        "GET",
        "/api/v1/stream",
        "What changes, as server-sent events",
        streams.answer,
        str,
        errors=(503,),
        media="text/event-stream",
    )
    described = [*api.ROUTES, *health.ROUTES, stream]
    show = _description(described, parts)
    described.append(Route("GET", "/openapi.json", "This description", show, dict[str, Any], None))
    for route in described:
        app.router.add_route(route.method, route.path, served(route))


def _description(routes: Sequence[Route], parts: Parts) -> Answer:
    """Give what answers `/openapi.json`: made when first asked for, since a start must be quick."""
    made: list[dict[str, Any]] = []

    async def show_openapi(_: Call) -> dict[str, Any]:
        if not made:
            made.append(await asyncio.to_thread(openapi.document, routes, parts.settings))
        return made[0]

    return show_openapi


def _calling(act: Callable[[], None]) -> Callable[[web.Application], Awaitable[None]]:
    async def called(_: web.Application) -> None:
        act()

    return called


@web.middleware
async def border(request: web.Request, handler: Next) -> web.StreamResponse:
    """Refuse foreign pages, and turn every error into the one JSON shape."""
    try:
        if not request.path.startswith(WEBHOOKS):
            request.app[GATE].check_origin(request)
        return await handler(request)
    except OncallAgentError as error:
        response = response_of(error)
        if response.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            _log_failure(request, error)
        return response
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        return response_of_http(error)
    except Exception as error:  # noqa: BLE001 - the server's border: a broken request must not break the server
        _log_failure(request, error)
        return unexpected()


def _log_failure(request: web.Request, error: BaseException) -> None:
    logger().error("request.failed", path=request.path, error=type(error).__name__, exc_info=error)
