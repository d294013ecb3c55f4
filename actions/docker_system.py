"""The Docker engine as something to validate: version, clock, and how much of its API is open to us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from actions.docker_drills import Crashed, HungHealthCheck, Paused
from actions.docker_engine import Api, Engine
from oncall_agent.contract import Grants, Inspection, Privilege, System, SystemContext
from oncall_agent.models import JsonObject

_OLDEST_API = (1, 41)
_NOBODY = "oncall-agent-no-such-container"
_DENIED = (401, 403)
_READS = (
    "GET /version",
    "GET /info",
    "GET /events",
    "GET /containers/{name}/json",
    "GET /containers/{name}/logs",
)
_MORE_READS = ("GET /containers/{name}/top", "GET /containers/{name}/stats")
_CHANGES: Mapping[str, tuple[str, ...]] = {
    "docker.restart_container": ("POST /containers/{name}/restart",),
    "docker.start_or_unpause": tuple(
        f"POST /containers/{{name}}/{verb}" for verb in ("start", "unpause", "stop", "pause")
    ),
    "docker.update_limits": ("GET /containers/json", "POST /containers/{name}/update"),
    "docker.recreate_with_image": (
        "GET /images/{name}/json",
        "POST /containers/create",
        *(f"POST /containers/{{name}}/{verb}" for verb in ("start", "stop", "rename", "update")),
        "DELETE /containers/{name}",
    ),
}
_NOT_NEEDED = ("GET /volumes", "GET /networks", "GET /plugins", "GET /swarm", "GET /secrets")
"""Asked to find out whether a proxy lets through what no action needs."""


class DockerSystem(System):
    """One engine."""

    name = "docker"
    drills = (Crashed, HungHealthCheck, Paused)

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._engine = Engine(settings)

    async def __aexit__(self, *_: object) -> None:
        self._engine.close()

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Ask version and clock, and try which requests are let through, on a container that does not exist."""
        wanted = needed(actions)
        asked = (*wanted, *_NOT_NEEDED)
        version, system_time, held = await self._engine.ask(
            ctx.run_blocking, ctx.seconds_left, lambda api: _asked(api, asked)
        )
        api_version = str(version.get("ApiVersion", "0.0"))
        is_old = tuple(int(part) for part in api_version.split(".")) < _OLDEST_API
        return Inspection(
            product="Docker Engine",
            version=str(version.get("Version", "")),
            unsupported=f"its API {api_version} is older than 1.41" if is_old else "",
            identity=self._engine.settings.host,
            server_time=system_time,
            privileges=tuple(Privilege(name, held[name], wanted.get(name, ())) for name in asked),
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give an nginx configuration that lets exactly the needed requests through to the socket."""
        return Grants(
            "text",
            socket_proxy((*_READS, *_MORE_READS, *needed(actions))),
            "Run nginx with it beside the engine and set backends.docker.host to tcp://127.0.0.1:2375; keep the "
            "socket itself from this program.",
        )


def needed(actions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Give request -> the actions that need it."""
    found: dict[str, tuple[str, ...]] = {}
    for action in actions:
        for request in _CHANGES.get(action, ()):
            found[request] = (*found.get(request, ()), action)
    return found


def socket_proxy(requests: Sequence[str]) -> str:
    """Give the text of an nginx configuration for these requests; everything else is answered with 403."""
    lines = "\n".join(f'    "~^{_pattern(one)}$" 1;' for one in sorted(set(requests)))
    return f"""events {{}}
http {{
  map "$request_method $uri" $is_allowed {{
    default 0;
{lines}
  }}
  server {{
    listen 127.0.0.1:2375;
    location / {{
      if ($is_allowed = 0) {{ return 403; }}
      proxy_pass http://unix:/var/run/docker.sock:;
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


def _pattern(request: str) -> str:
    method, path = request.split(" ", 1)
    # An image's name may hold slashes, a container's may not.
    name = "[^ ]+" if path.startswith("/images/") else "[^ /]+"
    return f"{method} (/v[0-9.]+)?" + path.replace("{name}", name)


def _asked(api: Api, requests: Sequence[str]) -> tuple[dict[str, Any], float | None, dict[str, bool]]:
    version: dict[str, Any] = api.version()
    return version, _seconds(api.info().get("SystemTime")), {one: _is_open(api, one) for one in requests}


def _is_open(api: Api, request: str) -> bool:
    """Try it where nothing can happen: on a name that nobody has, with no body."""
    method, path = request.split(" ", 1)
    # The client has no public way to send a request as it is.
    url = api._url(path.replace("{name}", _NOBODY))  # noqa: SLF001
    # Whatever else the engine says of it (404, 400, even 500 for want of a body), it was let through.
    return api.request(method, url, timeout=api.timeout).status_code not in _DENIED


def _seconds(text: Any) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        # Nine digits of a second are more than the parser takes.
        head, _, rest = text.partition(".")
        zone = rest.lstrip("0123456789") if rest else ""
        return datetime.fromisoformat(f"{head}{zone}").timestamp()
    except ValueError:
        return None
