"""`/healthz`, `/readyz` and `/metrics`: for orchestrators and Prometheus."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from oncall_agent import __version__
from oncall_agent.web.errors import reply
from oncall_agent.web.routes import Call, Route
from oncall_agent.web.schemas import HealthBody, ReadyBody


async def healthz(_: Call) -> HealthBody:
    """Say that the process answers; a restart would help if it did not."""
    return HealthBody("ok", __version__)


async def readyz(call: Call) -> web.Response:
    """Say whether every part works: 503 names those that do not."""
    readiness = call.parts.readiness()
    body = {"ok": readiness.ok, "parts": dict(readiness.parts)}
    return reply(body, status=200 if readiness.ok else 503)


async def metrics(call: Call) -> web.Response:
    """Give the metrics in Prometheus' text format."""
    return web.Response(body=call.parts.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", "Whether the process answers", healthz, HealthBody, None),
    Route("GET", "/readyz", "Whether every part works", readyz, ReadyBody, None),
    Route("GET", "/metrics", "Metrics for Prometheus", metrics, str, media="text/plain"),
)
