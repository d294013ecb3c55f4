"""What a benchmark found: figures beside their bars, printed as one table or handed on as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

ECHO = "bare echo, requests/s (the machine's limit)"


@dataclass(frozen=True)
class Figure:
    """One line of the table; without a bar it is there to be read beside the others.

    Attributes:
        verdict: whether the bar is met.
        exact: it is right or wrong on any machine; all others depend on how fast the machine is.
    """

    name: str
    value: str
    bar: str = ""
    verdict: bool = True
    exact: bool = False


def echo(rate: float) -> Figure:
    """Give the line that every table begins with."""
    return Figure(ECHO, f"{rate:,.0f}")


def below(name: str, value: float, bar: float, digits: int = 1) -> Figure:
    """Give a figure that must stay under its bar."""
    return Figure(name, f"{value:,.{digits}f}", f"< {bar:,g}", value < bar)


def at_least(name: str, value: float, bar: float, digits: int = 0) -> Figure:
    """Give a figure that must reach its bar."""
    return Figure(name, f"{value:,.{digits}f}", f">= {bar:,g}", value >= bar)


def equal(name: str, value: object, bar: object) -> Figure:
    """Give a figure that has exactly one right value."""
    return Figure(name, _text(value), _text(bar), value == bar, exact=True)


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def options_of(doc: str | None) -> argparse.ArgumentParser:
    """Give a parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there as JSON as well")
    return parser


def finish(found: Iterable[Figure], options: argparse.Namespace) -> int:
    """Print the table; gives the exit code, 1 when a bar was missed."""
    figures = tuple(found)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures]))
    show(figures)
    return 0 if all(figure.verdict for figure in figures) else 1


def show(figures: Iterable[Figure]) -> None:
    """Print a table."""
    for figure in figures:
        verdict = "" if not figure.bar else "ok" if figure.verdict else "MISSED"
        print(f"{figure.name:<58}{figure.value:>20}  {figure.bar:<14}{verdict}".rstrip())
