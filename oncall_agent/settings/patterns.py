"""Matchers as the operator writes them: `label: value` for equality, `label: ~regex` for a whole-value match.

Used by the loader, which refuses a bad pattern with its line, and by `rules.matching`, which applies them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

MAX_PATTERN_LENGTH = 512
"""Longer regular expressions are refused: nobody can review them, and backtracking grows with them."""


def is_pattern(value: str) -> bool:
    """Whether a matcher's value is a regular expression."""
    return value.startswith("~")


@lru_cache(maxsize=2_048)
def pattern(value: str) -> re.Pattern[str]:
    """Compile the matcher `~regex`.

    Raises:
        ValueError: it is too long or not a regular expression; the message says where.
    """
    text = value.removeprefix("~")
    if len(text) > MAX_PATTERN_LENGTH:
        raise ValueError(
            f"the regular expression has {len(text)} characters, at most {MAX_PATTERN_LENGTH} are allowed"
        )
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error


def check_matchers(matchers: Mapping[str, str]) -> None:
    """Refuse matchers that could never be applied.

    Raises:
        ValueError: there are none (they would match everything), or a pattern is bad; names the label.
    """
    if not matchers:
        raise ValueError("at least one label is needed: no matcher at all would match everything")
    for label, value in matchers.items():
        if is_pattern(value):
            try:
                pattern(value)
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
