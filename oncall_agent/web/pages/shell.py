"""The frame of every page: who is there, what stands above it, how a template becomes a response."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from oncall_agent import __version__
from oncall_agent.errors import AuthError, ConflictError, NotFoundError, StoreError
from oncall_agent.web.auth import GATE, Identity, csrf_token, identity
from oncall_agent.web.pages.assets import Assets
from oncall_agent.web.pages.display import FILTERS
from oncall_agent.web.pages.standing import banners
from oncall_agent.web.parts import PARTS

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
NOTICES = {
    "approved": "Your approval is recorded.",
    "denied": "Your denial is recorded.",
    "escalated": "The incident is handed to people.",
    "retried": "The incident is queued again.",
    "paused": "Everything is stopped: no action is begun.",
    "resumed": "Actions are permitted again.",
    "draining": "Draining: running attempts are finished, nothing new is taken up.",
    "undrained": "Incidents are taken up again.",
    "frozen": "The change freeze is on.",
    "thawed": "The change freeze is lifted.",
    "signed_out": "You are signed out.",
}
"""Code in the address after a form was posted -> what the page says: never text from the address itself."""

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATUS_OF = ((NotFoundError, 404), (ConflictError, 409), (StoreError, 503))


@dataclass(frozen=True, slots=True)
class Renderer:
    """Templates and static files of the dashboard; one per application."""

    templates: Environment
    assets: Assets


RENDERER: web.AppKey[Renderer] = web.AppKey("renderer", Renderer)


def renderer() -> Renderer:
    """Load templates (with autoescape: alert text is never markup) and static files."""
    assets = Assets()
    templates = Environment(
        loader=PackageLoader("oncall_agent.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters.update(FILTERS)
    templates.globals.update(asset=assets.address, version=__version__)
    return Renderer(templates, assets)


def guarded(page: Page) -> Page:
    """Give the page with its errors as pages for people and with the headers of the dashboard."""

    @wraps(page)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            request.app[GATE].check_origin(request)
            response = await page(request)
        except AuthError as error:
            response = await _refused(request, error)
        except tuple(kind for kind, _ in _STATUS_OF) as error:
            status = next(status for kind, status in _STATUS_OF if isinstance(error, kind))
            response = await _error_page(request, status, error.message)
        except web.HTTPSeeOther as error:
            response = web.Response(status=error.status, headers={"Location": str(error.location)})
        response.headers.update(HEADERS)
        return response

    return answer


async def render(request: web.Request, page: str, values: Mapping[str, Any]) -> web.Response:
    """Give the page, or only its live part (`templates/live/`) when htmx asks to refresh that."""
    templates = request.app[RENDERER].templates
    names = ("live/" + page, "_swapped.html") if request.headers.get("HX-Request") == "true" else (page,)
    context = {**await _frame(request), **values}
    text = "".join(templates.get_template(name).render(context) for name in names)
    return web.Response(text=text, content_type="text/html", headers={"Vary": "HX-Request"})


def see(path: str, notice: str = "") -> web.HTTPSeeOther:
    """Give the redirect after a posted form, so that a reload does not post twice."""
    return web.HTTPSeeOther(f"{path}?notice={notice}" if notice else path)


def subject_id(request: web.Request) -> str:
    """Give the id in the path; `NotFoundError` for what no id looks like."""
    text = request.match_info["id"]
    if _ID.fullmatch(text) is None:
        raise NotFoundError("there is no such thing here")
    return text


def local_path(text: str) -> str:
    """Give a path of this server, `/` for anything that would lead elsewhere."""
    parts = urlsplit(text)
    is_local = (
        text.startswith("/") and not text.startswith(("//", "/\\")) and not (parts.scheme or parts.netloc)
    )
    return text if is_local and text.isprintable() else "/"


async def _frame(request: web.Request) -> dict[str, Any]:
    parts, caller = request.app[PARTS], _caller(request)
    now = parts.clock.now()
    control = parts.store.control
    pending = len(await parts.store.approvals(pending_only=True)) if caller else 0
    return {
        "now": now,
        "path": request.path,
        "address": request.path_qs,
        "caller": caller,
        "may_operate": caller is not None and caller.may("operator"),
        "signs_in": not request.app[GATE].is_open,
        "csrf": csrf_token(request),
        "control": control,
        "banners": banners(parts.settings, control, now) if caller else (),
        "pending_count": pending,
        "notice": NOTICES.get(request.query.get("notice", ""), ""),
    }


def _caller(request: web.Request) -> Identity | None:
    try:
        return identity(request)
    except AuthError:
        return None


async def _refused(request: web.Request, error: AuthError) -> web.StreamResponse:
    if error.status != HTTPStatus.UNAUTHORIZED:
        return await _error_page(request, error.status, error.message)
    wanted = request.path_qs if request.method == "GET" else "/"
    login = f"/login?next={quote(wanted, safe='/')}"
    if request.headers.get("HX-Request") == "true":
        return web.Response(status=401, headers={"HX-Redirect": login})
    return web.Response(status=303, headers={"Location": login})


async def _error_page(request: web.Request, status: int, message: str) -> web.Response:
    """Give a page that says what went wrong; it must not need the store that may be the reason."""
    values = {
        "now": request.app[PARTS].clock.now(),
        "path": request.path,
        "caller": None,
        "signs_in": False,
        "banners": (),
        "pending_count": 0,
        "notice": "",
        "status": status,
        "phrase": HTTPStatus(status).phrase,
        "message": message,
    }
    text = request.app[RENDERER].templates.get_template("error.html").render(values)
    return web.Response(text=text, content_type="text/html", status=status)
