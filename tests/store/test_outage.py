"""A database in trouble: callers are told, nothing is claimed to be stored, and it recovers by itself."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from store.building import attempt as new_attempt
from store.building import begun, claimed, moved, open_one, placed
from store.conftest import empty

from oncall_agent.errors import ConfigError, StoreError
from oncall_agent.models import IncidentState
from oncall_agent.settings.model import StoreSettings
from oncall_agent.store import Store, database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def _until(condition, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.005)


async def _is_well(store: Store) -> bool:
    return (await store.stats()).failing_for == ""


async def _accepted(store: Store, name: str) -> bool:
    try:
        await store.accept([placed(name)], 1_000.0)
    except StoreError:
        return False
    return True


async def test_locked_database_is_an_outage_that_ends_by_itself(url, path, open_store, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.02)
    store = await open_store(url)
    found = await open_one(store, "a")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        await store.accept([placed("b")], 1_000.0)
    with pytest.raises(StoreError):
        await store.commit(begun(found, 1_001.0, new_attempt(found, 1_001.0)))
    assert "locked" in (await store.stats()).failing_for
    assert 1 == (await store.conservation()).accepted
    other.execute("ROLLBACK")
    other.close()
    await _until(lambda: _is_well(store))
    await store.accept([placed("b")], 1_000.0)
    assert ((), True) == ((await store.attempts()).items, (await store.conservation()).balanced)


async def test_full_disk_is_an_outage_that_ends_by_itself(url, open_store, monkeypatch):
    limited = (*database._WRITER_PRAGMAS, "max_page_count=80")
    monkeypatch.setattr(database, "_WRITER_PRAGMAS", limited)
    store = await open_store(url)
    answers = [
        await asyncio.gather(store.accept([placed(f"{n}")], 1_000.0), return_exceptions=True)
        for n in range(900)
    ]
    told = sum(isinstance(answer, list) for (answer,) in answers)
    assert 900 > told > 0
    assert "full" in (await store.stats()).failing_for
    terms = await store.conservation()
    assert (told, True) == (terms.accepted, terms.balanced)
    monkeypatch.setattr(database, "_WRITER_PRAGMAS", limited[:-1])
    await _until(lambda: _is_well(store))
    assert 1 == len(await store.accept([placed("later")], 1_000.0))


async def test_removed_file_is_an_outage_until_it_is_back(url, path, open_store):
    store = await open_store(url)
    await store.accept([placed("a")], 1_000.0)
    away = path.with_suffix(".away")
    path.rename(away)
    with pytest.raises(StoreError, match="gone"):
        await store.accept([placed("b")], 1_000.0)
    with pytest.raises(StoreError, match="gone"):
        await store.conservation()
    assert not path.exists()
    away.rename(path)
    await _until(lambda: _accepted(store, "c"))
    terms = await store.conservation()
    assert (True, True) == (terms.accepted >= 2, terms.balanced)


async def test_replaced_file_is_never_written_to_unnoticed(url, path, open_store):
    store = await open_store(url)
    await store.accept([placed("a")], 1_000.0)
    path.rename(path.with_suffix(".away"))
    path.write_bytes(b"not a database, and long enough to be read as a header of one " * 20)
    for name in ("b", "c"):
        with pytest.raises(StoreError):
            await store.accept([placed(name)], 1_000.0)


async def test_callers_are_refused_at_once_while_the_writer_pauses(url, path, open_store, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.02)
    store = await open_store(url)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answers = await asyncio.gather(
        *(store.accept([placed(f"{n}")], 1_000.0) for n in range(50)), return_exceptions=True
    )
    assert {StoreError} == {type(answer) for answer in answers}
    assert 0 == (await store.stats()).waiting
    other.execute("ROLLBACK")
    other.close()
    await _until(lambda: _is_well(store))


async def test_cut_connections_are_an_outage_that_ends_by_itself(postgres_url, open_store):
    store = await open_store(empty(postgres_url))
    found = await open_one(store, "a")
    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)
    cut = sqlalchemy.text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for number in range(3):
        with engine.begin() as connection:
            assert connection.execute(cut).scalar() >= 1
        with pytest.raises(StoreError):
            await store.accept([placed(f"lost-{number}", target="x")], 1_000.0)
        await _until(lambda: _is_well(store))
    assert None is await store.commit(moved(found, 1_001.0, IncidentState.RESOLVED))
    await _until(lambda: _accepted(store, "b"))
    assert 1 == len(await claimed(store, 1_002.0))
    terms = await store.conservation()
    assert (2, True) == (terms.accepted, terms.balanced)


async def test_unreachable_server_is_told_at_the_start(clock):
    settings = StoreSettings(url="postgresql+psycopg2://nobody:secret@127.0.0.1:1/nothing")
    with pytest.raises(StoreError) as error:
        await Store.open(settings, clock=clock)
    assert "secret" not in str(error.value)


async def test_second_process_is_refused_while_the_first_has_the_file(url, open_store):
    store = await open_store(url)
    with pytest.raises(ConfigError, match="in use by another"):
        await open_store(url)
    await store.close()
    assert "" == (await (await open_store(url)).stats()).failing_for


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("nonsense", id="no URL"),
        pytest.param("mysql://u:secret@localhost/x", id="another database"),
        pytest.param("sqlite:////proc/none/store.db", id="a folder that is not there"),
    ],
)
async def test_unusable_url_is_a_configuration_error(clock, bad):
    with pytest.raises(ConfigError) as error:
        await Store.open(StoreSettings(url=bad), clock=clock)
    assert "secret" not in str(error.value)


async def test_file_that_is_no_database_is_told_at_the_start(path, url, clock):
    path.write_bytes(b"definitely not a database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        await Store.open(StoreSettings(url=url), clock=clock)


async def test_closed_store_refuses(url, open_store):
    store = await open_store(url)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.accept([placed("a")], 1_000.0)


async def test_closing_writes_what_waits(url, open_store):
    store = await open_store(url)
    waiting = [asyncio.ensure_future(store.accept([placed(f"{n}")], 1_000.0)) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert [1] * 20 == [len(await one) for one in waiting]
