"""PostgreSQL on loopback: the newest installed version, a throw-away cluster, no fsync."""

import os
import shutil
from pathlib import Path

from backends.base import Backend, MissingBackendError, Need, about, find_command
from backends.processes import free_port, run_quietly, version_of

INSTALLED = "/usr/lib/postgresql/*/bin/pg_ctl"


class Postgres(Backend):
    """A cluster of its own; the fixtures make one database per test worker in it."""

    name = "postgres"
    fixture = "postgres_server_url"
    needs = (Need("postgresql", INSTALLED),)
    variables = ("ONCALL_TEST_POSTGRES_URL",)

    def __init__(self) -> None:
        self._stop_argv: list[str] | None = None

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Initialise the cluster and start it; as the user postgres when run by root, which it refuses."""
        commands = newest_installation()
        prefix = as_postgres(folder)
        cluster, port = folder / "cluster", free_port()
        initialise = [*prefix, str(commands / "initdb"), "-D", str(cluster), "-A", "trust", "-U", "postgres"]
        run_quietly([*initialise, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=200"
        options += " -c fsync=off -c full_page_writes=off -c synchronous_commit=off"
        control = [*prefix, str(commands / "pg_ctl"), "-D", str(cluster), "-w", "-t", "30"]
        self._stop_argv = [*control, "-m", "immediate", "stop"]
        run_quietly([*control, "-l", str(folder / "postgres.log"), "-o", options, "start"])
        url = f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
        return {"ONCALL_TEST_POSTGRES_URL": url, **about(self.name, version_of(str(commands / "postgres")))}

    def stop(self) -> None:
        """Stop it at once; nothing in it is worth a checkpoint."""
        argv, self._stop_argv = self._stop_argv, None
        if argv is not None:
            run_quietly(argv)


def newest_installation() -> Path:
    """The bin folder of the newest PostgreSQL; raises MissingBackendError when there is none."""
    found = sorted(Path("/").glob(INSTALLED[1:]), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = find_command("pg_ctl")
    if on_path is None:
        raise MissingBackendError("no PostgreSQL server is installed (Debian: postgresql)")
    return Path(on_path).resolve().parent


def as_postgres(folder: Path) -> list[str]:
    """How to run the server's commands: as they are, or as the user postgres, who then owns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return []
    runuser = find_command("runuser")
    if runuser is None:
        raise MissingBackendError("PostgreSQL refuses root, and runuser is not installed")
    try:
        shutil.chown(folder, user="postgres")
    except LookupError as error:
        raise MissingBackendError("PostgreSQL refuses root, and there is no user postgres") from error
    return [runuser, "-u", "postgres", "--"]
