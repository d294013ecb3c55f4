"""Spark's web servers over the safe client: listed hosts only, bounded answers, CSRF tokens from the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from actions.spark_settings import SparkSettings
from oncall_agent.contract import PermanentError, Secret, TransientError
from oncall_agent.contract.http import HttpAnswer, SafeHttp, host_of
from oncall_agent.contract.secret import resolve

_MAX_BODY_BYTES = 8_388_608
_CSRF = re.compile(r'name="csrfToken"\s+value="([0-9A-Za-z-]{1,128})"')
_PROXY_KNOWS_NOT = b"HTTP ERROR 403 Forbidden</h2>"
REFUSED = (401, 403)
"""Statuses that say no to us."""
_ENDED = (302, 303)


class SparkHttp:
    """What the parts of a Spark cluster are asked through; `seconds` is what the attempt has left."""

    def __init__(self, settings: SparkSettings) -> None:
        self.settings = settings
        self.session = SafeHttp(max_body_bytes=_MAX_BODY_BYTES)
        urls = (settings.master_url, settings.submit_url, settings.history_url)
        self._allowed = tuple(host_of(url) for url in urls if url) + settings.ui_hosts

    async def get(self, seconds: float, url: str, **query: str) -> HttpAnswer:
        """GET it; refusals and failures of the server are errors, 404 is an answer."""
        return self._looked_at(await self.ask("GET", seconds, _with(url, query)))

    async def json(self, seconds: float, url: str, **query: str) -> Any:
        """GET it as JSON.

        Raises:
            PermanentError: there is nothing, or no JSON.
        """
        answer = await self.get(seconds, url, **query)
        return answer.check((200,)).json()

    async def text(self, seconds: float, url: str, **query: str) -> str:
        """GET a page; empty when there is none."""
        answer = await self.get(seconds, url, **query)
        return answer.body.decode(errors="replace") if answer.status == 200 else ""  # noqa: PLR2004 - OK

    async def send(
        self, method: str, seconds: float, url: str, body: Any = None, query: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Change something; refusals and failures of the server are errors, other statuses are answers."""
        return self._looked_at(await self.ask(method, seconds, _with(url, query or {}), body))

    async def press(self, seconds: float, page: str, url: str, **fields: str) -> None:
        """Press a button of a page: POST with the page's CSRF token, when it has one.

        Raises:
            PermanentError: the page's button is switched off (`spark.ui.killEnabled`), or refused.
        """
        # In the query: Spark's own reverse proxy loses a form's body.
        query = {**fields, **await self.csrf(seconds, page)}
        answer = await self.send("POST", seconds, url, query=query)
        if answer.status in (404, 405):
            raise PermanentError("Spark's page does not permit it: the button is switched off")
        answer.check((200, *_ENDED))

    async def csrf(self, seconds: float, page: str) -> dict[str, str]:
        """Give the page's CSRF token as a field; nothing when it has none, as before Spark 4.1."""
        found = _CSRF.search(await self.text(seconds, page))
        return {"csrfToken": found[1]} if found else {}

    async def ask(
        self, method: str, seconds: float, url: str, body: Any = None, *, with_token: bool = True
    ) -> HttpAnswer:
        """Give the answer as it is, refusals too."""
        token = self.settings.token if with_token else None
        hidden = {"Authorization": Secret(f"Bearer {resolve(token).reveal()}")} if token else None
        answer = await self.session.send(
            method,
            url,
            allowed=self._allowed,
            timeout_seconds=max(0.05, min(seconds, self.settings.timeout_seconds)),
            secret_headers=hidden,
            json=body,
        )
        # The master's reverse proxy says 403 of an application or worker that it does not know (any more).
        is_unknown = "/proxy/" in url and answer.status == 403 and _PROXY_KNOWS_NOT in answer.body  # noqa: PLR2004
        return replace(answer, status=404) if is_unknown else answer

    def _looked_at(self, answer: HttpAnswer) -> HttpAnswer:
        if answer.status in REFUSED:
            raise PermanentError(f"Spark refuses our credentials ({answer.status})")
        if answer.status >= 500 or answer.status == 429:  # noqa: PLR2004 - classes of HTTP
            raise TransientError(f"Spark answered {answer.status}")
        return answer


def _with(url: str, query: Mapping[str, str]) -> str:
    return f"{url}?{urlencode(query)}" if query else url


def rows_of(found: Any, limit: int = 2_000) -> list[dict[str, Any]]:
    """Give a JSON list of objects, bounded.

    Raises:
        PermanentError: it is something else: what answers is no Spark.
    """
    if not isinstance(found, list):
        raise PermanentError("what answers is not Spark's API: a list was expected")
    return [row for row in found[:limit] if isinstance(row, dict)]
