"""Members behind a balancer, in this process on loopback: they answer by name, and can be broken over HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from backends.nginx_server import Haproxy, Nginx

from oncall_agent.testing import FakeEdge

HAPROXY = """
global
    stats socket {socket} mode 600 level admin
    stats socket {socket}.operator mode 600 level operator
    stats socket ipv4@127.0.0.1:{admin_port} level admin
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    timeout check 5s
frontend site
    bind 127.0.0.1:{port}
    default_backend app
backend app
    balance roundrobin
    option httpchk GET /healthz
    default-server check inter 50ms rise 1 fall 1 weight 10
"""


class Member:
    """One server; `POST /break` makes every page an error, `POST /mend` ends that."""

    def __init__(self, name: str) -> None:
        self.name, self.is_sick, self.address = name, False, ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/break", self._turn(is_sick=True))
        app.router.add_post("/mend", self._turn(is_sick=False))
        app.router.add_get("/{page:.*}", self._page)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def close(self) -> None:
        """Go away for good."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _turn(self, *, is_sick: bool) -> Any:
        async def turn(_request: web.Request) -> web.Response:
            self.is_sick = is_sick
            return web.Response(status=204)

        return turn

    async def _page(self, _request: web.Request) -> web.Response:
        return web.json_response({"name": self.name}, status=500 if self.is_sick else 200)


class Site:
    """A balancer with its members, as a visitor and as an operator see it."""

    def __init__(self, members: dict[str, Member], balancer: Nginx | Haproxy, pool: dict[str, Any]) -> None:
        self.members, self.balancer, self.pool = members, balancer, pool

    @property
    def settings(self) -> dict[str, Any]:
        """The group `backends.http` with the pool `app`."""
        return {"timeout_seconds": 3.0, "pools": {"app": self.pool}}

    async def visits(self, count: int = 20) -> Counter[str]:
        """Who answered so many visitors; `error` for a server error."""
        seen: Counter[str] = Counter()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            for _ in range(count):
                async with session.get(self.balancer.url) as answer:
                    seen["error" if answer.status >= 500 else (await answer.json())["name"]] += 1
        return seen


def nginx_site(nginx: Nginx, members: dict[str, Member]) -> Site:
    """Start nginx in front of the members; weights stand in an include file."""
    include = nginx.folder / "pools" / "app.conf"
    include.parent.mkdir(parents=True, exist_ok=True)
    include.write_text(
        "".join(f"server {one.address} max_fails=0; # {name}\n" for name, one in members.items())
    )
    nginx.start(
        f"upstream app {{ include {include}; }}\n"
        "server { listen 127.0.0.1:{port}; location / { proxy_pass http://app; proxy_next_upstream off; } }"
    )
    pool = {
        "provider": "nginx",
        "include": str(include),
        "pid_file": str(nginx.pid_path),
        "test": [*nginx.argv, "-t"],
        "reload": [*nginx.argv, "-s", "reload"],
        "health_path": "/healthz",
    }
    return Site(members, nginx, pool)


async def haproxy_site(haproxy: Haproxy, members: dict[str, Member], admin_port: int) -> Site:
    """Start HAProxy in front of the members and wait until it has seen all of them."""
    servers = "".join(f"    server {name} {one.address}\n" for name, one in members.items())
    # In a thread: the members answer its checks on this very loop.
    text = HAPROXY.replace("{admin_port}", str(admin_port)) + servers
    await asyncio.to_thread(haproxy.start, text)
    return Site(
        members, haproxy, {"provider": "haproxy", "socket": str(haproxy.socket_path), "backend": "app"}
    )


def endpoint(fault: str, undo: str, question: str, assertion: str = "", **body: Any) -> dict[str, Any]:
    """A fault as an operator declares it: what breaks, what tells, what mends."""
    method = {"method": body.pop("method")} if "method" in body else {}
    broken, mended = body.get("broken"), body.get("mended")
    asked = {"url": question, **({"assertion": assertion} if assertion else {})}
    return {
        "url": fault,
        **method,
        "body": broken,
        "verify": asked,
        "undo": {"url": undo, **method, "body": mended},
    }


def declared_drills(edge: FakeEdge, site: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    url, blue = edge.url, site.members["blue"].url
    flag = f"{url}/flags/new-checkout"
    settings = {
        **site.settings,
        "flags": {
            "new-checkout": {
                "read": {"url": flag, "value": "value"},
                "write": {"method": "PUT", "url": flag, "body": {"value": "{value}"}},
            }
        },
        "caches": {
            "edge": {
                "purge_key": {"method": "PURGE", "url": f"{url}/purge/{{key}}"},
                "url": f"{url}/cdn",
                "origin": f"{url}/origin",
            }
        },
        "pipelines": {
            "shop": {
                "read": {"url": f"{url}/pipeline", "value": "version"},
                "deployed_at": "at",
                "artifacts": {"url": f"{url}/pipeline", "value": "artifacts"},
                "deploy": {"url": f"{url}/pipeline", "body": {"version": "{version}"}},
            }
        },
        "endpoints": {
            "break-flag": endpoint(
                flag, flag, flag, "value", method="PUT", broken={"value": False}, mended={"value": True}
            ),
            "break-member": endpoint(f"{blue}/break", f"{blue}/mend", site.balancer.url + "/"),
            "change-origin": endpoint(
                f"{url}/origin/a.css", f"{url}/origin/a.css", url, method="PUT", broken="v2", mended="v1"
            ),
            "deploy-bad": endpoint(
                f"{url}/pipeline",
                f"{url}/pipeline",
                f"{url}/pipeline",
                "version == '1.1.0'",
                broken={"version": "1.0.0"},
                mended={"version": "1.1.0"},
            ),
            "break-blue": endpoint(f"{blue}/break", f"{blue}/mend", f"{blue}/"),
            "mend-blue": {
                "url": f"{blue}/mend",
                "verify": {"url": f"{blue}/"},
                "undo": {"url": f"{blue}/mend"},
            },
        },
    }
    sandbox = {
        "flag_fault": "break-flag",
        "flag": "new-checkout",
        "flag_value": True,
        "member_fault": "break-member",
        "pool": "app",
        "member": "blue",
        "member_weight": 0,
        "cache_fault": "change-origin",
        "cache": "edge",
        "cache_key": "/a.css",
        "deploy_fault": "deploy-bad",
        "pipeline": "shop",
        "call_fault": "break-blue",
        "call": "mend-blue",
    }
    return settings, sandbox
