"""The metadata database of the tests' Airflow: one in the run's PostgreSQL, filled from a dump that lies in the cache.

Not SQLite: three servers and their workers on its one write lock hold each other up for half a minute.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from backends.made_once import made_once
from backends.postgres_server import newest_installation
from backends.processes import run_quietly


class MetadataDatabase:
    """One database of its own in a PostgreSQL, by URL."""

    def __init__(self, server_url: str) -> None:
        self._server = server_url.replace("+psycopg2", "").rpartition("/")[0]
        self.name = f"airflow_{secrets.token_hex(4)}"

    @property
    def url(self) -> str:
        """Where it is, as Airflow is told."""
        return self._place(self.name).replace("postgresql:", "postgresql+psycopg2:")

    def create(self) -> None:
        """Make it, empty."""
        self._run("psql", "postgres", "--quiet", "--command", f"CREATE DATABASE {self.name}")

    def drop(self) -> None:
        """Remove it, whoever is connected."""
        drop = f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)"
        self._run("psql", "postgres", "--quiet", "--command", drop)

    def fill(self, dump: Path) -> None:
        """Restore a dump."""
        wanted = ["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--single-transaction", f"--file={dump}"]
        self._run("psql", self.name, *wanted)

    def dump(self, target: Path) -> None:
        """Write all that is in it to a file."""
        self._run("pg_dump", self.name, "--no-owner", f"--file={target}")

    def _run(self, program: str, database: str, *arguments: str) -> None:
        argv = [str(newest_installation() / program), f"--dbname={self._place(database)}"]
        run_quietly([*argv, *arguments], timeout_seconds=120.0)

    def _place(self, database: str) -> str:
        return f"{self._server}/{database}"


def cached_dump(
    server_url: str, cache: Path, made_from: Sequence[str], fill: Callable[[MetadataDatabase], None]
) -> Path:
    """The dump of a database that is slow to make, from the cache or made now."""
    made_by = [*made_from, newest_installation().parent.name]
    digest = hashlib.sha256("\0".join(made_by).encode()).hexdigest()[:16]

    def make(partial: Path) -> None:
        database = MetadataDatabase(server_url)
        database.create()
        try:
            fill(database)
            database.dump(partial)
        finally:
            database.drop()

    return made_once(cache / f"airflow-{digest}.sql", make)
