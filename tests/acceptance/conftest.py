"""What whole-daemon tests start from."""

from __future__ import annotations

import pytest
from scenes.lamp import fresh_world


@pytest.fixture(autouse=True)
def world():
    return fresh_world()
