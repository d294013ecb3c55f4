"""The dashboard: pages for people, rendered here, that work without a script and refresh themselves with one."""

from __future__ import annotations

from aiohttp import web

from oncall_agent.web.pages import approvals, control, incident, incidents, overview, session, shell
from oncall_agent.web.parts import PARTS, Parts

PAGES: tuple[tuple[str, str, shell.Page], ...] = (
    ("GET", "/", incidents.incidents),
    ("GET", "/incidents/{id}", incident.incident),
    ("POST", "/incidents/{id}/escalate", incident.escalate),
    ("POST", "/incidents/{id}/retry", incident.retry),
    ("GET", "/approvals", approvals.approvals),
    ("POST", "/approvals/{id}/approve", approvals.approve),
    ("POST", "/approvals/{id}/deny", approvals.deny),
    ("GET", "/backends", overview.backends),
    ("GET", "/conservation", overview.conservation),
    ("GET", "/control", control.control),
    ("GET", "/control/pause", control.ask_pause),
    ("POST", "/control/pause", control.pause),
    ("GET", "/control/resume", control.ask_resume),
    ("POST", "/control/resume", control.resume),
    ("POST", "/control/drain", control.drain),
    ("POST", "/control/undrain", control.undrain),
    ("POST", "/control/freeze", control.freeze),
    ("POST", "/control/thaw", control.thaw),
    ("GET", "/login", session.ask_login),
    ("POST", "/login", session.login),
    ("POST", "/logout", session.logout),
)
"""Every page: method, path, and what answers it."""


def add_routes(app: web.Application, parts: Parts) -> None:
    """Add the dashboard's pages and static files; `app` has its gate (see `web.auth`) already."""
    app[PARTS] = parts
    app[shell.RENDERER] = renderer = shell.renderer()
    app[incident.EXPLANATIONS] = incident.explanations()
    for method, path, page in PAGES:
        app.router.add_route(method, path, shell.guarded(page))
    app.router.add_get("/static/{name:.+}", renderer.assets.serve)
