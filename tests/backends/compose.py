"""The same backends from docker-compose.test.yml, for machines without Debian packages."""

import os
import shlex
from pathlib import Path
from typing import ClassVar

from backends.base import Backend, MissingBackendError, about, find_command
from backends.processes import run_quietly

FILE = Path(__file__).resolve().parents[2] / "docker-compose.test.yml"
PULL_SECONDS = 600.0
SCRIPT = """#!/bin/sh
# A stop must have stopped the container when this ends; the client alone does not wait for that.
name=oncall-test-program-$$
trap '{docker} rm -f "$name" >/dev/null 2>&1' TERM INT
{run} --name "$name" {mount} "$@" &
wait $!
"""


def is_available() -> bool:
    """True when `docker compose` is there and its engine answers."""
    docker = find_command("docker")
    if docker is None:
        return False
    try:
        run_quietly([docker, "compose", "version"], timeout_seconds=20.0)
        run_quietly([docker, "version", "--format", "{{.Server.Version}}"], timeout_seconds=20.0)
    except MissingBackendError:
        return False
    return True


def command(project: str) -> list[str]:
    """The start of every call; one project per backend, so that they start and stop independently."""
    return [find_command("docker") or "docker", "compose", "-f", str(FILE), "-p", project]


def build_image() -> None:
    """Build the image of the container tests where it cannot be made from Debian packages."""
    run_quietly([*command("oncall-test-image"), "build", "image"], timeout_seconds=PULL_SECONDS)


class _Composed(Backend):
    needs = ()

    def __init__(self) -> None:
        self._command = command(f"oncall-test-{self.name}-{os.getpid()}")

    def stop(self) -> None:
        """Remove its containers and network."""
        run_quietly([*self._command, "down", "-v", "-t", "1", "--remove-orphans"])


class _Service(_Composed):
    """A server that runs as long as the tests do."""

    inner_port: ClassVar[int]

    def start_service(self) -> str:
        """Start it and wait until it is healthy; returns its loopback address as host:port."""
        run_quietly([*self._command, "up", "-d", "--wait", self.name], timeout_seconds=PULL_SECONDS)
        return run_quietly([*self._command, "port", self.name, str(self.inner_port)]).strip()


class ComposeRedis(_Service):
    """Redis of the compose file."""

    name = "redis"
    fixture = "redis_url"
    variables = ("ONCALL_TEST_REDIS_URL",)
    inner_port = 6379

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start it."""
        return {"ONCALL_TEST_REDIS_URL": f"redis://{self.start_service()}/0", **about(self.name, "compose")}


class ComposePostgres(_Service):
    """PostgreSQL of the compose file."""

    name = "postgres"
    fixture = "postgres_server_url"
    variables = ("ONCALL_TEST_POSTGRES_URL",)
    inner_port = 5432

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Start it."""
        url = f"postgresql+psycopg2://postgres@{self.start_service()}/postgres"
        return {"ONCALL_TEST_POSTGRES_URL": url, **about(self.name, "compose")}


class _Program(_Composed):
    """A program that tests start themselves: a script that runs the image like a local command."""

    def write_script(self, folder: Path) -> str:
        """Pull the image and write the script; the folder of temporary files is the same inside."""
        run_quietly([*self._command, "pull", "-q", self.name], timeout_seconds=PULL_SECONDS)
        user, shared = f"{os.getuid()}:{os.getgid()}", os.environ.get("TMPDIR", "/tmp")
        run = shlex.join([*self._command, "run", "--rm", "-T", "--no-deps", "--user", user])
        mount = shlex.join(["-v", f"{shared}:{shared}", self.name])
        script = folder / self.name
        script.write_text(SCRIPT.format(docker=shlex.quote(self._command[0]), run=run, mount=mount))
        script.chmod(0o755)
        return str(script)


class ComposeAlertmanager(_Program):
    """Alertmanager of the compose file."""

    name = "alertmanager"
    fixture = "alertmanager_binary"
    variables = ("ONCALL_TEST_ALERTMANAGER_BIN",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Make it callable."""
        return {"ONCALL_TEST_ALERTMANAGER_BIN": self.write_script(folder), **about(self.name, "compose")}


class ComposePrometheus(_Program):
    """Prometheus of the compose file."""

    name = "prometheus"
    fixture = "prometheus_binary"
    variables = ("ONCALL_TEST_PROMETHEUS_BIN",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Make it callable."""
        return {"ONCALL_TEST_PROMETHEUS_BIN": self.write_script(folder), **about(self.name, "compose")}


INSTEAD: dict[str, type[Backend]] = {
    kind.name: kind for kind in (ComposeRedis, ComposePostgres, ComposeAlertmanager, ComposePrometheus)
}
