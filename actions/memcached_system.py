"""Memcached as a system: what answers, how its clock goes, and why there is no role to generate."""

from __future__ import annotations

from collections.abc import Sequence

from actions.memcached_client import Memcached, Place
from actions.memcached_drill_restart import HungNode
from actions.memcached_drills import DRILLS
from actions.memcached_facts import Stats, read, unsupported
from oncall_agent.contract import Grants, Inspection, PermanentError, System, SystemContext
from oncall_agent.models import JsonObject

_NO_ROLES = "memcached knows no roles: whoever it lets in may do everything"


class MemcachedSystem(System):
    """Every node of every pool."""

    name = "memcached"
    drills = (*DRILLS, HungNode)

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._memcached = Memcached(settings)

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Ask every node; the clock is that of the one which is furthest off."""
        places = self._memcached.places()
        if not places:
            raise PermanentError("no pool is configured in backends.memcached")
        now = ctx.clock.now()
        found = [await self._read(ctx, place) for place in places]
        worst = max(found, key=lambda one: abs(one.time - now))
        too_old = [(place, unsupported(stats.version)) for place, stats in zip(places, found, strict=True)]
        users = {place.pool.username or "anybody" for place in places}
        return Inspection(
            product="memcached",
            version=", ".join(sorted({stats.version for stats in found})),
            unsupported="; ".join(f"{place}: {why}" for place, why in too_old if why),
            identity=", ".join(sorted(users)),
            # It tells whole seconds, so that its clock lies within the one that it names.
            server_time=worst.time + 0.5,
            privileges_unknown=_NO_ROLES,
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Say what can be done instead of a role: who may connect, and as whom."""
        lines = [
            f"# {_NO_ROLES}.",
            "# So let only the application's hosts and this program connect:",
            "# nftables, one line for each node",
            *(
                f"add rule inet filter input ip daddr {place.node.host} tcp dport {place.node.port} "
                "ip saddr != { ADDRESSES OF THE APPLICATION AND OF ONCALL-AGENT } drop"
                for place in self._memcached.places()
            ),
            "# and ask for a password: a line in the file named by memcached -Y",
            "oncall-agent:PASSWORD",
        ]
        if "memcached.restart_node" in actions:
            lines += [
                "# memcached.restart_node needs the role of docker.restart_container for nodes in containers,"
            ]
            lines += ["# `systemctl restart UNIT` by polkit for units, `delete` on the pods for Kubernetes."]
        return Grants(
            "text", "\n".join(lines) + "\n", "Put the rules where they fit; keep -U 0 and -l to one address."
        )

    async def _read(self, ctx: SystemContext, place: Place) -> Stats:
        return await self._memcached.ask(ctx.run_blocking, ctx.seconds_left, place, read)
