"""Speaks to a running daemon."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

DEFAULT_URL = "http://127.0.0.1:8420"
_TIMEOUT_SECONDS = 15.0


class RefusedError(Exception):
    """The daemon answered with an error; the text says what and why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{message} ({code}, {status})")
        self.status, self.code = status, code


class UnreachableError(Exception):
    """No daemon answers there."""


class Client:
    """One daemon, by address and token; the token is read from the environment and never an argument."""

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise UnreachableError(f"{url!r} is no http or https address")
        self.url = url.rstrip("/")
        self._token = os.environ.get("ONCALL_AGENT_TOKEN", "")

    def get(self, path: str, **query: Any) -> Any:
        """Read a resource."""
        given = {key: value for key, value in query.items() if value is not None}
        return self._send("GET", f"{path}?{urlencode(given)}" if given else path, None)

    def post(self, path: str, body: Any) -> Any:
        """Change something."""
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: Any) -> Any:
        request = Request(  # noqa: S310 - the scheme was checked above
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - as above
                return json.loads(answer.read() or b"null")
        except HTTPError as error:
            raise _refusal(error) from None
        except (URLError, TimeoutError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise UnreachableError(f"no daemon answers at {self.url}: {reason}") from None
        except ValueError:
            raise UnreachableError(f"what answers at {self.url} is no oncall-agent") from None


def _refusal(error: HTTPError) -> RefusedError:
    try:
        told = json.loads(error.read())["error"]
        return RefusedError(error.code, str(told["code"]), str(told["message"]))
    except (ValueError, KeyError, TypeError):
        return RefusedError(error.code, "error", error.reason or "refused")


def part(text: str) -> str:
    """Quote an id for a path."""
    return quote(text, safe="")
