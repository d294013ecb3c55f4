"""Fixtures on the servers that may be made sick: PostgreSQL, and MariaDB with its replica."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy

from backends.mariadb_server import MariaPair, MariaServer, Way
from backends.postgres_sick import Cluster


@pytest.fixture(scope="session")
def postgres_sick_url() -> str:
    """The administrator's way into the PostgreSQL that may be made sick."""
    return os.environ["ONCALL_TEST_POSTGRES_SICK_URL"]


@pytest.fixture
def sick_database(postgres_sick_url: str) -> Iterator[str]:
    """The name of an empty database of this very test in that server."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = sqlalchemy.make_url(postgres_sick_url).set(drivername="postgresql+psycopg2")
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name} TEMPLATE template0"))
    yield name
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder that a server under another user can enter; pytest's own ones are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="oncall-test-server-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_cluster(postgres_sick_url: str, server_folder: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts PostgreSQL servers for this test alone, with options of `postgres`."""
    clusters: list[Cluster] = []

    def start(**options: str) -> Cluster:
        template = Path(os.environ["ONCALL_TEST_POSTGRES_SICK_TEMPLATE"])
        cluster = Cluster(server_folder / f"cluster-{len(clusters)}", template, **options)
        clusters.append(cluster)
        cluster.start()
        return cluster

    yield start
    for cluster in clusters:
        cluster.stop()


@pytest.fixture(scope="session")
def mariadb_port() -> int:
    """The port of the MariaDB source."""
    return int(os.environ["ONCALL_TEST_MARIADB_PORT"])


@pytest.fixture(scope="session")
def mariadb(mariadb_port: int) -> Way:
    """The administrator's way into the MariaDB source; `mariadb.port` for others."""
    return Way(mariadb_port)


@pytest.fixture(scope="session")
def mariadb_replica(mariadb_port: int) -> Way:
    """The administrator's way into its replica."""
    return Way(int(os.environ["ONCALL_TEST_MARIADB_REPLICA_PORT"]))


@pytest.fixture
def own_maria(mariadb_port: int, server_folder: Path) -> Iterator[Callable[..., MariaServer]]:
    """Starts a MariaDB for this test alone, with options of `mariadbd`."""
    servers: list[MariaServer] = []

    def start(**options: str) -> MariaServer:
        template = Path(os.environ["ONCALL_TEST_MARIADB_TEMPLATE"])
        server = MariaServer(server_folder / f"maria-{len(servers)}", template, 10 + len(servers), **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def own_maria_pair(mariadb_port: int, server_folder: Path) -> Iterator[MariaPair]:
    """A MariaDB source and its replica for this test alone."""
    pair = MariaPair(server_folder, Path(os.environ["ONCALL_TEST_MARIADB_TEMPLATE"]))
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()


@pytest.fixture(scope="session")
def mysql_port() -> int:
    """The port of the MySQL source."""
    return int(os.environ["ONCALL_TEST_MYSQL_PORT"])


@pytest.fixture(scope="session")
def mysql_replica_port(mysql_port: int) -> int:
    """The port of its replica."""
    return int(os.environ["ONCALL_TEST_MYSQL_REPLICA_PORT"])
