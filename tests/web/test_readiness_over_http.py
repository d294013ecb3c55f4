"""Health for orchestrators, metrics for Prometheus, headers for browsers."""

from collections.abc import Callable
from typing import Any

from web.sites import Ready, Site

from oncall_agent import __version__


async def test_the_process_says_that_it_is_alive(site: Site) -> None:
    assert (200, {"status": "ok", "version": __version__}) == await site.get("/healthz")


async def test_a_working_daemon_is_ready(site: Site) -> None:
    assert (200, {"ok": True, "parts": {"store": "ok"}}) == await site.get("/readyz")


async def test_a_broken_part_is_named_with_503(site_of: Callable[..., Any]) -> None:
    broken = {"store": "the database does not answer"}
    site = await site_of(parts={"readiness": lambda: Ready(ok=False, parts=broken)})
    assert (503, {"ok": False, "parts": broken}) == await site.get("/readyz")


async def test_metrics_are_in_prometheus_text(site: Site) -> None:
    async with site.client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert "oncall_agent_ingest_seconds_bucket" in await response.text()


async def test_pages_forbid_foreign_content(site: Site) -> None:
    async with site.client.get("/") as response:
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "DENY" == response.headers["X-Frame-Options"]
        assert "nosniff" == response.headers["X-Content-Type-Options"]
