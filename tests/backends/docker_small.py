"""A private engine whose disk is small and may be filled and emptied: for pruning, which spares nobody."""

import os
from pathlib import Path

from backends import tiny_image
from backends.base import Backend, MissingBackendError, Need, about
from backends.docker_engine import PrivateEngine
from backends.engine_api import EngineError
from backends.processes import run_quietly

SIZE_MIB = 192
IMAGE = "oncall-test/tiny:1"


class DockerSmall(Backend):
    """An engine that keeps all it has in memory, at most `SIZE_MIB`."""

    name = "docker_small"
    fixture = "small_docker_host"
    needs = (Need("docker.io", "dockerd"), Need("iproute2", "ip"), tiny_image.NEED)
    variables = ("ONCALL_TEST_SMALL_DOCKER_HOST", "ONCALL_TEST_SMALL_DOCKER_IMAGE")

    def __init__(self) -> None:
        self._engine: PrivateEngine | None = None

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Mount the disk, start the engine on it, and load a tiny image."""
        if os.geteuid() != 0:
            raise MissingBackendError("a disk and an engine of its own need root")
        disk = folder / "root"
        disk.mkdir()
        run_quietly(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=711", "oncall-test", str(disk)])
        self._engine = PrivateEngine(folder)
        engine = self._engine.start()
        repository, tag = IMAGE.split(":")
        try:
            engine.import_image(tiny_image.archive(), repository, tag, list(tiny_image.CHANGES))
        except EngineError as error:
            raise MissingBackendError(f"loading the tiny image: {error}") from error
        return {
            "ONCALL_TEST_SMALL_DOCKER_HOST": engine.host,
            "ONCALL_TEST_SMALL_DOCKER_IMAGE": IMAGE,
            **about(self.name, f"{engine.version()}, own engine on a disk of {SIZE_MIB} MiB"),
        }

    def stop(self) -> None:
        """Stop the engine and unmount its disk."""
        if self._engine is not None:
            self._engine.stop()
