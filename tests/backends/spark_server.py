"""Apache Spark standalone from its Python package: master with REST submission, a worker, a history server."""

import base64
import hashlib
import hmac
import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends.base import Backend, MissingBackendError, Need, about, require_command
from backends.processes import Server, accepts_connections, free_port
from backends.python_env import requirements_environment

VERSION = "4.1.4"
READY_SECONDS = 90.0
FRUGAL = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
DEPLOY = "org.apache.spark.deploy"
JWS_KEY = base64.b64encode(b"a key of the tests alone, of thirty-two bytes or more").decode()
FILTER = "org.apache.spark.ui.JWSFilter"


class SparkCluster:
    """The processes of one cluster; every test may have one of its own beside the shared one."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.port, self.ui_port, self.rest_port, self.history_port = (free_port() for _ in range(4))
        self._servers: dict[str, Server] = {}

    @property
    def master(self) -> str:
        """Address for drivers and workers."""
        return f"spark://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The master's pages."""
        return f"http://127.0.0.1:{self.ui_port}"

    @property
    def submit_url(self) -> str:
        """The master's REST server."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def history_url(self) -> str:
        """The history server."""
        return f"http://127.0.0.1:{self.history_port}"

    def start_master(self) -> None:
        """Start the master; its REST server asks for a signed token."""
        options = {
            "spark.master.rest.enabled": "true",
            "spark.master.rest.host": "127.0.0.1",
            "spark.master.rest.port": str(self.rest_port),
            "spark.master.rest.filters": FILTER,
            f"spark.{FILTER}.param.secretKey": JWS_KEY,
            "spark.ui.reverseProxy": "true",
            "spark.decommission.enabled": "true",
        }
        addresses = ["--host", "127.0.0.1", "--port", str(self.port), "--webui-port", str(self.ui_port)]
        server = self._server(
            "master", f"{DEPLOY}.master.Master", addresses, SPARK_MASTER_OPTS=_flags(options)
        )
        server.start(lambda: state_of(self.url) is not None, timeout_seconds=READY_SECONDS)

    def start_worker(self, host: str = "127.0.0.1", *, cores: int = 8, memory: str = "8g") -> None:
        """Start a worker and wait until the master has it."""
        options = _flags({"spark.decommission.enabled": "true"})
        where = ["--host", host, "--port", "0", "--webui-port", "0"]
        addresses = [*where, "--cores", str(cores), "--memory", memory, self.master]
        server = self._server(
            f"worker-{host}", f"{DEPLOY}.worker.Worker", addresses, host=host, SPARK_WORKER_OPTS=options
        )
        server.start(lambda: host in alive_hosts(self.url), timeout_seconds=READY_SECONDS)

    def start_history(self) -> None:
        """Start the history server over this cluster's event logs."""
        options = {
            "spark.history.fs.logDirectory": (self.folder / "events").as_uri(),
            "spark.history.ui.port": str(self.history_port),
            "spark.history.fs.update.interval": "1s",
        }
        server = self._server(
            "history", f"{DEPLOY}.history.HistoryServer", [], SPARK_HISTORY_OPTS=_flags(options)
        )
        server.start(lambda: accepts_connections(self.history_port), timeout_seconds=READY_SECONDS)

    def stop(self) -> None:
        """Stop all of them, workers with their drivers and executors first."""
        for server in reversed(self._servers.values()):
            server.stop(timeout_seconds=10.0)

    def _server(
        self, name: str, main: str, arguments: Sequence[str], *, host: str = "127.0.0.1", **more: str
    ) -> Server:
        home = spark_home(self.environment)
        for folder in ("events", "work", "local", "conf"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        self._servers[name] = Server(
            name,
            [str(home / "bin" / "spark-class"), main, *arguments],
            folder=self.folder,
            env={
                "SPARK_HOME": str(home),
                "SPARK_CONF_DIR": str(self.folder / "conf"),
                "SPARK_LOCAL_DIRS": str(self.folder / "local"),
                "SPARK_WORKER_DIR": str(self.folder / "work"),
                "SPARK_LOCAL_IP": host,
                "SPARK_PUBLIC_DNS": host,
                "SPARK_DAEMON_MEMORY": "256m",
                "SPARK_DAEMON_JAVA_OPTS": FRUGAL,
                "PYSPARK_PYTHON": str(self.environment / "bin" / "python"),
                **more,
            },
        )
        return self._servers[name]


class Spark(Backend):
    """One cluster for all tests; their applications have names of their own."""

    name = "spark"
    fixture = "spark_folder"
    needs = (
        Need("openjdk-17-jre-headless", "java"),
        Need("procps", "ps"),
        Need("nginx-light", "nginx"),
    )
    variables = (
        "ONCALL_TEST_SPARK_FOLDER",
        "ONCALL_TEST_SPARK_ENVIRONMENT",
        "ONCALL_TEST_SPARK_URL",
        "ONCALL_TEST_SPARK_SUBMIT_URL",
        "ONCALL_TEST_SPARK_HISTORY_URL",
        "ONCALL_TEST_SPARK_MASTER",
    )

    def __init__(self) -> None:
        self._cluster: SparkCluster | None = None

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start it; ready when the master has its worker."""
        require_command("java")
        environment = requirements_environment("spark", cache)
        self._cluster = cluster = SparkCluster(environment, folder)
        cluster.start_master()
        cluster.start_worker()
        cluster.start_history()
        return {
            "ONCALL_TEST_SPARK_FOLDER": str(folder),
            "ONCALL_TEST_SPARK_ENVIRONMENT": str(environment),
            "ONCALL_TEST_SPARK_URL": cluster.url,
            "ONCALL_TEST_SPARK_SUBMIT_URL": cluster.submit_url,
            "ONCALL_TEST_SPARK_HISTORY_URL": cluster.history_url,
            "ONCALL_TEST_SPARK_MASTER": cluster.master,
            **about(self.name, f"Spark {VERSION}, standalone"),
        }

    def stop(self) -> None:
        """Stop it."""
        if self._cluster is not None:
            self._cluster.stop()


def spark_home(environment: Path) -> Path:
    """Where the package keeps Spark; raises MissingBackendError when it is not there."""
    found = next(environment.glob("lib/python*/site-packages/pyspark"), None)
    if found is None:
        raise MissingBackendError("the environment holds no pyspark")
    return found


def state_of(url: str) -> dict[str, Any] | None:
    """What a master says of its cluster; None when it does not answer."""
    try:
        with urllib.request.urlopen(f"{url}/json/", timeout=2.0) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError):
        return None


def alive_hosts(url: str) -> set[str]:
    """The hosts of the workers that are in service."""
    found = (state_of(url) or {}).get("workers", [])
    return {worker["host"] for worker in found if worker["state"] == "ALIVE"}


def token(key: str = JWS_KEY) -> str:
    """A token that the master's REST server takes, signed with this key."""
    head, body = (_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256"}, {"sub": "oncall-agent"}))
    signed = hmac.new(base64.b64decode(key), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{_encoded(signed)}"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _flags(options: dict[str, str]) -> str:
    return " ".join(f"-D{name}={value}" for name, value in options.items())
