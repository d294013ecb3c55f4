"""Every test's surroundings: the markers, the table and the fixtures of real backends."""

from backends.catalogue import FIXTURE_MODULES

pytest_plugins = ["backends.plugin", *FIXTURE_MODULES]
