"""Fixtures on nginx, HAProxy and Varnish: each test starts instances of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.nginx_server import Haproxy, Nginx
from backends.varnish_server import Varnish


@pytest.fixture(scope="session")
def nginx_binary() -> str:
    """The nginx program."""
    return os.environ["ONCALL_TEST_NGINX_BIN"]


@pytest.fixture(scope="session")
def haproxy_binary() -> str:
    """The HAProxy program."""
    return os.environ["ONCALL_TEST_HAPROXY_BIN"]


@pytest.fixture
def nginx(nginx_binary: str, tmp_path: Path) -> Iterator[Nginx]:
    """An nginx of this test, not yet started: call `start(http_block)`."""
    instance = Nginx(nginx_binary, tmp_path / "nginx")
    yield instance
    instance.stop()


@pytest.fixture
def haproxy(haproxy_binary: str) -> Iterator[Haproxy]:
    """A HAProxy of this test, not yet started: call `start(config)`."""
    # A socket's path may not be long.
    folder = Path(tempfile.mkdtemp(prefix="oncall-haproxy-"))
    instance = Haproxy(haproxy_binary, folder)
    yield instance
    instance.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def varnish_binary() -> str:
    """The Varnish program."""
    return os.environ["ONCALL_TEST_VARNISH_BIN"]


@pytest.fixture
def varnish(varnish_binary: str) -> Iterator[Varnish]:
    """A Varnish of this test, not yet started: call `start(origin_port)`."""
    folder = Path(tempfile.mkdtemp(prefix="oncall-varnish-"))
    instance = Varnish(varnish_binary, folder)
    yield instance
    instance.stop()
    shutil.rmtree(folder, ignore_errors=True)
