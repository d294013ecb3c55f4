"""The compose file as a user has it: commands on a project of the test's own."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator

import pytest

from backends.compose import command
from backends.processes import free_port

Compose = Callable[..., str]


@pytest.fixture(scope="session")
def compose_environment() -> dict[str, str]:
    """The variables under which the compose file runs on the engine of this run, with images that are there."""
    return dict(json.loads(os.environ["ONCALL_TEST_COMPOSE"]))


@pytest.fixture
def compose(compose_environment: dict[str, str]) -> Iterator[Compose]:
    """Runs `docker compose` on the compose file and gives what it prints; removes everything afterwards."""
    ports = {f"ONCALL_{name}_PORT": str(free_port()) for name in ("ALERTMANAGER", "PROMETHEUS")}
    environment = {**os.environ, **compose_environment, **ports}
    start = command(f"oncall-test-file-{uuid.uuid4().hex[:8]}")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*start, *arguments], env=environment, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, done.stderr[-2_000:]
        return done.stdout

    yield run
    run("down", "-v", "-t", "1", "--remove-orphans")
