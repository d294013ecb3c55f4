"""The dashboard's own files: read once, served from memory, named by their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from aiohttp import web

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
_NAMES = (
    "dashboard.css",
    "live.js",
    "mark.svg",
    "vendor/htmx-2.0.11.min.js",
    "vendor/htmx-LICENSE.txt",
)
"""A closed list: no path of a request ever reaches the file system."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, its type, and the mark of its content."""

    body: bytes
    content_type: str
    mark: str


class Assets:
    """Every static file, by name."""

    def __init__(self) -> None:
        folder = files("oncall_agent.web") / "static"
        self._found = {name: _asset(name, folder.joinpath(name).read_bytes()) for name in _NAMES}

    def address(self, name: str) -> str:
        """Give the path of a file; it changes with the content, so that browsers may keep it for ever."""
        return f"/static/{name}?v={self._found[name].mark}"

    async def serve(self, request: web.Request) -> web.Response:
        """Answer `GET /static/{name}`."""
        asset = self._found.get(request.match_info["name"])
        if asset is None:
            raise web.HTTPNotFound(text="no such file\n")
        headers = {
            "Cache-Control": "no-cache",
            "ETag": f'"{asset.mark}"',
            "X-Content-Type-Options": "nosniff",
        }
        if request.query.get("v") == asset.mark:
            headers["Cache-Control"] = "public, max-age=31536000, immutable"
        if request.headers.get("If-None-Match") == f'"{asset.mark}"':
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=asset.body, content_type=asset.content_type, charset="utf-8", headers=headers
        )


def _asset(name: str, body: bytes) -> Asset:
    suffix = name[name.rindex(".") :]
    return Asset(body, _TYPES[suffix], hashlib.blake2b(body, digest_size=6).hexdigest())
