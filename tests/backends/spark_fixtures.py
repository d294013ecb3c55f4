"""Fixtures on Spark: where it is, and settings under which applications of a test's own can be submitted."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import require_command
from backends.processes import Server, accepts_connections, free_port
from backends.spark_server import FRUGAL, VERSION, SparkCluster, token

SANDBOX = Path(__file__).resolve().parents[2] / "config" / "spark" / "sandbox.py"
SMALL = {
    "spark.driver.memory": "512m",
    "spark.driver.cores": "1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.extraJavaOptions": FRUGAL,
    "spark.executor.extraJavaOptions": FRUGAL,
    "spark.executor.memory": "512m",
    "spark.cores.max": "1",
    "spark.ui.port": "0",
    "spark.eventLog.enabled": "true",
    "spark.sql.shuffle.partitions": "1",
    "spark.task.maxFailures": "1",
}
"""Properties of an application that is to cost little."""


@pytest.fixture(scope="session")
def spark_folder() -> Path:
    """Where this run's Spark keeps its files."""
    return Path(os.environ["ONCALL_TEST_SPARK_FOLDER"])


@pytest.fixture(scope="session")
def spark_environment(spark_folder: Path) -> Path:
    """The environment with pyspark in it."""
    return Path(os.environ["ONCALL_TEST_SPARK_ENVIRONMENT"])


@pytest.fixture(scope="session")
def spark_settings(spark_folder: Path) -> Iterator[dict[str, Any]]:
    """The group `backends.spark` for this run's cluster, without submissions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_SPARK_TOKEN", token())
        yield {
            "master_url": os.environ["ONCALL_TEST_SPARK_URL"],
            "submit_url": os.environ["ONCALL_TEST_SPARK_SUBMIT_URL"],
            "history_url": os.environ["ONCALL_TEST_SPARK_HISTORY_URL"],
            "spark_master": os.environ["ONCALL_TEST_SPARK_MASTER"],
            "spark_version": VERSION,
            "token": "env:TEST_SPARK_TOKEN",
        }


@pytest.fixture(scope="session")
def spark_submission(spark_folder: Path, spark_environment: Path) -> Callable[..., dict[str, Any]]:
    """Gives a submission of the sandbox under a name of its own."""

    def submission(*arguments: str, conf: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
        events = {"spark.eventLog.dir": (spark_folder / "events").as_uri()}
        python = {"PYSPARK_PYTHON": str(spark_environment / "bin" / "python"), "SPARK_LOCAL_IP": "127.0.0.1"}
        return {
            "app_name": f"sandbox-{uuid.uuid4().hex[:8]}",
            "environment": python,
            "conf": {**SMALL, **events, **(conf or {})},
            "resource": str(SANDBOX),
            "arguments": arguments,
            **more,
        }

    return submission


@pytest.fixture
def spark_small_worker(
    spark_settings: dict[str, Any], spark_environment: Path, tmp_path: Path
) -> Iterator[str]:
    """The host of a second worker of this run's cluster, too small for a driver; it goes with the test."""
    cluster = SparkCluster(spark_environment, tmp_path)
    cluster.port, cluster.ui_port = (
        int(spark_settings[key].rpartition(":")[2]) for key in ("spark_master", "master_url")
    )
    try:
        cluster.start_worker("127.0.0.2", cores=1, memory="480m")
        yield "127.0.0.2"
    finally:
        cluster.stop()


@pytest.fixture
def spark_behind_nginx(
    spark_settings: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[[str], dict[str, str]]]:
    """Starts nginx with the generated rules; gives the three addresses behind it."""
    server: list[Server] = []

    def start(rules: str) -> dict[str, str]:
        ports = {"master_url": 18080, "submit_url": 18066, "history_url": 18180}
        free = {key: free_port() for key in ports}
        for key, port in ports.items():
            rules = rules.replace(f"listen 127.0.0.1:{port};", f"listen 127.0.0.1:{free[key]};")
        folders = "".join(
            f"  {kind}_temp_path {tmp_path}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        head = f"daemon off;\npid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/error.log;\n"
        rules = rules.replace("http {\n", f"http {{\n  access_log off;\n{folders}", 1)
        (tmp_path / "nginx.conf").write_text(head + rules)
        argv = [require_command("nginx"), "-e", f"{tmp_path}/error.log", "-p", str(tmp_path)]
        server.append(Server("nginx", [*argv, "-c", str(tmp_path / "nginx.conf")], folder=tmp_path))
        server[0].start(lambda: accepts_connections(free["master_url"]))
        return {key: f"http://127.0.0.1:{port}" for key, port in free.items()}

    yield start
    for one in server:
        one.stop()
