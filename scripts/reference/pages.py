"""Which pages there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reference import actions_page, cli_page, http_page, settings_page, telemetry_pages, words_page

FOLDER = Path(__file__).parents[2] / "docs" / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "actions.md": actions_page.render,
    "cli.md": cli_page.render,
    "configuration.md": settings_page.render,
    "http.md": http_page.render,
    "log.md": telemetry_pages.render_log,
    "metrics.md": telemetry_pages.render_metrics,
    "reasons.md": words_page.render,
}
"""File name -> what writes it."""
