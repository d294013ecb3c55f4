"""A store on each database, and words to speak about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy

from oncall_agent.settings.model import FlapSettings, GroupingSettings, StoreSettings
from oncall_agent.store import Store

FLAP = FlapSettings(count=3, window_seconds=600)
GROUPING = GroupingSettings(merge_escalated_seconds=1000)
RATE_WINDOW_SECONDS = 3600.0
DATABASES = [
    "file",
    "memory",
    pytest.param("postgres", marks=pytest.mark.backend("postgres")),
]
DURABLE = [database for database in DATABASES if database != "memory"]

OpenStore = Callable[..., Awaitable[Store]]


class HandClock:
    """A clock that tests turn by hand."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def empty(postgres_url: str) -> str:
    """Empty a PostgreSQL database: making a new one for each test would take longer."""
    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP SCHEMA public CASCADE"))
        connection.execute(sqlalchemy.text("CREATE SCHEMA public"))
    engine.dispose()
    return postgres_url


def url_of(database: str, request: pytest.FixtureRequest) -> str:
    if database == "postgres":
        return empty(request.getfixturevalue("postgres_url"))
    if database == "memory":
        return "sqlite://"
    path: Path = request.getfixturevalue("tmp_path") / "store.db"
    return f"sqlite:///{path}"


@pytest.fixture(params=DATABASES)
def any_url(request: pytest.FixtureRequest) -> str:
    """A fresh database of each kind."""
    return url_of(request.param, request)


@pytest.fixture(params=DURABLE)
def durable_url(request: pytest.FixtureRequest) -> str:
    """A fresh database of each kind that outlives its store."""
    return url_of(request.param, request)


@pytest.fixture
async def open_store(clock: HandClock) -> AsyncIterator[OpenStore]:
    """Opens stores and closes them after the test."""
    stores: list[Store] = []

    async def open_one(url: str, **settings: int) -> Store:
        store = await Store.open(
            StoreSettings(url=url, **settings),
            clock=clock,
            flap=FLAP,
            grouping=GROUPING,
            rate_window_seconds=RATE_WINDOW_SECONDS,
        )
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
async def store(any_url: str, open_store: OpenStore) -> Store:
    """A fresh store on each database."""
    return await open_store(any_url)
