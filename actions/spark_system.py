"""A Spark cluster as something to validate: what it is, its clock, and which requests it lets us send."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from actions.spark_drills import CrashedApplication, RunawayApplication, StuckStage
from actions.spark_drills_runs import DeadStream, OutOfMemory
from actions.spark_executor import UNPROVEN, Cluster
from actions.spark_grants import ANYBODY, NOT_NEEDED, READS, SUBMIT, Request, grants_for, needed
from actions.spark_http import REFUSED
from oncall_agent.contract import Grants, Inspection, Privilege, System, SystemContext
from oncall_agent.models import JsonObject

_OLDEST = (3, 2)
_NOBODY = "oncall-agent-no-such"
_BUTTONS = ("POST /app/kill/", "POST /driver/kill/")
_NUMBERS = re.compile(r"(\d+)\.(\d+)")
_CSRF_MISSING = b"CSRF"


class SparkSystem(System):
    """One cluster."""

    name = "spark"
    drills = (StuckStage, RunawayApplication, CrashedApplication, OutOfMemory, DeadStream)

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._cluster = Cluster(settings)

    async def __aenter__(self) -> Self:
        await self._cluster.http.session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cluster.http.session.__aexit__(kind, error, trace)

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Ask the master, and try which requests are let through, on names that nobody has."""
        product = await self._cluster.master.product(ctx.seconds_left)
        settings = self._cluster.settings
        unproven = UNPROVEN.get(settings.kind, "")
        privileges = () if unproven else await self._privileges(ctx, actions)
        return Inspection(
            product=f"{product.name}, not proven on a real server" if unproven else product.name,
            version=product.version,
            unsupported="" if unproven else unsupported(product.version),
            identity="the bearer of a token" if settings.token else "anybody",
            server_time=product.server_time,
            privileges=privileges,
            privileges_unknown=unproven,
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the proxy's rules, or the role, that lets exactly the needed requests through."""
        return grants_for(self._cluster.settings, actions)

    async def _privileges(self, ctx: SystemContext, actions: Sequence[str]) -> tuple[Privilege, ...]:
        wanted = needed(actions)
        asked = dict.fromkeys((*READS, *wanted, *NOT_NEEDED))
        found = []
        for request in asked:
            if getattr(self._cluster.settings, request[0]):
                # What all of them read is needed by all of them.
                by = tuple(actions) if request in READS else wanted.get(request, ())
                found.append(Privilege(request[1], await self._is_open(ctx, request), by))
        if self._cluster.settings.submit_url:
            found.append(Privilege(ANYBODY, await self._is_open(ctx, _CREATE, with_token=False), ()))
        return tuple(found)

    async def _is_open(self, ctx: SystemContext, request: Request, *, with_token: bool = True) -> bool:
        """Send it where nothing can happen: on a name that nobody has, without a body."""
        key, what = request
        method, path = what.split(" ", 1)
        base = str(getattr(self._cluster.settings, key)).rstrip("/")
        url = base + path.replace("{id}", _NOBODY)
        if path == "/workers/kill/":
            url += f"?host={_NOBODY}"
        answer = await self._cluster.http.ask(method, ctx.seconds_left, url, with_token=with_token)
        if what in _BUTTONS and _CSRF_MISSING in answer.body:
            return True
        # Without a name a button ends nothing; 405 says that the buttons are switched off.
        return answer.status not in (*REFUSED, 405)


_CREATE: Request = (SUBMIT, "POST /v1/submissions/create")


def unsupported(version: str) -> str:
    """Give the reason why a version of standalone Spark is not supported, or an empty text."""
    found = _NUMBERS.match(version)
    if found is None:
        return "its version is not known"
    is_old = (int(found[1]), int(found[2])) < _OLDEST
    return f"it is older than {_OLDEST[0]}.{_OLDEST[1]}" if is_old else ""
