"""What the web's tests share: a site on a real store, a clock turned by hand, bodies to post."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import StrOrURL
from yarl import URL

from oncall_agent.contract.secret import Secret
from oncall_agent.errors import ConfigError, NotFoundError
from oncall_agent.rules.placement import Placement
from oncall_agent.settings.model import Settings
from oncall_agent.store import Store
from oncall_agent.telemetry.metrics import Metrics
from oncall_agent.web.front import Front
from oncall_agent.web.parts import Parts

PAYLOADS = Path(__file__).parents[1] / "payloads"
SECRETS = {
    "env:VIEWER": "viewer-token",
    "env:OPERATOR": "operator-token",
    "env:SECOND": "second-token",
    "env:ADMIN": "admin-token",
    "env:SOURCE": "tok-123",
    "env:KEY": "k3y",
    "env:PASSWORD": "s3cret-pass",
}
TOKENS = [
    {"name": "vera", "role": "viewer", "secret": "env:VIEWER"},
    {"name": "otto", "role": "operator", "secret": "env:OPERATOR"},
    {"name": "olga", "role": "operator", "secret": "env:SECOND"},
    {"name": "ada", "role": "admin", "secret": "env:ADMIN"},
]


class HandClock:
    """Wall clock and monotonic clock that move only when told."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Ready:
    ok: bool = True
    parts: dict[str, str] = field(default_factory=lambda: {"store": "ok"})


def secret(reference: str) -> Secret:
    if reference not in SECRETS:
        raise ConfigError(f"the secret {reference} is empty or not set")
    return Secret(SECRETS[reference])


def settings_of(folder: Path, **changed: Any) -> Settings:
    whole: dict[str, Any] = {
        "store": {"url": f"sqlite:///{folder / 'web.db'}", **changed.pop("store", {})},
        "sources": {
            "alertmanager": {"kind": "alertmanager"},
            "generic": {"kind": "generic"},
            "bearer": {"kind": "alertmanager", "auth": {"kind": "bearer", "token": "env:SOURCE"}},
            "basic": {
                "kind": "alertmanager",
                "auth": {"kind": "basic", "username": "am", "password": "env:PASSWORD"},
            },
            "signed": {"kind": "alertmanager", "auth": {"kind": "hmac", "secret": "env:KEY"}},
            "locked": {"kind": "alertmanager", "auth": {"kind": "bearer", "token": "env:ABSENT"}},
        },
        "targets": [{"name": "checkout", "kind": "http_app", "match": {"service": "checkout"}}],
        **changed,
    }
    return Settings.model_validate(whole)


async def open_store(settings: Settings, clock: HandClock) -> Store:
    return await Store.open(
        settings.store,
        clock=clock,
        flap=settings.guard.flapping,
        grouping=settings.grouping,
        rate_window_seconds=settings.guard.rate_window_seconds,
    )


async def explain(incident_id: str) -> dict[str, Any]:
    raise NotFoundError(f"incident {incident_id} has no decision")


def parts_of(settings: Settings, store: Store, clock: HandClock) -> Parts:
    return Parts(
        settings=settings,
        store=store,
        placement=Placement(settings, ()),
        clock=clock,
        metrics=Metrics(),
        actions=lambda: [{"id": "app.restart"}],
        backends=lambda: [{"system": "app", "ok": True}],
        readiness=Ready,
        explain=explain,
        policy=lambda: {"name": "linear_thompson", "version": 0},
        secrets=secret,
    )


class FrontedServer(TestServer):
    """A server as the daemon runs it: `Front` listens, the library stands behind it."""

    front: Front

    async def start_server(self, **options: Any) -> None:
        await super().start_server(**options)
        self.front = await Front.open(self.runner, "127.0.0.1", 0)
        self.port = self.front.port

    def make_url(self, path: StrOrURL) -> URL:
        return URL(f"http://127.0.0.1:{self.port}").join(URL(path))

    async def close(self) -> None:
        await self.front.close(1.0)
        await super().close()


Client = TestClient[web.Request, web.Application]


@dataclass(frozen=True)
class Site:
    """A running server, its parts, and a client that carries no credentials."""

    client: Client
    parts: Parts
    clock: HandClock

    @property
    def store(self) -> Store:
        return self.parts.store

    async def post(self, source: str, body: Any, **options: Any) -> tuple[int, Any]:
        key = "json" if isinstance(body, dict | list) else "data"
        async with self.client.post(f"/webhooks/{source}", **{key: body}, **options) as response:
            return response.status, await response.json()

    async def post_stream(self, source: str, chunks: Any) -> tuple[int, Any]:
        async with self.client.post(f"/webhooks/{source}", data=chunks) as response:
            return response.status, await response.json()

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.get(path, **options) as response:
            return response.status, await response.json()


def firing(number: int = 0, **changed: Any) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": {"alertname": f"Down{number}", "service": "checkout", "severity": "critical"},
        "annotations": {"summary": "it is down"},
        "startsAt": "2026-11-21T07:15:42.883Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": f"{number:016x}",
        **changed,
    }


def notification(*alerts: dict[str, Any]) -> dict[str, Any]:
    return {"version": "4", "groupKey": "{}", "alerts": list(alerts)}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
