"""Fixtures on the toxiproxy of this run."""

import contextlib
import os
import urllib.error
import uuid
from collections.abc import Callable, Iterator

import pytest

from backends.toxiproxy_server import ToxicProxy


@pytest.fixture(scope="session")
def toxiproxy_url() -> str:
    """The API of this run's toxiproxy; tests take `toxic_proxy`."""
    return os.environ["ONCALL_TEST_TOXIPROXY_URL"]


@pytest.fixture
def toxic_proxy(toxiproxy_url: str) -> Iterator[Callable[[str], ToxicProxy]]:
    """Makes proxies in front of an address `host:port` and removes them after the test."""
    made: list[ToxicProxy] = []

    def make(upstream: str) -> ToxicProxy:
        made.append(ToxicProxy(toxiproxy_url, f"test-{uuid.uuid4().hex[:12]}", upstream))
        return made[-1]

    yield make
    for proxy in made:
        with contextlib.suppress(urllib.error.HTTPError):
            proxy.remove()
