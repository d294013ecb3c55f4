"""pytest's side of the backends: the `backend` and `exclusive` markers, and the table at the end."""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import selection
from backends.catalogue import ALL, NAMES

ROOT_FIXTURES = {backend.fixture: backend.name for backend in ALL}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they ask for."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in ROOT_FIXTURES:
                item.add_marker(pytest.mark.backend(ROOT_FIXTURES[fixture]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let one exclusive test run at a time, whichever worker has it; a test's own time limit starts later.

    Not by a group of xdist: xdist 3.8 can't name the groups of pytest 9.2.
    """
    if item.get_closest_marker("exclusive") is None:
        return (yield)
    with Path(__file__).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (yield)


def backends_of(item: pytest.Item) -> list[str]:
    """The backends a test needs, each once."""
    return list(dict.fromkeys(name for mark in item.iter_markers("backend") for name in mark.args))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose backend is missing; fail it when the run insists on that backend."""
    for name in backends_of(item):
        reason = selection.missing_reason(name, os.environ)
        if reason is not None and name in selection.required(os.environ):
            pytest.fail(f"required backend {name} is missing: {reason}", pytrace=False)
        if reason is not None:
            pytest.skip(f"backend {name} is missing: {reason}")
        item.user_properties.append(("backend", name))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which backends were real, how many tests passed on each, and why the others were missing."""
    passed = Counter(
        value
        for report in terminalreporter.stats.get("passed", ())
        for key, value in report.user_properties
        if key == "backend" and report.when == "call"
    )
    terminalreporter.section("backends")
    for name in NAMES:
        reason = selection.missing_reason(name, os.environ)
        if reason is None:
            line = f"{name:<14} real     {passed[name]:>4} passed on it   {selection.about(name, os.environ)}"
        else:
            line = f"{name:<14} missing  {reason}"
        terminalreporter.write_line(
            line.rstrip(), red=reason is not None and name in selection.required(os.environ)
        )
