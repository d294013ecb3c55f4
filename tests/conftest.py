"""Every test's surroundings: the markers, the table and the fixtures of real backends."""

pytest_plugins = ["backends.plugin", "backends.fixtures"]
