"""A second PostgreSQL that may be made sick: real passwords, few connections, small WAL segments."""

import os
import signal
from pathlib import Path
from urllib.parse import quote

from backends.base import Backend, Need, about
from backends.postgres_server import INSTALLED, as_postgres, newest_installation
from backends.processes import free_port, run_quietly, version_of

PASSWORD = "sick-admin-42"
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "shared_preload_libraries": "pg_stat_statements",
    "wal_level": "logical",
    "max_replication_slots": "40",
    "min_wal_size": "2MB",
    "max_wal_size": "16MB",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


class Cluster:
    """A cluster of one's own whose administrator is `postgres` with a password."""

    def __init__(self, folder: Path, template: Path, **options: str) -> None:
        self.folder, self.port, self._template = folder, free_port(), template
        self._options = {**OPTIONS, **options}
        self._prefix: list[str] = []
        self._is_started = False

    @property
    def url(self) -> str:
        """The administrator's way in."""
        return f"postgresql://postgres:{quote(PASSWORD)}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process id of the server's first process."""
        return int((self.folder / "cluster" / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Copy it from the template and start it; raises MissingBackendError when that can't be done."""
        self._prefix = as_postgres(self.folder)
        run_quietly([*self._prefix, "cp", "-a", str(self._template), str(self.folder / "cluster")])
        options = " ".join(f"-c {name}={value}" for name, value in self._options.items())
        log = ["-l", str(self.folder / "postgres.log")]
        self._is_started = True
        run_quietly([*self._control(), *log, "-o", f"-p {self.port} -k {self.folder} {options}", "start"])

    def pause(self) -> None:
        """Stop the first process in its tracks: nobody new is let in."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop it at once; nothing in it is worth a checkpoint."""
        if self._is_started:
            self._is_started = False
            run_quietly([*self._control(), "-m", "immediate", "stop"])

    def _control(self) -> list[str]:
        commands = newest_installation()
        return [*self._prefix, str(commands / "pg_ctl"), "-D", str(self.folder / "cluster"), "-w", "-t", "30"]


def make_template(folder: Path) -> Path:
    """Make the files of a cluster, so that each server of a test only copies them; give their folder."""
    prefix, template, password = as_postgres(folder), folder / "template", folder / "password"
    password.write_text(PASSWORD)
    make = [*prefix, str(newest_installation() / "initdb"), "-D", str(template), "-U", "postgres"]
    make += ["-A", "scram-sha-256", f"--pwfile={password}", "--wal-segsize=1", "-E", "UTF8"]
    run_quietly([*make, "--locale=C.UTF-8", "--no-sync"])
    return template


class PostgresSick(Backend):
    """One for all workers: tests make databases, roles and slots of their own in it."""

    name = "postgres_sick"
    fixture = "postgres_sick_url"
    needs = (Need("postgresql", INSTALLED),)
    variables = ("ONCALL_TEST_POSTGRES_SICK_URL", "ONCALL_TEST_POSTGRES_SICK_TEMPLATE")

    def __init__(self) -> None:
        self._cluster: Cluster | None = None

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start it."""
        template = make_template(folder)
        self._cluster = Cluster(folder, template, max_connections="80")
        self._cluster.start()
        said = version_of(str(newest_installation() / "postgres"))
        return {
            "ONCALL_TEST_POSTGRES_SICK_URL": self._cluster.url,
            "ONCALL_TEST_POSTGRES_SICK_TEMPLATE": str(template),
            **about(self.name, said),
        }

    def stop(self) -> None:
        """Stop it."""
        if self._cluster is not None:
            self._cluster.stop()
