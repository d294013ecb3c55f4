"""Apache Airflow on loopback: two API servers, scheduler and DAG processor, in an environment of its own."""

import contextlib
import json
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from backends.airflow_database import MetadataDatabase, cached_dump
from backends.airflow_users import fab_commands
from backends.base import Backend, MissingBackendError, about
from backends.processes import Server, free_port, run_quietly, wait_until
from backends.python_env import requirements_environment

ROLES = ("viewer", "user", "op", "admin")
READY_SECONDS = 120.0
MAKE_SECONDS = 300.0
FAB = "api-server-with-fab"
"""A second API server on the same database; its users and roles are those of the FAB auth manager."""
TEST_DAGS = Path(__file__).with_name("airflow_dags")
SANDBOX_DAGS = Path(__file__).resolve().parents[2] / "config" / "airflow"

_FAB_SETTINGS = {
    "CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
    "FAB__UPDATE_FAB_PERMS": "False",
}
COMMANDS = """
import shlex, sys
from airflow.cli.cli_parser import get_parser

for command in sys.argv[1:]:
    given = get_parser().parse_args(shlex.split(command)[1:])
    given.func(given)
"""


class AirflowProcesses:
    """What an Airflow is made of: where it listens, its settings, and its processes.

    Args:
        database: URL of the metadata database.
        silence_seconds: a scheduler that gave no sign of life for so long is unhealthy.
    """

    def __init__(self, environment: Path, folder: Path, database: str, *, silence_seconds: int = 60) -> None:
        self.environment, self.folder, self._database = environment, folder, database
        self.port, self.fab_port = free_port(), free_port()
        self._silence_seconds = silence_seconds
        self._servers: list[Server] = []

    @property
    def url(self) -> str:
        """The base URL of its API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def fab_url(self) -> str:
        """The base URL of the second API server."""
        return f"http://127.0.0.1:{self.fab_port}"

    def prepare(self) -> None:
        """Make folders, users and DAGs."""
        (self.folder / "gates").mkdir(parents=True)
        for source in (TEST_DAGS, SANDBOX_DAGS):
            shutil.copytree(source, self.folder / "dags", dirs_exist_ok=True)
        passwords = {role: password_of(role) for role in ROLES}
        (self.folder / "passwords.json").write_text(json.dumps(passwords))

    def start(self, *components: str) -> None:
        """Start components side by side and wait until the API answers."""
        for component in components:
            server = Server(
                component, self._command(component), folder=self.folder, env=self._settings(component)
            )
            self._servers.append(server)
            server.start(lambda: True)
        self.wait_for(lambda: health(self.url) is not None)

    def wait_for(self, is_true: Callable[[], bool]) -> None:
        """Wait until it is so; raises MissingBackendError when that takes too long or a process ends."""
        fine = wait_until(lambda: self._ended() is not None or is_true(), timeout_seconds=READY_SECONDS)
        stuck = self._ended() or (None if fine else self._servers[0])
        if stuck is not None:
            raise MissingBackendError(f"{stuck.name} is not ready: {stuck.log_tail()}")

    def pid_of(self, component: str) -> int:
        """The process id of a component, which leads a process group of its own."""
        return next(server.pid for server in self._servers if server.name == component)

    def _ended(self) -> Server | None:
        return next((server for server in self._servers if server.has_ended()), None)

    def stop(self) -> None:
        """Stop all of them, the scheduler before what it talks to."""
        for server in reversed(self._servers):
            server.stop(timeout_seconds=10.0)
        self._servers.clear()

    def _command(self, component: str) -> list[str]:
        name = "api-server" if component == FAB else component
        return [str(self.environment / "bin" / "python"), "-m", "airflow", name]

    def _settings(self, component: str) -> dict[str, str]:
        given = {
            **_common_settings(self.folder, self._database),
            **(_FAB_SETTINGS if component == FAB else {}),
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.fab_port if component == FAB else self.port),
            "API__WORKERS": "1",
            "API_AUTH__JWT_SECRET": "a secret of the tests alone, as long as the algorithm asks for it to be, and more",
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__PARALLELISM": "4",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.folder / "passwords.json"),
            "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{role}:{role}" for role in ROLES),
            "DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "DATABASE__SQL_ALCHEMY_POOL_SIZE": "3",
            "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": str(self._silence_seconds),
        }
        path = os.pathsep.join([str(self.environment / "bin"), os.environ.get("PATH", "")])
        gates = {"PATH": path, "ONCALL_TEST_AIRFLOW_GATES": str(self.folder / "gates")}
        return {**{f"AIRFLOW__{name}": value for name, value in given.items()}, **_home(self.folder), **gates}


class Airflow(Backend):
    """One Airflow with a user of each role; tests use DAGs of their own."""

    name = "airflow"
    fixture = "airflow_url"
    needs = ()
    depends_on = ("postgres",)
    variables = (
        "ONCALL_TEST_AIRFLOW_URL",
        "ONCALL_TEST_AIRFLOW_FAB_URL",
        "ONCALL_TEST_AIRFLOW_FOLDER",
        "ONCALL_TEST_AIRFLOW_ENVIRONMENT",
        "ONCALL_TEST_AIRFLOW_DATABASE",
    )

    def __init__(self) -> None:
        self._processes: AirflowProcesses | None = None
        self._database: MetadataDatabase | None = None

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start it; ready when scheduler and DAG processor have given a sign of life and the DAGs are known."""
        environment = requirements_environment("airflow", cache)
        server = self.given["ONCALL_TEST_POSTGRES_URL"]
        dump = migrated_database(environment, server, cache)
        self._database = database = MetadataDatabase(server)
        database.create()
        database.fill(dump)
        self._processes = processes = AirflowProcesses(environment, folder, database.url)
        processes.prepare()
        processes.start("api-server", "scheduler", "dag-processor", FAB)
        processes.wait_for(lambda: is_ready(processes.url) and health(processes.fab_url) is not None)
        return {
            "ONCALL_TEST_AIRFLOW_URL": processes.url,
            "ONCALL_TEST_AIRFLOW_FAB_URL": processes.fab_url,
            "ONCALL_TEST_AIRFLOW_FOLDER": str(folder),
            "ONCALL_TEST_AIRFLOW_ENVIRONMENT": str(environment),
            "ONCALL_TEST_AIRFLOW_DATABASE": database.name,
            **about(self.name, f"Airflow {_version(processes.url)}, LocalExecutor"),
        }

    def stop(self) -> None:
        """Stop its processes and remove its database, unless PostgreSQL was faster to go."""
        if self._processes is not None:
            self._processes.stop()
        if self._database is not None:
            with contextlib.suppress(MissingBackendError):
                self._database.drop()


def migrated_database(environment: Path, server_url: str, cache: Path) -> Path:
    """The dump of a metadata database without DAGs, with the roles and users of the FAB auth manager."""
    commands = ["airflow db migrate", "airflow sync-perm", *fab_commands()]
    python = str(environment / "bin" / "python")

    def fill(database: MetadataDatabase) -> None:
        with tempfile.TemporaryDirectory(prefix="oncall-airflow-") as name:
            home = Path(name)
            given = {**_common_settings(home, database.url), **_FAB_SETTINGS, "FAB__UPDATE_FAB_PERMS": "True"}
            settings = [f"{name}={value}" for name, value in _home(home).items()]
            settings += [f"AIRFLOW__{name}={value}" for name, value in given.items()]
            run_quietly(["env", *settings, python, "-c", COMMANDS, *commands], timeout_seconds=MAKE_SECONDS)

    return cached_dump(server_url, cache, [environment.name, COMMANDS, *commands], fill)


def password_of(role: str) -> str:
    """The password of the user of that role."""
    return f"pw-{role}-of-the-tests"


def health(url: str) -> Any | None:
    """What Airflow says of its parts; None when it does not answer."""
    try:
        return _get(f"{url}/api/v2/monitor/health")
    except (OSError, ValueError):
        return None


def is_ready(url: str) -> bool:
    """True when its parts are healthy and it knows every DAG file."""
    found = health(url) or {}
    parts = [(found.get(part) or {}).get("status") for part in ("scheduler", "dag_processor")]
    if parts != ["healthy", "healthy"]:
        return False
    try:
        known = _get(f"{url}/api/v2/dags?limit=1000", token=token(url, "viewer"))["dags"]
    except OSError:
        return False
    files = {Path(dag["fileloc"]).name for dag in known}
    return files >= {path.name for folder in (TEST_DAGS, SANDBOX_DAGS) for path in folder.glob("*.py")}


def token(url: str, role: str) -> str:
    """A bearer token of the user of that role."""
    body = json.dumps({"username": role, "password": password_of(role)}).encode()
    answer = _get(f"{url}/auth/token", body=body, headers={"Content-Type": "application/json"})
    return str(answer["access_token"])


def _version(url: str) -> str:
    return str(_get(f"{url}/api/v2/version")["version"])


def _home(folder: Path) -> dict[str, str]:
    return {"AIRFLOW_HOME": str(folder), "NO_COLOR": "1"}


def _common_settings(folder: Path, database: str) -> Mapping[str, str]:
    return {
        "CORE__DAGS_FOLDER": str(folder / "dags"),
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__LOAD_EXAMPLES": "False",
        "DATABASE__SQL_ALCHEMY_CONN": database,
    }


def _get(
    url: str, *, body: bytes | None = None, token: str = "", headers: Mapping[str, str] | None = None
) -> Any:
    sent = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(url, data=body, headers=sent)
    with urllib.request.urlopen(request, timeout=5.0) as answer:
        return json.load(answer)
