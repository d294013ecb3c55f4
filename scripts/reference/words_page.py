"""`reasons.md`: errors by what happens next, and the closed vocabularies."""

from __future__ import annotations

import inspect
from enum import StrEnum

from oncall_agent import errors, models
from reference.meanings import MEMBER_MEANINGS
from reference.text import code, first_line, page, table

_INTRO = """
These words stand in the log, the metrics, the API and the dashboard. They are closed: a new one is a change of this
page. Errors are for what a caller has to handle differently; refusals, failed checks and outcomes are values.
"""


def vocabularies() -> list[type[StrEnum]]:
    """Give every closed vocabulary of the domain."""
    return [
        kind
        for kind in vars(models).values()
        if inspect.isclass(kind) and issubclass(kind, StrEnum) and kind is not StrEnum
    ]


def error_classes() -> list[type[Exception]]:
    """Give every error of the project."""
    return [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == errors.__name__
    ]


def _vocabulary(kind: type[StrEnum]) -> str:
    rows = ((code(member.value), MEMBER_MEANINGS[kind.__name__][member.value]) for member in kind)
    return f"## {kind.__name__}\n\n{first_line(kind)}\n\n{table(('value', 'meaning'), rows)}"


def render() -> str:
    """Give the page."""
    rows = (
        (code(kind.__name__), code(kind.__mro__[1].__name__), first_line(kind)) for kind in error_classes()
    )
    listed = "## Errors\n\n" + table(("error", "kind of", "what happens next"), rows)
    return page("Reasons, states and errors", _INTRO, *(_vocabulary(kind) for kind in vocabularies()), listed)
