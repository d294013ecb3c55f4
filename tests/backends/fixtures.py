"""Fixtures on real backends. A test that asks for one is skipped, or failed, when it is missing."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import sqlalchemy
from docker.models.containers import Container

from backends.alerting import Alertmanager, Prometheus
from backends.docker_engine import RUN_LABEL


@pytest.fixture(scope="session")
def docker_host() -> str:
    """The engine of this run, as `unix:///path`; never the one that DOCKER_HOST names."""
    return os.environ["ONCALL_TEST_DOCKER_HOST"]


@pytest.fixture(scope="session")
def docker_image(docker_host: str) -> str:
    """An image with python3, procps, curl and redis-server."""
    return os.environ["ONCALL_TEST_DOCKER_IMAGE"]


@pytest.fixture(scope="session")
def docker_image_2(docker_host: str) -> str:
    """The same under another id."""
    return os.environ["ONCALL_TEST_DOCKER_IMAGE_2"]


@pytest.fixture(scope="session")
def docker_client(docker_host: str) -> Iterator[docker.DockerClient]:
    """A client of that engine."""
    client = docker.DockerClient(base_url=docker_host, timeout=60)
    yield client
    client.close()


@pytest.fixture
def run_container(
    docker_client: docker.DockerClient, docker_image: str
) -> Iterator[Callable[..., Container]]:
    """Starts containers (options of `containers.run`) and removes them after the test."""
    names: list[str] = []

    def run(
        command: str | list[str] | None = None, *, image: str = docker_image, **options: Any
    ) -> Container:
        name = options.pop("name", f"oncall-test-{uuid.uuid4().hex[:12]}")
        labels = {RUN_LABEL: os.environ["ONCALL_TEST_DOCKER_RUN"], **options.pop("labels", {})}
        names.append(name)
        return docker_client.containers.run(image, command, name=name, labels=labels, detach=True, **options)

    yield run
    for name in names:
        try:
            docker_client.containers.get(name).remove(force=True, v=True)
        except docker.errors.NotFound:
            continue


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis of this run, shared by all workers: use keys of your own."""
    return os.environ["ONCALL_TEST_REDIS_URL"]


@pytest.fixture(scope="session")
def postgres_server_url() -> str:
    """The administration database of this run's PostgreSQL; tests take `postgres_url`."""
    return os.environ["ONCALL_TEST_POSTGRES_URL"]


@pytest.fixture(scope="session")
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """An empty database of this test worker, as SQLAlchemy takes it."""
    yield from _temporary_database(postgres_server_url)


@pytest.fixture
def fresh_postgres_url(postgres_server_url: str) -> Iterator[str]:
    """An empty database of this very test."""
    yield from _temporary_database(postgres_server_url)


def _temporary_database(server_url: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = sqlalchemy.create_engine(server_url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name} TEMPLATE template0"))
    yield sqlalchemy.make_url(server_url).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(scope="session")
def alertmanager_binary() -> str:
    """The Alertmanager program."""
    return os.environ["ONCALL_TEST_ALERTMANAGER_BIN"]


@pytest.fixture(scope="session")
def prometheus_binary() -> str:
    """The Prometheus program."""
    return os.environ["ONCALL_TEST_PROMETHEUS_BIN"]


@pytest.fixture
def alertmanager(alertmanager_binary: str, tmp_path: Path) -> Iterator[Alertmanager]:
    """An Alertmanager of this test, not yet started: call `start(config_text)`."""
    instance = Alertmanager(alertmanager_binary, tmp_path / "alertmanager")
    yield instance
    instance.stop()


@pytest.fixture
def prometheus(prometheus_binary: str, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus of this test, not yet started: call `start(config_text)`."""
    instance = Prometheus(prometheus_binary, tmp_path / "prometheus")
    yield instance
    instance.stop()


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The browser program, for Playwright's `executable_path`; its arguments: backends.chromium.ARGUMENTS."""
    return os.environ["ONCALL_TEST_CHROMIUM"]
