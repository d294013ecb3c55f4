"""Memcached nodes of a test's own: with options, in a pool, in a container."""

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from backends.base import require_command
from backends.memcached_server import MemcachedNode

StartMemcached = Callable[..., MemcachedNode]
_IMAGE = "oncall-test/memcached"


@pytest.fixture(scope="session")
def memcached_ports(request: pytest.FixtureRequest) -> list[int]:
    """The nodes of this run's pool, shared by all workers: use keys of your own."""
    return [int(port) for port in os.environ["ONCALL_TEST_MEMCACHED_PORTS"].split(",")]


@pytest.fixture
def start_memcached(memcached_ports: list[int], tmp_path: Path) -> Iterator[StartMemcached]:
    """Starts nodes with the given options and stops them after the test."""
    started: list[MemcachedNode] = []

    def start(*options: str, port: int = 0) -> MemcachedNode:
        node = MemcachedNode(tmp_path / f"memcached-{len(started)}", *options, port=port)
        started.append(node)
        return node.start()

    yield start
    for node in started:
        node.stop()


@pytest.fixture(scope="session")
def memcached_image(memcached_ports: list[int], docker_client: docker.DockerClient) -> str:
    """An image of this machine's memcached and the libraries that it needs, nothing else."""
    program = require_command("memcached")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path in (program, *_libraries(program)):
            tar.add(os.path.realpath(path), arcname=path.lstrip("/"))
        tar.addfile(*_file("etc/passwd", b"nobody:x:65534:65534::/:/\n"))
    content.seek(0)
    docker_client.api.import_image_from_data(content.getvalue(), repository=_IMAGE, tag="1")
    return f"{_IMAGE}:1"


def _libraries(program: str) -> list[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=10).stdout
    words = [word for line in listed.splitlines() for word in line.split()]
    return [word for word in words if word.startswith("/")]


def _file(name: str, content: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    return entry, io.BytesIO(content)
