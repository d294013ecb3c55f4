"""MySQL on loopback: a source with binary logs, and a real replica of it."""

import shutil
from pathlib import Path

from backends.base import Backend, MissingBackendError, Need, about
from backends.mariadb_server import COPY_PASSWORD, ROOT_PASSWORD, START_SECONDS, Way, answers
from backends.mysql_archive import Installation, installed
from backends.processes import Server, free_port, wait_until

OPTIONS = (
    "--bind-address=127.0.0.1",
    "--innodb-buffer-pool-size=32M",
    "--innodb-redo-log-capacity=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--sync-binlog=0",
    "--log-bin=binlog",
    "--skip-name-resolve",
    "--replica-transaction-retries=0",
)
ADMINISTRATOR = f"""\
CREATE USER IF NOT EXISTS root@'127.0.0.1' IDENTIFIED BY '{ROOT_PASSWORD}';
GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;
"""


class MySQLServer:
    """One mysqld, copied from the empty files of the installation."""

    def __init__(self, installation: Installation, folder: Path, number: int) -> None:
        self._installation, self._folder, self._number = installation, folder, number
        self.way = Way(free_port())
        self._server: Server | None = None

    def start(self) -> None:
        """Start it; raises MissingBackendError when that can't be done."""
        files, first = self._folder / "files", self._folder / "first.sql"
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self._installation.files, files)
        first.write_text(ADMINISTRATOR)
        own = [
            f"--datadir={files}",
            f"--port={self.way.port}",
            f"--server-id={self._number}",
            f"--init-file={first}",
        ]
        own += [f"--socket={self._folder / 's'}", f"--pid-file={self._folder / 'pid'}", "--user=root"]
        argv = [*self._installation.command(), *OPTIONS, *own]
        self._server = Server("mysql", argv, folder=self._folder)
        self._server.start(lambda: answers(self.way), timeout_seconds=START_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        if self._server is not None:
            self._server.stop()


def replicate(source: Way, replica: Way) -> None:
    """Let the replica copy the source from now on."""
    source.ask(
        f"CREATE USER copy@'127.0.0.1' IDENTIFIED BY '{COPY_PASSWORD}'",
        "GRANT REPLICATION SLAVE ON *.* TO copy@'127.0.0.1'",
    )
    start = source.ask("SHOW BINARY LOG STATUS")[0]
    replica.ask(
        f"CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={source.port}, SOURCE_USER='copy',"
        f" SOURCE_PASSWORD='{COPY_PASSWORD}', SOURCE_SSL=1, SOURCE_CONNECT_RETRY=1,"
        f" SOURCE_LOG_FILE='{start['File']}', SOURCE_LOG_POS={start['Position']}",
        "START REPLICA",
    )
    if not wait_until(lambda: is_replicating(replica), timeout_seconds=20):
        raise MissingBackendError(f"the replica does not replicate: {replica.ask('SHOW REPLICA STATUS')}")


def is_replicating(replica: Way) -> bool:
    """True when both threads of the replica run."""
    rows = replica.ask("SHOW REPLICA STATUS")
    return bool(rows) and rows[0]["Replica_IO_Running"] == rows[0]["Replica_SQL_Running"] == "Yes"


class MySQL(Backend):
    """One source for all workers: tests make databases and users of their own in it; and its replica."""

    name = "mysql"
    fixture = "mysql_port"
    needs = (Need("mmdebstrap", "mmdebstrap"),)
    variables = ("ONCALL_TEST_MYSQL_PORT", "ONCALL_TEST_MYSQL_REPLICA_PORT")

    def __init__(self) -> None:
        self._servers: list[MySQLServer] = []

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start both, one after the other: they fit the cores of a small machine."""
        installation = installed(cache)
        for number, name in enumerate(("source", "replica"), start=1):
            server = MySQLServer(installation, folder / name, number)
            self._servers.append(server)
            server.start()
        source, replica = (server.way for server in self._servers)
        replicate(source, replica)
        said = str(source.ask("SELECT VERSION() AS version")[0]["version"])
        return {
            "ONCALL_TEST_MYSQL_PORT": str(source.port),
            "ONCALL_TEST_MYSQL_REPLICA_PORT": str(replica.port),
            **about(self.name, f"MySQL {said}"),
        }

    def stop(self) -> None:
        """Stop both."""
        for server in reversed(self._servers):
            server.stop()
