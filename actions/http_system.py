"""Declared HTTP as a system: what balances the pools, whether we may change it, and the least that is enough."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from actions.http_declared import Declared, EndpointPool, HaproxyPool, NginxPool, Pool
from actions.http_drills import BadDeploy, FailedCall, OverloadedMember, SickMember, StaleCache, WrongFlag
from actions.http_executor import as_attempt
from actions.http_haproxy import Haproxy
from actions.http_nginx import Nginx
from actions.http_program import run_program
from actions.http_settings import HttpSettings
from actions.http_templates import Call
from oncall_agent.contract import (
    Grants,
    Inspection,
    PermanentError,
    Privilege,
    System,
    SystemContext,
)
from oncall_agent.contract.http import SafeHttp
from oncall_agent.models import JsonObject

_TRAFFIC = ("http.drain_backend", "http.shift_traffic")
_HOW = (
    "Run the daemon as the user oncall-agent; give the secret headers' tokens these requests and no more. "
    "Each other block goes where its first line says."
)


class HttpSystem(System):
    """Asks nginx and HAProxy; a declared request answers only for itself, when it is made."""

    name = "http"
    drills = (WrongFlag, SickMember, OverloadedMember, StaleCache, BadDeploy, FailedCall)

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._conf = HttpSettings.model_validate(dict(settings))
        self._http = SafeHttp()

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection | None:
        """Read the balancers' versions, and whether we may change each pool; None without such a pool."""
        products: list[tuple[str, str]] = []
        held: list[Privilege] = []
        needed = tuple(action for action in _TRAFFIC if action in actions)
        for name, pool in self._conf.pools.items():
            found, privileges = await self._asked(ctx, name, pool, needed)
            products += found
            held += privileges
        if not products:
            return None
        if any(isinstance(pool, NginxPool) for pool in self._conf.pools.values()):
            held.append(Privilege("act as root", os.geteuid() == 0, ()))
        return Inspection(
            product=", ".join(dict.fromkeys(product for product, _ in products)),
            version=", ".join(dict.fromkeys(version for _, version in products)),
            identity=f"uid {os.geteuid()}",
            privileges=tuple(held),
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the requests that the tokens must permit, and what nginx and HAProxy have to let us do."""
        blocks = [_requests(self._conf, actions)]
        if any(action in actions for action in _TRAFFIC):
            blocks += [_pool_grant(name, pool) for name, pool in self._conf.pools.items()]
        return Grants("text", "\n".join(block for block in blocks if block), _HOW)

    async def _asked(
        self, ctx: SystemContext, name: str, pool: Pool, needed: tuple[str, ...]
    ) -> tuple[list[tuple[str, str]], list[Privilege]]:
        attempt, seconds = as_attempt(ctx), self._conf.timeout_seconds
        if isinstance(pool, HaproxyPool):
            haproxy = Haproxy(pool, seconds)
            version = await haproxy.version(attempt)
            may = await haproxy.may_change(attempt)
            return [("HAProxy", version)], [Privilege(f"change the servers of {name}", may, needed)]
        if isinstance(pool, NginxPool):
            version = await Nginx(pool, self._http, seconds).version(attempt)
            may = await ctx.run_blocking(_may_replace, pool.include)
            return [("nginx", version)], [
                Privilege(f"replace the include file of {name}", may, needed),
                Privilege(f"test the configuration of {name}", await _may_test(pool, seconds), needed),
            ]
        return [], []


def _may_replace(path: str) -> bool:
    folder = Path(path).parent
    return os.access(path, os.R_OK) and os.access(folder, os.W_OK | os.X_OK)


async def _may_test(pool: NginxPool, seconds: float) -> bool:
    try:
        await run_program(pool.test, seconds)
    except PermanentError:
        return False
    return True


def _requests(conf: HttpSettings, actions: Sequence[str]) -> str:
    lines = {
        f"{call.method} {call.url.partition('?')[0]}" for action in actions for call in _calls(conf, action)
    }
    return "".join(f"{line}\n" for line in ("# requests", *sorted(lines))) if lines else ""


def _calls(conf: HttpSettings, action: str) -> Iterator[Call]:
    """Give the requests that one action can make."""
    if action == "http.call":
        for endpoint in conf.endpoints.values():
            yield from (call for call in (endpoint, endpoint.verify, endpoint.undo) if call is not None)
        return
    groups: Mapping[str, Mapping[str, Declared]] = {
        "http.toggle_flag": conf.flags,
        "http.purge_cdn": conf.caches,
        "http.rollback_deploy": conf.pipelines,
        **dict.fromkeys(_TRAFFIC, conf.pools),
    }
    for declared in groups.get(action, {}).values():
        yield from declared.calls()


def _pool_grant(name: str, pool: Pool) -> str:
    if isinstance(pool, EndpointPool):
        return ""
    if isinstance(pool, HaproxyPool):
        place = pool.socket if pool.socket.startswith("/") else f"ipv4@{pool.socket}"
        return (
            f"# pool {name}: haproxy.cfg, section global; HAProxy knows no finer level for weights\n"
            f"stats socket {place} mode 600 user oncall-agent level admin\n"
        )
    folder = Path(pool.include).parent
    commands = ", ".join(" ".join(argv) for argv in (pool.test, pool.reload))
    return (
        f"# pool {name}: once, as root; nothing else of nginx belongs to the daemon\n"
        f"install -d -o oncall-agent -g oncall-agent -m 0755 {folder}\n"
        f"chown oncall-agent:oncall-agent {pool.include}\n"
        f"# pool {name}: sudoers, when nginx runs as another user; put `sudo -n` before both in the settings\n"
        f"oncall-agent ALL=(root) NOPASSWD: {commands}\n"
    )
