"""Fixtures on the Kubernetes cluster of this run; every test works in a namespace of its own."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.kubernetes_control import Access
from backends.kubernetes_world import World


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
