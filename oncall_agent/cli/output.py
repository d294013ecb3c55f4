"""What the verbs print: tables for people, JSON for programs, errors on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oncall_agent.client import RefusedError, UnreachableError
from oncall_agent.errors import OncallAgentError

FAILED, BAD_USAGE = 1, 2
out = Console()
err = Console(stderr=True)


def show_json(value: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True, default=str))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; alert text is never read as markup."""
    grid = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        grid.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    out.print(grid)


def stop(code: int, message: str) -> NoReturn:
    """Say why on standard error and end with an exit code."""
    err.print(f"[bold red]error[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def told() -> Iterator[None]:
    """Turn what can go wrong into one line and an exit code, never a traceback."""
    try:
        yield
    except RefusedError as error:
        stop(BAD_USAGE if error.status in (400, 404, 422) else FAILED, str(error))
    except UnreachableError as error:
        stop(FAILED, str(error))
    except OncallAgentError as error:
        stop(BAD_USAGE, error.message)


def render(value: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print as JSON or for people."""
    if as_json:
        show_json(value)
    else:
        show(value)
