"""The web on a real store: SQLite in a temporary folder, the real placement, a clock turned by hand."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from web.sites import TOKENS, FrontedServer, HandClock, Site, open_store, parts_of, settings_of

from oncall_agent.web.app import build

Open = Callable[..., Awaitable[Site]]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def site_of(tmp_path: Path, clock: HandClock) -> AsyncIterator[Open]:
    """Gives a function that starts a site with changed settings (or changed parts); all are stopped at the end."""
    opened: list[Site] = []

    async def start(*, parts: dict[str, Any] | None = None, at: Path | None = None, **changed: Any) -> Site:
        folder = tmp_path / str(len(opened)) if at is None else at
        folder.mkdir(exist_ok=True)
        settings = settings_of(folder, **changed)
        store = await open_store(settings, clock)
        whole = replace(parts_of(settings, store, clock), **(parts or {}))
        client = TestClient(FrontedServer(build(whole)), cookie_jar=None)
        await client.start_server()
        opened.append(Site(client, whole, clock))
        return opened[-1]

    yield start
    for site in reversed(opened):
        await site.client.close()
        await site.store.close()


@pytest.fixture
async def site(site_of: Open) -> Site:
    return await site_of()


@pytest.fixture
async def guarded(site_of: Open) -> Site:
    """A site with tokens: vera views, otto and olga operate, ada administers."""
    return await site_of(server={"tokens": TOKENS})
