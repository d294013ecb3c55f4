"""Fixtures on the run's Airflow: its API, its gates, and a second one that may die."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.airflow_database import MetadataDatabase
from backends.airflow_server import ROLES, AirflowProcesses, password_of


@pytest.fixture(scope="session")
def airflow_url() -> str:
    """The API of an Airflow of this run, shared by all workers: use a DAG of your own."""
    return os.environ["ONCALL_TEST_AIRFLOW_URL"]


@pytest.fixture(scope="session")
def airflow_folder(airflow_url: str) -> Path:
    """Its folder: `gates/` is what the DAGs of the tests look at."""
    return Path(os.environ["ONCALL_TEST_AIRFLOW_FOLDER"])


@pytest.fixture(scope="session")
def airflow_passwords(airflow_url: str) -> Iterator[None]:
    """The passwords of the users, one of each role, as `env:TEST_AIRFLOW_VIEWER` and so on."""
    with pytest.MonkeyPatch.context() as patch:
        for role in ROLES:
            patch.setenv(f"TEST_AIRFLOW_{role.upper()}", password_of(role))
        yield


@pytest.fixture(scope="session")
def airflow_settings(airflow_url: str, airflow_passwords: None) -> Callable[[str], dict[str, Any]]:
    """Gives `backends.airflow` for the user of a role."""
    return lambda role: {
        "url": airflow_url,
        "username": role,
        "password": f"env:TEST_AIRFLOW_{role.upper()}",
        "timeout_seconds": 30.0,
    }


@pytest.fixture
def mortal_airflow(airflow_url: str, postgres_server_url: str, tmp_path: Path) -> Iterator[AirflowProcesses]:
    """An API server of this test on a copy of the run's database, without a scheduler; it may be killed."""
    environment = Path(os.environ["ONCALL_TEST_AIRFLOW_ENVIRONMENT"])
    source, copy = MetadataDatabase(postgres_server_url), MetadataDatabase(postgres_server_url)
    source.name = os.environ["ONCALL_TEST_AIRFLOW_DATABASE"]
    source.dump(tmp_path / "airflow.sql")
    copy.create()
    processes = AirflowProcesses(environment, tmp_path / "airflow", copy.url, silence_seconds=1)
    try:
        copy.fill(tmp_path / "airflow.sql")
        processes.prepare()
        processes.start("api-server")
        yield processes
    finally:
        processes.stop()
        copy.drop()
