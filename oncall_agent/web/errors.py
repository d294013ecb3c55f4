"""Every error as one JSON shape: `{"error": {"code", "message", "detail"}}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from oncall_agent.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    NotFoundError,
    OncallAgentError,
    PayloadError,
    QueueFullError,
    StoreError,
)

STORE_RETRY_SECONDS = 5.0
JSON = "application/json"
CODES: Mapping[int, str] = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    417: "expectation_failed",
}
"""Codes for the errors that the HTTP library itself raises."""
CHALLENGE = "Bearer"


class TooLargeError(OncallAgentError):
    """The body is larger than this server reads (413)."""


class MediaTypeError(OncallAgentError):
    """The body must be application/json (415)."""


class BrokenBodyError(PayloadError):
    """The body's framing or compression is broken (400), and with it the connection."""


class BusyError(QueueFullError):
    """Too many requests are under way: 503 with Retry-After, so that the sender repeats."""

    def __init__(self, message: str | None = None, *, code: str = "busy") -> None:
        super().__init__(message, retry_after_seconds=1.0)
        self.code = code


def reply(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Give a JSON response; dataclasses and enums are written as what they hold."""
    body = orjson.dumps(value, default=_plain_mapping)
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)


def _plain_mapping(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def refusal(
    status: int,
    code: str,
    message: str,
    *,
    detail: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Give an error in the one shape that all of them have."""
    body = {"error": {"code": code, "message": message, "detail": dict(detail or {})}}
    return reply(body, status=status, headers=headers)


def response_of(error: OncallAgentError) -> web.Response:
    """Give the response that an own error leads to."""
    if isinstance(error, PayloadError):
        response = refusal(400, error.code, error.message, detail={"field": error.field})
        if isinstance(error, BrokenBodyError):
            # Nobody can tell where the next request would begin.
            response.force_close()
        return response
    if isinstance(error, AuthError):
        challenge = {"WWW-Authenticate": CHALLENGE} if error.status == HTTPStatus.UNAUTHORIZED else None
        return refusal(error.status, error.code, error.message, headers=challenge)
    if isinstance(error, StoreError):
        return _unavailable(error)
    return refusal(*_plain(error))


def code_of(error: OncallAgentError) -> str:
    """Give the code by which an error is counted: the same that the caller is told."""
    if isinstance(error, PayloadError | AuthError | BusyError):
        return error.code
    if isinstance(error, StoreError):
        return "queue_full" if isinstance(error, QueueFullError) else "store_unavailable"
    return _plain(error)[1]


def response_of_http(error: web.HTTPException) -> web.Response:
    """Give an error of the HTTP library in our shape, with the headers that belong to it."""
    kept = CIMultiDict(
        (name, value) for name, value in error.headers.items() if name in {"Allow", "Retry-After"}
    )
    code = CODES.get(error.status, HTTPStatus(error.status).name.lower())
    return refusal(error.status, code, error.reason, headers=kept)


def unexpected() -> web.Response:
    """Give the answer to what nobody foresaw; the log has the rest."""
    return refusal(500, "internal", "something went wrong here; the log of the daemon says what")


def _plain(error: OncallAgentError) -> tuple[int, str, str]:
    if isinstance(error, ConflictError):
        return 409, error.code, error.message
    if isinstance(error, NotFoundError):
        return 404, "not_found", error.message
    if isinstance(error, TooLargeError):
        return 413, "too_large", error.message
    if isinstance(error, MediaTypeError):
        return 415, "unsupported_media_type", error.message
    if isinstance(error, ConfigError):
        # Names of secrets are for the operator's log, not for whoever calls.
        return 503, "misconfigured", "a secret of this server can't be read"
    return 500, "internal", "something went wrong here; the log of the daemon says what"


def _unavailable(error: StoreError) -> web.Response:
    seconds = error.retry_after_seconds if isinstance(error, QueueFullError) else STORE_RETRY_SECONDS
    whole = max(1, math.ceil(seconds))
    message = error.message if isinstance(error, QueueFullError) else "the database does not answer"
    detail = {"retry_after_seconds": whole}
    return refusal(503, code_of(error), message, detail=detail, headers={"Retry-After": str(whole)})
