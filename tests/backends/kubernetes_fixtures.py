"""Fixtures on the Kubernetes cluster of this run; every test works in a namespace of its own."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.kubernetes_control import Access, apiserver
from backends.kubernetes_world import World
from backends.processes import Server, free_port


@pytest.fixture(scope="session")
def kubernetes_url() -> str:
    """The API server of this run."""
    return os.environ["ONCALL_TEST_KUBERNETES_URL"]


@pytest.fixture(scope="session")
def kubernetes_keys(kubernetes_url: str) -> Path:
    """The folder with `ca.crt` and `kubeconfig`."""
    return Path(os.environ["ONCALL_TEST_KUBERNETES_KEYS"])


@pytest.fixture(scope="session")
def kubernetes_access(kubernetes_url: str, kubernetes_keys: Path) -> Access:
    """The administrator's way in."""
    return Access(kubernetes_url, kubernetes_keys / "ca.crt", os.environ["ONCALL_TEST_KUBERNETES_ADMIN"])


@pytest.fixture(scope="session")
def kubernetes_nobody(kubernetes_url: str) -> str:
    """The token of a user who may do nothing."""
    return os.environ["ONCALL_TEST_KUBERNETES_NOBODY"]


@pytest.fixture(scope="session")
def kubernetes_image(kubernetes_url: str) -> str:
    """An image that every node has, with busybox."""
    return os.environ["ONCALL_TEST_KUBERNETES_IMAGE"]


@pytest.fixture
def world(kubernetes_access: Access, kubernetes_image: str) -> Iterator[World]:
    """A namespace of this test; it goes with everything in it."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    found = World(kubernetes_access, name, kubernetes_image)
    kubernetes_access.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield found
    found.close()


@pytest.fixture
def own_apiserver(kubernetes_keys: Path, tmp_path: Path) -> Iterator[tuple[Server, Access]]:
    """A second API server on the same state, not yet started: a test may stop and start it."""
    port, folder = free_port(), tmp_path / "apiserver"
    folder.mkdir()
    program, etcd = os.environ["ONCALL_TEST_KUBERNETES_APISERVER"], os.environ["ONCALL_TEST_KUBERNETES_ETCD"]
    server = apiserver(program, folder, kubernetes_keys, etcd, port)
    admin = os.environ["ONCALL_TEST_KUBERNETES_ADMIN"]
    yield server, Access(f"https://127.0.0.1:{port}", kubernetes_keys / "ca.crt", admin)
    server.stop()
