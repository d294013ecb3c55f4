"""One incident: its timeline, why this action, what was attempted, and the verdicts of an operator."""

from __future__ import annotations

from typing import Any, Literal

from aiohttp import web
from cachetools import LRUCache

from oncall_agent.errors import OncallAgentError
from oncall_agent.models import Attempt, Verdict
from oncall_agent.store.values import IncidentDetail
from oncall_agent.web.auth import require, require_form
from oncall_agent.web.pages import explained
from oncall_agent.web.pages.explained import Recomputed
from oncall_agent.web.pages.shell import render, see, subject_id
from oncall_agent.web.parts import PARTS, Parts

_KEPT_EXPLANATIONS = 256
EXPLANATIONS: web.AppKey[LRUCache[str, Recomputed | None]] = web.AppKey("explanations", LRUCache)
"""Decision id -> its recomputation: it never changes, and a page that refreshes itself asks often."""


def explanations() -> LRUCache[str, Recomputed | None]:
    """Give an empty, bounded memory of recomputed decisions."""
    return LRUCache(_KEPT_EXPLANATIONS)


async def incident(request: web.Request) -> web.StreamResponse:
    """Answer `GET /incidents/{id}`."""
    require(request, "viewer")
    found = await request.app[PARTS].store.incident(subject_id(request))
    latest = found.decisions[-1] if found.decisions else None
    values = {
        "incident": found.incident,
        "approval": next((one for one in reversed(found.approvals) if one.verdict is Verdict.PENDING), None),
        "decision": latest.decision if latest else None,
        "earlier": [stored.decision for stored in reversed(found.decisions[:-1])],
        "recomputed": await _recomputed(request, found) if latest else None,
        "known": explained.known(latest.context) if latest else (),
        "columns": explained.columns(latest.decision) if latest else (),
        "attempts": [
            {"detail": detail, "evidence": evidence(detail.attempt)} for detail in reversed(found.attempts)
        ],
        "timeline": tuple(reversed(found.timeline)),
        "alerts": found.alerts,
    }
    return await render(request, "incident.html", values)


async def escalate(request: web.Request) -> web.StreamResponse:
    """Answer `POST /incidents/{id}/escalate`."""
    return await _operate(request, "escalate", "escalated")


async def retry(request: web.Request) -> web.StreamResponse:
    """Answer `POST /incidents/{id}/retry`."""
    return await _operate(request, "retry", "retried")


def evidence(attempt: Attempt) -> tuple[tuple[str, Any], ...]:
    """Give what an attempt left behind, as (name, JSON-safe value), in the order of its steps."""
    outcome = attempt.outcome
    receipt = (outcome.receipt if outcome else None) or attempt.receipt
    steps: tuple[tuple[str, Any], ...] = (
        ("Parameters", dict(attempt.params)),
        ("Idempotency key", attempt.idempotency_key),
        ("Precheck", _check(outcome.precheck) if outcome else None),
        ("Receipt", _receipt(receipt)),
        ("Verification", _check(outcome.verification) if outcome else None),
        ("Seconds per step", dict(outcome.timings) if outcome else None),
        ("Retries", outcome.retries if outcome else None),
    )
    return tuple((name, value) for name, value in steps if value not in (None, {}, ""))


def _check(check: Any) -> dict[str, Any] | None:
    if check is None:
        return None
    return {"ok": check.ok, "reason": check.reason, "instances": check.instances, "facts": dict(check.facts)}


def _receipt(receipt: Any) -> dict[str, Any] | None:
    if receipt is None:
        return None
    return {"planned": receipt.planned, "partial": receipt.partial, "facts": dict(receipt.facts)}


async def _recomputed(request: web.Request, found: IncidentDetail) -> Recomputed | None:
    parts: Parts = request.app[PARTS]
    kept, decision_id = request.app[EXPLANATIONS], found.decisions[-1].decision.id
    if decision_id not in kept:
        try:
            kept[decision_id] = explained.recomputed(await parts.explain(found.incident.id))
        except OncallAgentError:
            return None
    return kept[decision_id]


async def _operate(
    request: web.Request, verb: Literal["escalate", "retry"], notice: str
) -> web.StreamResponse:
    caller = await require_form(request, "operator")
    parts: Parts = request.app[PARTS]
    incident_id = subject_id(request)
    await parts.store.operator(incident_id, verb, caller.name, parts.clock.now())
    raise see(f"/incidents/{incident_id}", notice)
