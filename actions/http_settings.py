"""What the operator declares under `backends.http`, and how its templates are filled."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any, Literal
from urllib.parse import quote

import jmespath
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from oncall_agent.contract import PermanentError, SecretRef
from oncall_agent.contract.http import host_of

_VARIABLE = re.compile(r"\{([a-z_][a-z0-9_]{0,63})\}")
_HEADER = r"^[A-Za-z0-9-]{1,64}$"


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
Pattern = Annotated[str, Field(max_length=500), AfterValidator(_pattern)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Call(_Group):
    """One request."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    url: UrlTemplate
    """`{name}` stands for a declared variable; a leading `/` means the target's own `url`."""
    headers: dict[Annotated[str, Field(pattern=_HEADER)], str] = {}
    """Nothing secret: see `secret_headers`."""
    body: Any = None
    """JSON; `{name}` in its texts stands for a declared variable."""
    expect_status: tuple[Annotated[int, Field(ge=100, le=599)], ...] = (200, 201, 202, 204)


class Question(Call):
    """What is asked to know whether the call worked."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    expect_status: tuple[Annotated[int, Field(ge=100, le=599)], ...] = (200,)
    assertion: Expression | None = None
    """JMESPath over the JSON answer; only `true` counts."""
    hold_seconds: float = Field(0.0, ge=0, le=3600)
    within_seconds: float = Field(20.0, ge=0, le=3600)
    interval_seconds: float = Field(0.5, gt=0, le=60)


class Endpoint(Call):
    """A call that runbooks may name, with what belongs to it."""

    vars: dict[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,63}$")], Pattern] = {}
    """Variable -> regular expression over its whole value."""
    secret_headers: dict[Annotated[str, Field(pattern=_HEADER)], SecretRef] = {}
    """Sent with call, question and undo."""
    idempotent: bool = False
    """The server honours `Idempotency-Key`: only then is a call without an answer repeated."""
    verify: Question | None = None
    undo: Call | None = None

    @cached_property
    def patterns(self) -> dict[str, re.Pattern[str]]:
        """The compiled patterns of the variables."""
        return {name: re.compile(text) for name, text in self.vars.items()}

    @model_validator(mode="after")
    def _variables_are_declared(self) -> Endpoint:
        for call in (self, self.verify, self.undo):
            if call is not None:
                unknown = (
                    _named(call.url) | _named(repr(call.body)) if call.body is not None else _named(call.url)
                )
                if unknown - set(self.vars):
                    raise ValueError(f"variables that are not declared: {sorted(unknown - set(self.vars))}")
        return self


class HttpSettings(_Group):
    """The group `backends.http`."""

    hosts: tuple[str, ...] | None = None
    """Hosts that may be called, `host` or `host:port`; the default is those of the endpoints and of the target."""
    timeout_seconds: float = Field(5.0, gt=0, le=60)
    """For one request."""
    max_body_bytes: int = Field(65_536, ge=1_024, le=10_485_760)
    """Of an answer; a longer one is an error."""
    endpoints: dict[str, Endpoint] = {}

    @cached_property
    def _declared(self) -> frozenset[str]:
        calls = [call for end in self.endpoints.values() for call in (end, end.verify, end.undo) if call]
        return frozenset(host_of(call.url) for call in calls if "://" in call.url)

    def allowed(self, url: str, own_url: object) -> frozenset[str]:
        """Give the hosts that may be called: the list, or else what the operator wrote in endpoints and target."""
        if self.hosts is not None:
            return frozenset(self.hosts)
        if host_of(url) in self._declared or not isinstance(own_url, str):
            return self._declared
        return self._declared | {host_of(own_url)}


def fill(template: Any, values: dict[str, str]) -> Any:
    """Give a JSON template with its variables replaced, inside texts only."""
    if isinstance(template, str):
        return _VARIABLE.sub(lambda found: values[found[1]], template)
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    return template


def fill_url(template: str, values: dict[str, str]) -> str:
    """Give a URL with its variables percent-encoded, so that none can leave its place."""
    return _VARIABLE.sub(lambda found: _segment(values[found[1]]), template)


def _segment(value: str) -> str:
    if value in (".", ".."):
        raise PermanentError("a variable may not be . or ..")
    return quote(value, safe="")


def _named(text: str) -> set[str]:
    return set(_VARIABLE.findall(text))
