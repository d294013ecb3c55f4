"""`/openapi.json`: complete, and what the server does agrees with it under generated requests."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from web.sites import HandClock, Site, open_store, parts_of, settings_of

from oncall_agent.web import api, health
from oncall_agent.web.app import build


async def test_every_route_of_the_api_is_described(site: Site) -> None:
    _, document = await site.get("/openapi.json")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert {(route.method, route.path) for route in (*api.ROUTES, *health.ROUTES)} <= described
    assert {("POST", f"/webhooks/{name}") for name in site.parts.settings.sources} <= described
    served = {
        (route.method, resource.canonical)
        for resource in site.client.app.router.resources()  # type: ignore[union-attr]
        for route in resource
        if route.method != "HEAD" and resource.canonical.startswith("/api/")
    }
    assert served <= described


async def test_references_of_the_description_lead_somewhere(site: Site) -> None:
    _, document = await site.get("/openapi.json")
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known


async def test_tokens_are_described_when_they_are_asked_for(site: Site, guarded: Site) -> None:
    _, open_document = await site.get("/openapi.json")
    _, guarded_document = await guarded.get("/openapi.json")
    assert "security" not in open_document["paths"]["/api/v1/incidents"]["get"]
    assert [{"bearer": []}] == guarded_document["paths"]["/api/v1/incidents"]["get"]["security"]
    assert "security" not in guarded_document["paths"]["/healthz"]["get"]
    assert [{"source_basic": []}] == open_document["paths"]["/webhooks/basic"]["post"]["security"]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (part["$ref"],) if "$ref" in part else ()
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


# --- generated requests ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A live server on a free loopback port, in a thread with a loop of its own."""
    ready: threading.Event = threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        clock = HandClock()
        sources = {"alertmanager": {"kind": "alertmanager"}, "generic": {"kind": "generic"}}
        chosen = settings_of(tmp_path_factory.mktemp("openapi"), sources=sources)
        store = await open_store(chosen, clock)
        runner = web.AppRunner(build(parts_of(chosen, store, clock)), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.update(port=runner.addresses[0][1], loop=asyncio.get_running_loop(), stop=asyncio.Event())
        ready.set()
        await found["stop"].wait()
        await runner.cleanup()
        await store.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield f"http://127.0.0.1:{found['port']}"
    found["loop"].call_soon_threadsafe(found["stop"].set)
    thread.join(20)


@pytest.fixture(scope="module")
def schema(address: str) -> Any:
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


OPERATIONS = [
    *((route.method, route.path) for route in (*api.ROUTES, *health.ROUTES)),
    ("GET", "/openapi.json"),
    ("POST", "/webhooks/alertmanager"),
    ("POST", "/webhooks/generic"),
]
WITH_INPUT = [
    *(
        (route.method, route.path)
        for route in api.ROUTES
        if route.query or route.body or "{id}" in route.path
    ),
    ("POST", "/webhooks/alertmanager"),
]
CASES = [
    *((*operation, GenerationMode.POSITIVE) for operation in OPERATIONS),
    *((*operation, GenerationMode.NEGATIVE) for operation in WITH_INPUT),
]
WEBHOOK_EXEMPT = "positive_data_acceptance"
"""A webhook's schema says less than its parser asks (times, an `alertname`, the operator's own expressions)."""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_the_server_does_what_its_description_says(
    schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    exempt = {WEBHOOK_EXEMPT} if path.startswith("/webhooks/") else set()
    checks = [check for check in CHECKS.get_all() if check.__name__ not in exempt]

    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def agrees(case: Any) -> None:
        case.call_and_validate(checks=checks, timeout=10)

    agrees()
