"""MariaDB on loopback: a source with binary logs, and a real replica of it."""

import os
import shutil
import signal
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pymysql  # type: ignore[import-untyped]
import pymysql.connections  # type: ignore[import-untyped]
import pymysql.cursors  # type: ignore[import-untyped]

from backends.base import Backend, MissingBackendError, Need, about, require_command
from backends.processes import Server, free_port, run_quietly, version_of, wait_until

ROOT_PASSWORD = "maria-root-42"
COPY_PASSWORD = "maria-copy-42"
START_SECONDS = 60.0


class Connection(pymysql.connections.Connection):  # type: ignore[misc]
    """TLS when the server has it, without reading all the machine's CAs for each connection."""

    def _create_ssl_ctx(self, _: object) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class Way:
    """A loopback port with the administrator's credentials."""

    port: int
    password: str = ROOT_PASSWORD

    def ask(self, *statements: str) -> list[dict[str, object]]:
        """Carry out statements one by one; give the rows of the last."""
        connection = Connection(
            host="127.0.0.1",
            port=self.port,
            user="root",
            password=self.password,
            autocommit=True,
            connect_timeout=5,
            read_timeout=20,
            cursorclass=pymysql.cursors.DictCursor,
        )
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())


class MariaServer:
    """One mariadbd; `root` has a password, and every option can be given."""

    def __init__(self, folder: Path, template: Path, number: int, **options: str) -> None:
        self.folder, self.port, self._template = folder, free_port(), template
        self._options = {"server-id": str(number), **options}
        self._server: Server | None = None

    @property
    def way(self) -> Way:
        """The administrator's way in."""
        return Way(self.port)

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._server is None:
            raise RuntimeError("not started")
        return self._server.pid

    def start(self) -> None:
        """Copy its files from the template and start it."""
        files = self.folder / "files"
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self._template, files)
        options = [f"--{name}={value}" if value else f"--{name}" for name, value in self._options.items()]
        self._server = Server("mariadb", [*self._command(files), *options], folder=self.folder)
        self._server.start(lambda: answers(Way(self.port, "")), timeout_seconds=START_SECONDS)
        Way(self.port, "").ask(
            f"ALTER USER root@localhost IDENTIFIED BY '{ROOT_PASSWORD}'",
            f"ALTER USER root@'127.0.0.1' IDENTIFIED BY '{ROOT_PASSWORD}'",
            "DELETE FROM mysql.global_priv WHERE User = ''",
            "FLUSH PRIVILEGES",
        )

    def pause(self) -> None:
        """Stop it in its tracks."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop it."""
        if self._server is not None:
            self._server.stop()

    def _command(self, files: Path) -> list[str]:
        return [
            require_command("mariadbd"),
            "--no-defaults",
            _user(),
            f"--datadir={files}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--socket={self.folder / 's'}",
            f"--pid-file={self.folder / 'pid'}",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
            "--performance-schema=OFF",
            "--skip-name-resolve",
        ]


def make_template(folder: Path) -> Path:
    """Make the files of an empty server, so that each server of a test only copies them; give their folder."""
    template = folder / "template"
    make = [require_command("mariadb-install-db"), "--no-defaults", _user(), f"--datadir={template}"]
    run_quietly([*make, "--auth-root-authentication-method=normal", "--skip-test-db"])
    return template


def _user() -> str:
    return f"--user={'root' if os.geteuid() == 0 else os.environ.get('USER', 'mysql')}"


def answers(way: Way) -> bool:
    """True when the server lets the administrator in."""
    try:
        return bool(way.ask("SELECT 1"))
    except pymysql.MySQLError:
        return False


def replicate(source: Way, replica: Way) -> None:
    """Let the replica copy the source from the start of its binary logs."""
    source.ask(
        f"CREATE OR REPLACE USER copy@'127.0.0.1' IDENTIFIED BY '{COPY_PASSWORD}'",
        "GRANT REPLICATION SLAVE ON *.* TO copy@'127.0.0.1'",
    )
    start = source.ask("SHOW MASTER STATUS")[0]
    replica.ask(
        f"CHANGE MASTER TO master_host='127.0.0.1', master_port={source.port}, master_user='copy',"
        f" master_password='{COPY_PASSWORD}', master_log_file='{start['File']}',"
        f" master_log_pos={start['Position']}, master_connect_retry=1",
        "START SLAVE",
    )
    if not wait_until(lambda: is_replicating(replica), timeout_seconds=20):
        raise MissingBackendError(f"the replica does not replicate: {replica.ask('SHOW SLAVE STATUS')}")


def is_replicating(replica: Way) -> bool:
    """True when both threads of the replica run."""
    rows: Sequence[dict[str, object]] = replica.ask("SHOW SLAVE STATUS")
    return bool(rows) and rows[0]["Slave_IO_Running"] == rows[0]["Slave_SQL_Running"] == "Yes"


class MariaPair:
    """A source and its replica."""

    def __init__(self, folder: Path, template: Path, **options: str) -> None:
        self.source = MariaServer(
            folder / "source",
            template,
            1,
            **{"log-bin": "binlog", "plugin-load-add": "metadata_lock_info", **options},
        )
        self.replica = MariaServer(
            folder / "replica", template, 2, **{"relay-log": "relay", "slave-transaction-retries": "0"}
        )

    def start(self) -> None:
        """Start both, and the replication between them."""
        for server in (self.source, self.replica):
            server.start()
        replicate(self.source.way, self.replica.way)

    def stop(self) -> None:
        """Stop both."""
        for server in (self.replica, self.source):
            server.stop()


class MariaDB(Backend):
    """One source for all workers: tests make databases and users of their own in it; and its replica."""

    name = "mariadb"
    fixture = "mariadb_port"
    needs = (Need("mariadb-server", "mariadbd"),)
    variables = (
        "ONCALL_TEST_MARIADB_PORT",
        "ONCALL_TEST_MARIADB_REPLICA_PORT",
        "ONCALL_TEST_MARIADB_TEMPLATE",
    )

    def __init__(self) -> None:
        self._pair: MariaPair | None = None

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start both, one after the other: they fit the cores of a small machine."""
        template = make_template(folder)
        self._pair = MariaPair(folder, template)
        self._pair.start()
        return {
            "ONCALL_TEST_MARIADB_PORT": str(self._pair.source.port),
            "ONCALL_TEST_MARIADB_REPLICA_PORT": str(self._pair.replica.port),
            "ONCALL_TEST_MARIADB_TEMPLATE": str(template),
            **about(self.name, version_of(require_command("mariadbd"))),
        }

    def stop(self) -> None:
        """Stop both."""
        if self._pair is not None:
            self._pair.stop()
