"""Fixtures on the booted systemd: units of a test's own, removed after it."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container


@pytest.fixture(scope="session")
def systemd_folder() -> Path:
    """What this run's systemd shares with the host: bus, units, journal, rules, shared."""
    return Path(os.environ["ONCALL_TEST_SYSTEMD_FOLDER"])


@pytest.fixture(scope="session")
def systemd_container(systemd_folder: Path, docker_client: docker.DockerClient) -> Container:
    """The container that it runs in, to look at it from inside."""
    return docker_client.containers.get(os.environ["ONCALL_TEST_SYSTEMD_CONTAINER"])


@pytest.fixture
def make_unit(systemd_folder: Path, systemd_container: Container) -> Iterator[Callable[..., str]]:
    """Installs a unit file under a name of its own and starts it; stopped and removed after the test."""
    made: list[str] = []

    def make(text: str, *, name: str = "", start: bool = True) -> str:
        name = name or f"oncall-test-{uuid.uuid4().hex[:10]}.service"
        (systemd_folder / "units" / name).write_text(text)
        made.append(name)
        systemctl(systemd_container, "daemon-reload")
        if start:
            systemctl(systemd_container, "start", "--no-block", name)
        return name

    yield make
    for name in made:
        systemctl(systemd_container, "kill", "-s", "KILL", name)
        systemctl(systemd_container, "stop", name)
        (systemd_folder / "units" / name).unlink(missing_ok=True)
        systemctl(systemd_container, "reset-failed", name)
    systemctl(systemd_container, "daemon-reload")


def systemctl(container: Container, *arguments: str) -> str:
    """Run systemctl inside as root, as a person there would; give what it printed."""
    output: bytes = container.exec_run(["systemctl", *arguments]).output  # type: ignore[assignment]
    return output.decode(errors="replace")
