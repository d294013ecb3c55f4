"""Signing in with a configured token, and out."""

from __future__ import annotations

from aiohttp import web

from oncall_agent.errors import AuthError
from oncall_agent.web.auth import GATE, SESSION_COOKIE, SESSION_SECONDS, require_form
from oncall_agent.web.pages.shell import local_path, render, see


async def ask_login(request: web.Request) -> web.StreamResponse:
    """Answer `GET /login`."""
    wanted = local_path(request.query.get("next", "/"))
    if request.app[GATE].is_open:
        raise see(wanted)
    return await render(request, "login.html", {"problem": "", "next": wanted})


async def login(request: web.Request) -> web.StreamResponse:
    """Answer `POST /login`."""
    gate, form = request.app[GATE], await request.post()
    wanted = local_path(str(form.get("next", "/")))
    if gate.is_open:
        raise see(wanted)
    gate.check_csrf(request, str(form.get("csrf_token", "")))
    try:
        caller = gate.by_token(str(form.get("token", "")).strip())
    except AuthError as error:
        response = await render(request, "login.html", {"problem": error.message, "next": wanted})
        response.set_status(401)
        return response
    response = web.Response(status=303, headers={"Location": wanted})
    response.set_cookie(
        SESSION_COOKIE,
        gate.issue(caller),
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="Strict",
        secure=request.secure,
        path="/",
    )
    return response


async def logout(request: web.Request) -> web.StreamResponse:
    """Answer `POST /logout`."""
    await require_form(request, "viewer")
    response = web.Response(status=303, headers={"Location": "/login?notice=signed_out"})
    response.del_cookie(SESSION_COOKIE, path="/")
    return response
