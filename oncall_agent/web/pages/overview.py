"""Pages that only show: what can be reached and done, and the ledger of alerts."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from oncall_agent.contract import SCORECARD
from oncall_agent.models import SuppressReason
from oncall_agent.web.auth import require
from oncall_agent.web.pages.shell import render
from oncall_agent.web.parts import PARTS

REASON_TEXT = {
    SuppressReason.DUPLICATE: "a copy of an alert already taken in",
    SuppressReason.SILENCED: "an operator's silence matches it",
    SuppressReason.FLAPPING: "its incident keeps coming back",
    SuppressReason.STALE_FIRING: "it came after its own end",
    SuppressReason.RESOLVED_WITHOUT_FIRING: "the end of an alert that never came",
}


async def backends(request: web.Request) -> web.StreamResponse:
    """Answer `GET /backends`."""
    require(request, "viewer")
    parts = request.app[PARTS]
    values = {
        "backends": [backend_row(found) for found in parts.backends()],
        "actions": [action_row(found) for found in parts.actions()],
        "readiness": parts.readiness(),
    }
    return await render(request, "backends.html", values)


async def conservation(request: web.Request) -> web.StreamResponse:
    """Answer `GET /conservation`."""
    require(request, "viewer")
    values = {
        "sums": await request.app[PARTS].store.conservation(),
        "reasons": tuple(SuppressReason),
        "reason_text": REASON_TEXT,
    }
    return await render(request, "conservation.html", values)


def backend_row(found: dict[str, Any]) -> dict[str, Any]:
    """Give a backend's row: what is missing is unknown, never well."""
    return {
        "system": found.get("system", "?"),
        "ok": found.get("ok"),
        "breaker": found.get("breaker", "closed"),
        "reason": found.get("reason", ""),
    }


def action_row(found: dict[str, Any]) -> dict[str, Any]:
    """Give an action's row; a rule of the contract that nobody answered for is shown as unproved."""
    card = found.get("scorecard") or {}
    return {
        "id": found.get("id", "?"),
        "summary": found.get("summary", ""),
        "risk": found.get("risk", ""),
        "reversible": found.get("reversible", False),
        "cooldown_seconds": found.get("cooldown_seconds"),
        "deadline_seconds": found.get("deadline_seconds"),
        "off": found.get("off", ""),
        "read_only": found.get("read_only", False),
        "scorecard": {rule: card.get(rule, "unproved") for rule in SCORECARD},
        "unproven": found.get("unproven", ""),
    }
