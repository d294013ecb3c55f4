"""Text of SQL statements as evidence: without what may be anybody's secret."""

from __future__ import annotations

import re

_MAX_SHAPE = 160
_STRINGS = re.compile(
    r"\$(\w*)\$.*?(\$\1\$|$)|[eEbBxXnN]?'(?:[^'\\]|''|\\.)*('|$)|\"(?:[^\"\\]|\"\"|\\.)*(\"|$)", re.DOTALL
)
_COMMENTS = re.compile(r"/\*.*?(\*/|$)|--[^\n]*|#[^\n]*", re.DOTALL)
_NUMBERS = re.compile(r"\b\d[\w.]*")


def shape_of(statement: str) -> str:
    """Give a statement without literals and comments, cut short.

    Example:
        >>> shape_of("SELECT 1 FROM t WHERE name = 'Ann' -- mine")
        'SELECT ? FROM t WHERE name = ?'
    """
    bare = _COMMENTS.sub(" ", _STRINGS.sub("?", statement))
    return " ".join(_NUMBERS.sub("?", bare).split())[:_MAX_SHAPE]
