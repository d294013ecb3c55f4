"""Fixtures of the programs that actions on folders work with."""

import os

import pytest


@pytest.fixture(scope="session")
def logrotate() -> str:
    """The program; where it is, setfacl is, too."""
    return os.environ["ONCALL_TEST_LOGROTATE"]
