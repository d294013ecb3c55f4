"""Apps whose domain does not answer: every method ends by name, reads are tried again, monitoring is asked instead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from backends.alerting import Prometheus
from backends.processes import free_port

from actions.app import Restart, RollbackDeploy, ScaleUp
from actions.app_deploy import Deploy
from actions.app_prober import AppProber
from oncall_agent.contract import (
    Executor,
    Reading,
    Receipt,
    SystemClock,
    Target,
    TransientError,
    run_inline,
)
from oncall_agent.testing import FakePatient, Fault, FaultyProxy, Upstream, check_outages, context_for

clock = SystemClock()
SECRET = "s3cr3t-Zx81"
KINDS: list[tuple[type[Executor], dict[str, Any]]] = [
    (Deploy, {"version": "0.9.0", "quiet_seconds": 0}),
    (Restart, {}),
    (RollbackDeploy, {}),
    (ScaleUp, {}),
]
MONITORING = {"up": 'up{job="$target"}', "error_rate": 'app_error_rate{job="$target"}'}
SCRAPING = """
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs:
  - job_name: checkout
    static_configs: [{targets: ["127.0.0.1:PORT"]}]
"""


@dataclass
class App:
    """An app behind a relay, its control side reached without it."""

    patient: FakePatient
    proxy: FaultyProxy

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"

    @property
    def target(self) -> Target:
        return Target("checkout", "http_app", address={"url": self.url, "control_url": self.patient.url})


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with FakePatient() as patient:
        upstream = Upstream(port=int(patient.url.rpartition(":")[2]))
        async with FaultyProxy(upstream, slow_seconds=0.02) as proxy:
            yield App(patient, proxy)


@pytest.mark.parametrize(("kind", "params"), KINDS)
async def test_the_app_may_go_away_at_any_time(
    kind: type[Executor], params: dict[str, Any], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    app.patient.token = SECRET
    target = Target("checkout", "http_app", address={"url": app.url})
    typed = kind.spec.params.model_validate({"hold_seconds": 0.0, **params})
    facts = {"version": "0.8.0", "replicas": 7, "wanted": "0.9.0"}

    async with kind({"token": "env:TEST_TOKEN"}) as executor:
        # Its ping needs no app: there is no one app to ask.
        ended = await check_outages(
            executor,
            app.proxy,
            lambda seconds: context_for(typed, target, clock=clock, seconds=seconds),
            receipt=Receipt(kind.spec.id, 0.0, facts),
            methods=("precheck", "execute", "verify", "rollback"),
            deadline_seconds=0.4,
            secret=SECRET,
        )
        found = await executor.diagnose(context_for(typed, target, clock=clock, seconds=2.0))
    assert len(ended) == 4 * (4 if kind.spec.reversible else 3)
    assert found["status"]["version"] == app.patient.state["version"]


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
async def test_a_wrong_token_is_named(
    kind: type[Executor], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TOKEN", "another")
    app.patient.token = SECRET
    params = kind.spec.params.model_validate({"version": "0.9.0"} if kind is Deploy else {})
    async with kind({"token": "env:TEST_TOKEN"}) as executor:
        with pytest.raises(Exception, match="answered 401"):
            await executor.execute(context_for(params, app.target, clock=clock))
    assert app.patient.effects == 0


# --- reads that are tried again ----------------------------------------------------------------------------------


async def read(settings: dict[str, Any], target: Target, *, seconds: float = 2.0) -> Reading:
    async with AppProber(settings) as prober:
        return await prober.read(
            target, prober.params(), timeout_seconds=seconds, clock=clock, run_blocking=run_inline
        )


@pytest.mark.parametrize(("retries", "up"), [(2, True), (1, False)])
async def test_a_connection_that_breaks_is_tried_again_as_often_as_said(retries: int, up: bool) -> None:
    count, broken = 0, 4  # the client library opens a second connection for each try of ours

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        if count <= broken:
            writer.transport.abort()
            return
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        target = Target("checkout", "http_app", address={"url": url})
        reading = await read({"read_retries": retries}, target)
    assert reading.signals.up is up


async def test_reads_are_bounded_in_number_and_in_time(app: App) -> None:
    await app.proxy.become(Fault.BLACK_HOLE)
    began = clock.monotonic()
    assert (await read({"read_retries": 5}, app.target, seconds=0.3)).signals.up is False
    assert clock.monotonic() - began < 1.0


# --- monitoring instead ------------------------------------------------------------------------------------------


class Metrics:
    """What Prometheus scrapes; `fail()` makes the scrape itself fail."""

    def __init__(self) -> None:
        self.error_rate, self.is_down, self.port = 0.01, False, 0

    async def page(self, _request: web.Request) -> web.Response:
        if self.is_down:
            raise web.HTTPServiceUnavailable
        return web.Response(text=f"app_error_rate {self.error_rate}\n")


@pytest.fixture
async def metrics() -> AsyncIterator[Metrics]:
    metrics = Metrics()
    server = web.Application()
    server.router.add_get("/metrics", metrics.page)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    metrics.port = runner.addresses[0][1]
    yield metrics
    await runner.cleanup()


@pytest.mark.backend("prometheus")
async def test_a_domain_that_does_not_answer_is_judged_by_a_real_prometheus(
    app: App, metrics: Metrics, prometheus: Prometheus
) -> None:
    await asyncio.to_thread(prometheus.start, SCRAPING.replace("PORT", str(metrics.port)))
    settings = {"monitoring": {"url": prometheus.url, "queries": MONITORING}}
    await app.proxy.become(Fault.BLACK_HOLE)

    async def until(up: bool) -> Reading:
        async with asyncio.timeout(15):
            while True:
                reading = await read(settings, app.target, seconds=1.0)
                # Prometheus knows `up` a moment before the numbers of the first scrape.
                known = not up or reading.signals.error_rate is not None
                if reading.signals.up is up and reading.facts.get("source") and known:
                    return reading
                await asyncio.sleep(0.01)

    reading = await until(up=True)
    assert (reading.signals.error_rate, "no answer" in reading.facts["reason"]) == (0.01, True)
    ctx = context_for(
        Restart.spec.params.model_validate({"hold_seconds": 0.2}), app.target, clock=clock, seconds=8.0
    )
    async with Restart({**settings, "timeout_seconds": 0.5}) as executor:
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
        assert (verified.ok, verified.facts["source"]) == (True, "monitoring"), verified
        assert (await executor.diagnose(ctx))["status"]["source"] == "monitoring"
    metrics.is_down = True
    await until(up=False)


def monitoring(url: str) -> dict[str, Any]:
    return {"monitoring": {"url": url, "queries": MONITORING, "timeout_seconds": 0.3}}


@pytest.mark.backend("prometheus")
async def test_where_nothing_listens_the_app_is_down_whatever_monitoring_believes(
    app: App, metrics: Metrics, prometheus: Prometheus
) -> None:
    await asyncio.to_thread(prometheus.start, SCRAPING.replace("PORT", str(metrics.port)))
    await app.proxy.become(Fault.REFUSED)
    reading = await read(monitoring(prometheus.url), app.target)
    assert (reading.signals.up, "source" in reading.facts) == (False, False)


async def test_without_an_answer_of_monitoring_either_it_is_as_without_monitoring(app: App) -> None:
    settings = monitoring(f"http://127.0.0.1:{free_port()}")
    await app.proxy.become(Fault.BLACK_HOLE)
    assert (await read(settings, app.target, seconds=0.5)).signals.up is False
    unknown = Target("checkout", "http_app", address={"url": "http://no-such-host.invalid:1"})
    with pytest.raises(TransientError):
        await read(settings, unknown, seconds=2.0)


def test_monitoring_needs_a_query_for_up() -> None:
    with pytest.raises(ValueError, match="query for up"):
        AppProber({"monitoring": {"url": "http://127.0.0.1:1", "queries": {"cpu": "x"}}})
