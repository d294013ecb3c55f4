"""`/api/v1`: what is there, read from the store, and what operators say to it."""

from __future__ import annotations

import re
from typing import Any, Literal

from oncall_agent.errors import AuthError, NotFoundError
from oncall_agent.models import Approval, Attempt, Control, Incident, RiskClass, Verdict
from oncall_agent.store import (
    AuditReport,
    Conservation,
    IncidentDetail,
    Page,
)
from oncall_agent.web import schemas
from oncall_agent.web.control import change_control, show_control
from oncall_agent.web.routes import Call, Route

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_API = "/api/v1"
_INCIDENT = f"{_API}/incidents/{{id}}"


async def list_incidents(call: Call) -> Page[Incident]:
    """Give one page of incidents, newest first."""
    q: schemas.IncidentsQuery = call.query
    return await call.parts.store.incidents(
        state=q.state, alert_class=q.alert_class, target=q.target, limit=q.limit, cursor=q.cursor
    )


async def show_incident(call: Call) -> IncidentDetail:
    """Give one incident with its whole story."""
    return await call.parts.store.incident(_id(call))


async def explain_incident(call: Call) -> dict[str, Any]:
    """Give the latest decision, recomputed from what was stored."""
    return await call.parts.explain(_id(call))


async def approve(call: Call) -> Approval:
    """Say yes."""
    incident_id = _id(call)
    await _refuse_anonymous(call, incident_id)
    return await _vote(call, incident_id, approve=True)


async def deny(call: Call) -> Approval:
    """Say no."""
    return await _vote(call, _id(call), approve=False)


async def escalate(call: Call) -> Incident:
    """Hand an open incident to people."""
    return await _operate(call, "escalate")


async def retry(call: Call) -> Incident:
    """Queue a final incident once more."""
    return await _operate(call, "retry")


async def list_attempts(call: Call) -> Page[Attempt]:
    """Give one page of the ledger, newest first."""
    q: schemas.AttemptsQuery = call.query
    return await call.parts.store.attempts(
        limit=q.limit, cursor=q.cursor, action=q.action, incident_id=q.incident_id
    )


async def list_approvals(call: Call) -> dict[str, Any]:
    """Give the questions to people."""
    q: schemas.ApprovalsQuery = call.query
    return {"items": await call.parts.store.approvals(pending_only=q.pending == "true")}


async def list_actions(call: Call) -> dict[str, Any]:
    """Give every registered action."""
    return {"items": call.parts.actions()}


async def list_backends(call: Call) -> dict[str, Any]:
    """Give the state of every backend."""
    return {"items": call.parts.backends()}


async def conservation(call: Call) -> Conservation:
    """Give the equation."""
    return await call.parts.store.conservation()


async def policy(call: Call) -> dict[str, Any]:
    """Give the state of the policy."""
    return call.parts.policy()


async def list_audit(call: Call) -> dict[str, Any]:
    """Give the newest rows of the audit log."""
    q: schemas.AuditQuery = call.query
    return {"items": await call.parts.store.audit(q.limit)}


async def verify_audit(call: Call) -> AuditReport:
    """Recompute the chain of the audit log."""
    return await call.parts.store.verify_audit()


async def _vote(call: Call, incident_id: str, *, approve: bool) -> Approval:
    return await call.parts.store.vote(incident_id, identity=call.caller.name, approve=approve, now=call.now)


async def _refuse_anonymous(call: Call, incident_id: str) -> None:
    """An irreversible action needs two people, and two who are both `local` can't be told apart."""
    if call.caller.authenticated:
        return
    detail = await call.parts.store.incident(incident_id)
    if any(
        is_for_known_people(approval) for approval in detail.approvals if approval.verdict is Verdict.PENDING
    ):
        raise AuthError(
            "this action needs two different authenticated people: configure server.tokens",
            status=403,
            code="identity_required",
        )


def is_for_known_people(approval: Approval) -> bool:
    """Whether only people with a name of their own may say yes to it."""
    return approval.risk is RiskClass.R3 or approval.needed > 1


async def _operate(call: Call, verb: Literal["escalate", "retry"]) -> Incident:
    return await call.parts.store.operator(_id(call), verb, call.caller.name, call.now)


def _id(call: Call) -> str:
    text = call.request.match_info["id"]
    if _ID.fullmatch(text) is None:
        raise NotFoundError("there is no such incident")
    return text


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        f"{_API}/incidents",
        "Incidents, newest first",
        list_incidents,
        schemas.IncidentsBody,
        query=schemas.IncidentsQuery,
    ),
    Route(
        "GET", _INCIDENT, "One incident with its whole story", show_incident, IncidentDetail, errors=(404,)
    ),
    Route(
        "GET",
        f"{_INCIDENT}/explain",
        "Why this action, recomputed",
        explain_incident,
        dict[str, Any],
        errors=(404,),
    ),
    Route(
        "POST",
        f"{_INCIDENT}/approve",
        "Approve the pending action",
        approve,
        Approval,
        "operator",
        errors=(404, 409),
    ),
    Route(
        "POST", f"{_INCIDENT}/deny", "Deny the pending action", deny, Approval, "operator", errors=(404, 409)
    ),
    Route(
        "POST",
        f"{_INCIDENT}/escalate",
        "Hand an open incident to people",
        escalate,
        Incident,
        "operator",
        errors=(404, 409),
    ),
    Route(
        "POST",
        f"{_INCIDENT}/retry",
        "Queue a final incident once more",
        retry,
        Incident,
        "operator",
        errors=(404, 409),
    ),
    Route(
        "GET",
        f"{_API}/attempts",
        "The ledger, newest first",
        list_attempts,
        schemas.AttemptsBody,
        query=schemas.AttemptsQuery,
    ),
    Route(
        "GET",
        f"{_API}/approvals",
        "Questions to people",
        list_approvals,
        schemas.ItemsBody,
        query=schemas.ApprovalsQuery,
    ),
    Route(
        "GET", f"{_API}/actions", "Registered actions with their scorecards", list_actions, schemas.ItemsBody
    ),
    Route("GET", f"{_API}/backends", "Health and breaker of each backend", list_backends, schemas.ItemsBody),
    Route(
        "GET",
        f"{_API}/conservation",
        "Whether every accepted alert is accounted for",
        conservation,
        Conservation,
    ),
    Route("GET", f"{_API}/policy", "State of the learning policy", policy, dict[str, Any]),
    Route("GET", f"{_API}/control", "The switches", show_control, Control),
    Route(
        "POST",
        f"{_API}/control",
        "Change the switches",
        change_control,
        Control,
        "operator",
        body=schemas.ControlBody,
        errors=(409, 413, 415),
    ),
    Route(
        "GET",
        f"{_API}/audit",
        "Who did what, newest first",
        list_audit,
        schemas.ItemsBody,
        query=schemas.AuditQuery,
    ),
    Route(
        "GET", f"{_API}/audit/verify", "Recompute the hash chain of the audit log", verify_audit, AuditReport
    ),
)
"""The table that the server, the OpenAPI page and the docs are made of."""
