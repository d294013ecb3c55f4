"""Chromium from its package; Playwright drives it, and never downloads one of its own."""

from pathlib import Path

from backends.base import Backend, MissingBackendError, Need, about, find_command
from backends.processes import version_of

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)
COMMANDS = ("chromium", "chromium-browser", "google-chrome")


class Chromium(Backend):
    """The browser program."""

    name = "chromium"
    fixture = "chromium_path"
    needs = (
        Need("chromium", "chromium"),
        Need("fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu/*.ttf"),
    )
    variables = ("ONCALL_TEST_CHROMIUM",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Find it and have it print its version; nothing keeps running."""
        for command in COMMANDS:
            found = find_command(command)
            if found is not None:
                return {"ONCALL_TEST_CHROMIUM": found, **about(self.name, version_of(found))}
        raise MissingBackendError("no Chromium is installed (Debian: chromium)")
