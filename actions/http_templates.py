"""Requests that the operator declares: where to, with which variables, and what the answer must be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote

import jmespath
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from oncall_agent.contract import PermanentError, SecretRef
from oncall_agent.contract.http import host_of

_VARIABLE = re.compile(r"\{([a-z_][a-z0-9_]{0,63})\}")
HEADER = r"^[A-Za-z0-9-]{1,64}$"


def _url_template(text: str) -> str:
    if text.startswith("/"):
        return text
    scheme, separator, rest = text.partition("://")
    if scheme not in ("http", "https") or not separator:
        raise ValueError("an absolute http(s) URL, or a path on the target's own url")
    if "{" in rest.partition("/")[0]:
        raise ValueError("a variable may stand in the path or query only, never in the host")
    try:
        host_of(text)
    except PermanentError as error:
        raise ValueError(error.message) from error
    return text


def _expression(text: str) -> str:
    try:
        jmespath.compile(text)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f"not a JMESPath expression: {error}") from error
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


UrlTemplate = Annotated[str, Field(max_length=2_000), AfterValidator(_url_template)]
Expression = Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(_expression)]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "PURGE", "BAN"]
Scalar = StrictBool | StrictInt | StrictFloat | Annotated[str, Field(max_length=500)]
"""A value that JSON has a word for."""
Pattern = Annotated[str, Field(max_length=500), AfterValidator(_pattern)]


class Group(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Call(Group):
    """One request."""

    method: Method = "POST"
    url: UrlTemplate
    """`{name}` stands for a declared variable; a leading `/` means the target's own `url`."""
    headers: dict[Annotated[str, Field(pattern=HEADER)], str] = {}
    """Nothing secret: see `secret_headers`."""
    body: Any = None
    """JSON; `{name}` in its texts stands for a declared variable."""
    expect_status: tuple[Annotated[int, Field(ge=100, le=599)], ...] = (200, 201, 202, 204)


class Question(Call):
    """What is asked to know whether the call worked."""

    method: Method = "GET"
    expect_status: tuple[Annotated[int, Field(ge=100, le=599)], ...] = (200,)
    assertion: Expression | None = None
    """JMESPath over the JSON answer; only `true` counts."""
    hold_seconds: float = Field(0.0, ge=0, le=3600)
    within_seconds: float = Field(20.0, ge=0, le=3600)
    interval_seconds: float = Field(0.5, gt=0, le=60)


class Lookup(Call):
    """A value that is read."""

    method: Method = "GET"
    expect_status: tuple[Annotated[int, Field(ge=100, le=599)], ...] = (200,)
    value: Expression
    """JMESPath over the JSON answer."""


SecretHeaders = dict[Annotated[str, Field(pattern=HEADER)], SecretRef]


def same(one: Any, other: Any) -> bool:
    """Say whether two JSON values are equal; `true` is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def names_in(call: Call) -> set[str]:
    """Give the variables that a call uses."""
    return _named(call.url) | (_named(repr(call.body)) if call.body is not None else set())


def names_in_headers(call: Call) -> set[str]:
    """Give the variables in a call's headers."""
    return {name for text in call.headers.values() for name in _named(text)}


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """Give a JSON template with its variables replaced; a text that is one variable becomes its value as it is."""
    if isinstance(template, str):
        whole = _VARIABLE.fullmatch(template)
        return values[whole[1]] if whole else _VARIABLE.sub(lambda found: as_text(values[found[1]]), template)
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    return template


def fill_url(template: str, values: Mapping[str, Any]) -> str:
    """Give a URL with its variables percent-encoded, so that none can leave its place."""
    return _VARIABLE.sub(lambda found: _segment(as_text(values[found[1]])), template)


def as_text(value: Any) -> str:
    """Give a value as JSON would write it; a text as it is."""
    return value if isinstance(value, str) else json.dumps(value)


class UrlPath(str):
    """A value that is a path of its own: its slashes stay."""

    __slots__ = ()


def _segment(value: str) -> str:
    if isinstance(value, UrlPath) and not {".", ".."} & set(value.split("/")):
        return quote(value, safe="/")
    if value in (".", ".."):
        raise PermanentError("a variable may not be . or ..")
    return quote(value, safe="")


def _named(text: str) -> set[str]:
    return set(_VARIABLE.findall(text))
