"""The outer bounds of a body: JSON at all, not too deep, nothing in it that a database refuses."""

from __future__ import annotations

from typing import Any

import orjson

from oncall_agent.errors import PayloadError

_ESCAPED_NUL = b"\\u0000"
_MAX_SHOWN = 120


def load(body: bytes, *, max_depth: int) -> Any:
    """Give the value of a JSON body.

    Strict on purpose: NaN, Infinity, lone surrogates, numbers beyond a double and bytes that are not UTF-8
    are malformed. Of a repeated key the last one counts, as in every sender's own library.

    Raises:
        PayloadError: `malformed_json`, `too_deep`, or `bad_value` for a NUL character, which PostgreSQL can't
            store in a text.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(error) from None
    # A body with fewer brackets than levels can't be too deep: true of nearly every request.
    if body.count(b"{") + body.count(b"[") > max_depth:
        _refuse_depth(value, max_depth)
    if _ESCAPED_NUL in body:
        _refuse_nul(value)
    return value


def _unreadable(error: orjson.JSONDecodeError) -> PayloadError:
    if "depth limit" in error.msg or "recursion" in error.msg.lower():
        return PayloadError("the body is nested too deeply", code="too_deep")
    place = f"line {error.lineno} column {error.colno}"
    return PayloadError(
        f"the body is not JSON: {error.msg} ({place})"[: _MAX_SHOWN * 2], code="malformed_json"
    )


def _refuse_depth(value: Any, max_depth: int) -> None:
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            raise PayloadError(f"the body is nested deeper than {max_depth} levels", code="too_deep")
        level = [
            inner
            for outer in level
            for inner in (outer.values() if outer.__class__ is dict else outer)
            if inner.__class__ is dict or inner.__class__ is list
        ]


def _refuse_nul(value: Any) -> None:
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, part = waiting.pop()
        if isinstance(part, str):
            if "\0" in part:
                raise PayloadError("a NUL character is not accepted", field=path)
        elif isinstance(part, dict):
            if any("\0" in name for name in part):
                raise PayloadError("a NUL character in a key is not accepted", field=path)
            waiting.extend(
                (f"{path}.{shown(name)}" if path else shown(name), inner) for name, inner in part.items()
            )
        elif isinstance(part, list):
            waiting.extend((f"{path}[{index}]", inner) for index, inner in enumerate(part))


def shown(text: str) -> str:
    """Give a key of the body in a form that is safe and short enough for an error message."""
    short = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
    return short if short.isprintable() else ascii(short)[1:-1]
