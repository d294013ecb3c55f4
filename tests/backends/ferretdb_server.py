"""What speaks MongoDB's protocol here: FerretDB on DocumentDB, an extension of PostgreSQL 18.

There is no mongod in any registry that the tests may use. FerretDB lists real operations on a real engine; it
has no killOp, no replica set, no transactions and enforces no roles.
"""

import contextlib
import os
import shlex
from pathlib import Path

from backends import documentdb_root
from backends.base import Backend, MissingBackendError, Need, about, require_command
from backends.go_program import built
from backends.processes import Server, accepts_connections, free_port, run_quietly

PACKAGE = "github.com/FerretDB/FerretDB/v2/cmd/ferretdb"
VERSION = "2.7.0"
USER, PASSWORD = "responder", "s3cr3t-Mongo-Zx91"
_COMMANDS = "/usr/lib/postgresql/18/bin"
_CONFIGURATION = """\
shared_preload_libraries = 'pg_cron,pg_documentdb_core,pg_documentdb'
cron.database_name = 'postgres'
listen_addresses = '127.0.0.1'
unix_socket_directories = '/srv'
dynamic_shared_memory_type = mmap
fsync = off
full_page_writes = off
max_connections = 150
"""
_ROLES = '[{"role":"clusterAdmin","db":"admin"},{"role":"readWriteAnyDatabase","db":"admin"}]'
_CREATE = f"""\
create extension documentdb cascade;
select documentdb_api.create_user('{{"createUser":"{USER}","pwd":"{PASSWORD}","roles":{_ROLES}}}');
"""


class FerretDB(Backend):
    """One server and its engine; tests use databases of their own."""

    name = "mongodb"
    fixture = "mongodb_host"
    needs = (Need("mmdebstrap", "mmdebstrap"),)
    variables = ("ONCALL_TEST_MONGODB_HOST", "ONCALL_TEST_MONGODB_ENGINE_PORT")

    def __init__(self) -> None:
        self._servers: list[Server] = []

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start the engine, then the server that translates; ready when its port is open."""
        if os.geteuid() != 0:
            raise MissingBackendError("its engine runs in a root file system of its own, which needs root")
        program = built("ferretdb", PACKAGE, cache)
        engine = Engine(documentdb_root.build(cache), folder)
        engine_port = engine.start()
        self._servers.append(engine.server)
        port = free_port()
        environment = {
            "FERRETDB_POSTGRESQL_URL": f"postgres://postgres@127.0.0.1:{engine_port}/postgres",
            "FERRETDB_LISTEN_ADDR": f"127.0.0.1:{port}",
            "FERRETDB_DEBUG_ADDR": "-",
            "FERRETDB_AUTH": "true",
            "FERRETDB_TELEMETRY": "disable",
            "FERRETDB_STATE_DIR": str(folder),
        }
        self._servers.insert(0, Server("ferretdb", [str(program)], folder=folder, env=environment))
        self._servers[0].start(lambda: accepts_connections(port))
        return {
            "ONCALL_TEST_MONGODB_HOST": f"127.0.0.1:{port}",
            "ONCALL_TEST_MONGODB_ENGINE_PORT": str(engine_port),
            **about(self.name, f"FerretDB {VERSION} on DocumentDB, PostgreSQL 18"),
        }

    def stop(self) -> None:
        """Stop the server, then its engine."""
        for server in self._servers:
            server.stop(timeout_seconds=5.0)


class Engine:
    """PostgreSQL in a root file system of its own; its data is mounted there for itself alone."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._data, self._port = root, folder / "engine", free_port()
        self.server = Server(
            "documentdb", self._inside(f"{_COMMANDS}/postgres", "-D", "/srv/d"), folder=folder
        )

    def start(self) -> int:
        """Make a cluster, start it, and make what FerretDB needs; returns the port."""
        self._data.mkdir()
        os.chown(self._data, *self._user())
        options = ["-D", "/srv/d", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]
        run_quietly(self._inside(f"{_COMMANDS}/initdb", *options))
        with (self._data / "d" / "postgresql.conf").open("a") as configuration:
            configuration.write(f"{_CONFIGURATION}port = {self._port}\n")
        self.server.start(self._answers, timeout_seconds=60.0)
        self._query(_CREATE)
        return self._port

    def _answers(self) -> bool:
        with contextlib.suppress(MissingBackendError):
            self._query("select 1")
            return True
        return False

    def _query(self, text: str) -> None:
        argv = [f"{_COMMANDS}/psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", "/srv", "-p", str(self._port)]
        run_quietly(self._inside(*argv, "-U", "postgres", "-c", text))

    def _inside(self, *argv: str) -> list[str]:
        """How to run a command there, as postgres: the mount is seen by that process only, and ends with it."""
        user, group = self._user()
        change = ["chroot", str(self._root), "setpriv", "--reuid", str(user), "--regid", str(group)]
        command = [*change, "--clear-groups", "env", "LANG=C.UTF-8", "HOME=/srv", *argv]
        mount = shlex.join(["mount", "--bind", str(self._data), str(self._root / "srv")])
        return [require_command("unshare"), "-m", "sh", "-c", f"{mount} && exec {shlex.join(command)}"]

    def _user(self) -> tuple[int, int]:
        for line in (self._root / "etc" / "passwd").read_text().splitlines():
            if line.startswith("postgres:"):
                return int(line.split(":")[2]), int(line.split(":")[3])
        raise MissingBackendError("the engine's root file system knows no user postgres")
