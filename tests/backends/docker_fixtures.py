"""Fixtures on the engine with the small disk."""

import os
from collections.abc import Iterator

import docker
import pytest


@pytest.fixture(scope="session")
def small_docker_host() -> str:
    """An engine of this run whose disk is small; tests on it are exclusive, since they prune."""
    return os.environ["ONCALL_TEST_SMALL_DOCKER_HOST"]


@pytest.fixture(scope="session")
def small_docker_image(small_docker_host: str) -> str:
    """Its one image, with a busybox."""
    return os.environ["ONCALL_TEST_SMALL_DOCKER_IMAGE"]


@pytest.fixture(scope="session")
def small_docker(small_docker_host: str) -> Iterator[docker.APIClient]:
    """A client of it."""
    client = docker.APIClient(base_url=small_docker_host, version="auto", timeout=60)
    yield client
    client.close()
