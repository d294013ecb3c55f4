"""What waits for a person, and the two verdicts."""

from __future__ import annotations

from aiohttp import web

from oncall_agent.errors import AuthError
from oncall_agent.models import Approval, Verdict
from oncall_agent.web.api import is_for_known_people
from oncall_agent.web.auth import require, require_form
from oncall_agent.web.pages.shell import render, see, subject_id
from oncall_agent.web.parts import PARTS, Parts

_DECIDED_SHOWN = 20


async def approvals(request: web.Request) -> web.StreamResponse:
    """Answer `GET /approvals`."""
    require(request, "viewer")
    found = await request.app[PARTS].store.approvals(pending_only=False)
    pending, decided = split(found)
    return await render(request, "approvals.html", {"pending": pending, "decided": decided})


def split(found: tuple[Approval, ...]) -> tuple[list[Approval], list[Approval]]:
    """Give those that wait (the first to expire first) and the latest decided ones (newest first)."""
    pending = sorted((one for one in found if one.verdict is Verdict.PENDING), key=lambda one: one.expires_at)
    decided = [one for one in found if one.verdict is not Verdict.PENDING]
    decided.sort(key=lambda one: one.decided_at or one.asked_at, reverse=True)
    return pending, decided[:_DECIDED_SHOWN]


async def approve(request: web.Request) -> web.StreamResponse:
    """Answer `POST /approvals/{id}/approve`."""
    return await _vote(request, approve=True)


async def deny(request: web.Request) -> web.StreamResponse:
    """Answer `POST /approvals/{id}/deny`."""
    return await _vote(request, approve=False)


async def _vote(request: web.Request, *, approve: bool) -> web.StreamResponse:
    # By the approval's own id: a page that is out of date must not answer a question it never showed.
    caller = await require_form(request, "operator")
    parts, approval_id = request.app[PARTS], subject_id(request)
    if approve and not caller.authenticated:
        await _refuse_anonymous(parts, approval_id)
    voted = await parts.store.vote(approval_id, identity=caller.name, approve=approve, now=parts.clock.now())
    back = (await request.post()).get("back")
    path = f"/incidents/{voted.incident_id}" if back == "incident" else "/approvals"
    raise see(path, "approved" if approve else "denied")


async def _refuse_anonymous(parts: Parts, approval_id: str) -> None:
    pending = await parts.store.approvals(pending_only=True)
    if any(one.id == approval_id and is_for_known_people(one) for one in pending):
        raise AuthError(
            "this action needs two different people who signed in: configure server.tokens",
            status=403,
            code="identity_required",
        )
