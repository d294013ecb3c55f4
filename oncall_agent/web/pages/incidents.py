"""The first page: incidents, newest first, with their counts and the equation of conservation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from aiohttp import web

from oncall_agent.models import FINAL_STATES, OPEN_STATES, IncidentState
from oncall_agent.web.auth import require
from oncall_agent.web.pages.shell import render
from oncall_agent.web.parts import PARTS

ROWS = 50
STATES = ("open", *(state.value for state in IncidentState))
_MAX_CHARS = 256
_CURSOR = re.compile(r"[A-Za-z0-9._:~=-]+")


@dataclass(frozen=True, slots=True)
class Filter:
    """What the reader wants to see; empty text means everything."""

    state: str = ""
    alert_class: str = ""
    target: str = ""
    cursor: str = ""

    @property
    def is_set(self) -> bool:
        """Whether anything is left out."""
        return bool(self.state or self.alert_class or self.target)

    def address(self, cursor: str = "") -> str:
        """Give the path of the page with this filter, from `cursor` on."""
        pairs = {"state": self.state, "class": self.alert_class, "target": self.target, "cursor": cursor}
        query = urlencode({name: text for name, text in pairs.items() if text})
        return f"/?{query}" if query else "/"


def read_filter(query: Mapping[str, str]) -> Filter:
    """Give the filter that an address asks for; what is not a state is left out, as is overlong text."""

    def text(name: str) -> str:
        found = query.get(name, "").strip()
        return found if len(found) <= _MAX_CHARS and found.isprintable() else ""

    state, cursor = text("state"), text("cursor")
    return Filter(
        state if state in STATES or state == "final" else "",
        text("class"),
        text("target"),
        cursor if _CURSOR.fullmatch(cursor) else "",
    )


def counts_by_word(counts: Mapping[str, int]) -> dict[str, int]:
    """Give the number of incidents per state, and of all open ones under `open`."""
    found = {state.value: int(counts.get(state.value, 0)) for state in IncidentState}
    found["open"] = sum(found[state.value] for state in OPEN_STATES)
    found["final"] = sum(found[state.value] for state in FINAL_STATES)
    return found


async def incidents(request: web.Request) -> web.StreamResponse:
    """Answer `GET /`."""
    require(request, "viewer")
    store, wanted = request.app[PARTS].store, read_filter(request.query)
    page = await store.incidents(
        state=wanted.state or None,
        alert_class=wanted.alert_class or None,
        target=wanted.target or None,
        limit=ROWS,
        cursor=wanted.cursor or None,
    )
    values = {
        "incidents": page.items,
        "filter": wanted,
        "states": STATES,
        "count_of": counts_by_word(await store.counts()),
        "sums": await store.conservation(),
        "older": wanted.address(page.next_cursor) if page.next_cursor else "",
        "newest": wanted.address(),
    }
    return await render(request, "incidents.html", values)
