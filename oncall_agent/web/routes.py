"""One route of the API as a value: what it takes, what it gives, who may call; the OpenAPI page reads it too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ValidationError

from oncall_agent.errors import PayloadError
from oncall_agent.sources.bounds import load, shown
from oncall_agent.web.auth import LOCAL, Identity, Role, require
from oncall_agent.web.errors import JSON, MediaTypeError, reply
from oncall_agent.web.ingest import read_body
from oncall_agent.web.parts import PARTS, Parts

MAX_BODY_BYTES = 65_536
"""Bodies of the API are small; webhooks have a bound of their own."""
_MAX_DEPTH = 8
_MISSING = frozenset({"missing"})
_MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Call:
    """One checked request."""

    request: web.Request
    parts: Parts
    caller: Identity
    query: Any = None
    body: Any = None

    @property
    def now(self) -> float:
        """The wall clock."""
        return self.parts.clock.now()


Answer = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the API.

    Attributes:
        role: least role that may call; None is open to everybody who reaches the port.
        gives: type of the response, for its schema.
        query: model of the query parameters.
        body: model of the body.
        errors: statuses that it can answer besides those that every route can.
    """

    method: str
    path: str
    summary: str
    answer: Answer
    gives: Any
    role: Role | None = "viewer"
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    media: str = JSON


def served(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Give the aiohttp function of a route: check, answer, write."""

    async def answer(request: web.Request) -> web.StreamResponse:
        caller = LOCAL if route.role is None else require(request, route.role)
        query = None if route.query is None else parse_query(route.query, request)
        body = None if route.body is None else await parse_body(route.body, request)
        value = await route.answer(Call(request, request.app[PARTS], caller, query, body))
        return value if isinstance(value, web.StreamResponse) else reply(value)

    return answer


def parse_query(model: type[BaseModel], request: web.Request) -> BaseModel:
    """Read the query parameters; unknown or repeated ones are refused, a typo must not widen a search.

    Raises:
        PayloadError: naming the parameter.
    """
    given = request.query
    for name in given:
        if len(given.getall(name)) > 1:
            raise PayloadError("is given more than once", field=name[:64])
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise _first(error) from None


async def parse_body(model: type[BaseModel], request: web.Request) -> BaseModel:
    """Read a JSON body.

    Raises:
        MediaTypeError: it is not declared as JSON; such requests a foreign page could send unasked.
        PayloadError: naming the field.
        TooLargeError: larger than `MAX_BODY_BYTES`.
    """
    if request.content_type != JSON:
        raise MediaTypeError
    body = await read_body(request, MAX_BODY_BYTES)
    load(body, max_depth=_MAX_DEPTH)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _first(error) from None


def _first(error: ValidationError) -> PayloadError:
    found: Mapping[str, Any] = error.errors(include_url=False, include_context=False, include_input=False)[0]
    kind, where = str(found["type"]), _path(found["loc"])
    code = "missing_field" if kind in _MISSING else "wrong_type" if kind.endswith("_type") else "bad_value"
    return PayloadError(str(found["msg"])[:_MAX_MESSAGE], field=where, code=code)


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{shown(step)}" if text else shown(step)
    return text[:_MAX_MESSAGE]
