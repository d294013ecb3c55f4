"""Faults made on purpose on a sandbox Redis, one for each action that has to heal one."""

from __future__ import annotations

import contextlib

from actions.redis_client import BusyError, FullError
from actions.redis_facts import clients_of, memory_of
from actions.redis_sandbox import NAMED, PREFIX, RedisDrill
from oncall_agent.contract import ActionError, Check, Drill, DrillSpec, PermanentError, SystemContext, Trial

_KEYS = 200
_MIB = 1_048_576
_EXCESS = 32 * _MIB
_SPIN = "while true do end"


class StaleKeys(RedisDrill):
    """Keys of a cache that hold what is no longer true."""

    spec = DrillSpec(
        id="redis.stale_keys",
        action="redis.unlink_keys",
        scenario="stale_cache",
        summary="Keys under the drill's own prefix hold what is no longer true.",
        sandbox="named",
        sandbox_keys=NAMED,
    )

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Need a cache database and the drill's pattern among the server's own."""
        place = self.place()
        if (
            place.database not in place.server.cache_databases
            or f"{PREFIX}*" not in place.server.key_patterns
        ):
            raise PermanentError(f"the sandbox must be a cache database and allow the pattern {PREFIX}*")
        await self.ask(ctx, lambda client: client.ping())
        return self.trial(pattern=f"{PREFIX}*", hold_seconds=0.2)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Write them."""
        await self.fill(ctx, _KEYS, 10_000)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Well when none of them is there."""
        found = await self.ask(ctx, lambda client: client.exists(f"{self.mark}:0", f"{self.mark}:1"))
        return Check(ok=not found, reason="a stale key is served" if found else "")


class StaleDatabase(StaleKeys):
    """A whole cache database that is stale."""

    spec = DrillSpec(
        id="redis.stale_database",
        action="redis.flush_db",
        scenario="stale_cache",
        summary="A cache database holds what is no longer true; everything in it is lost.",
        sandbox="named",
        sandbox_keys=NAMED,
    )

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Need a cache database that was named on purpose."""
        place = self.place()
        if "database" not in self.sandbox or place.database not in place.server.cache_databases:
            raise PermanentError("name the sandbox's `database`, marked as a cache: all of it is removed")
        return self.trial(hold_seconds=0.2)


class FullMemory(RedisDrill):
    """No memory left, and nothing is evicted."""

    spec = DrillSpec(
        id="redis.full_noeviction",
        action="redis.config_set",
        scenario="high_memory_response",
        summary="A sandbox server is full and refuses writes; nothing may be evicted.",
        sandbox="named",
        sandbox_keys=NAMED,
    )

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Plan for twice the memory of now."""
        memory = memory_of(await self.ask(ctx, lambda client: client.info(section="memory")))
        return self.trial(name="maxmemory", value=str(memory.used + 32 * _MIB), hold_seconds=0.2)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Fill some, and let the limit be a little less than what is in use."""
        await self.set_config(ctx, "maxmemory-policy", "noeviction")
        await self.fill(ctx, 40, 50_000)
        memory = memory_of(await self.ask(ctx, lambda client: client.info(section="memory")))
        # Far enough below that the buffers of a client that goes away make no room.
        await self.set_config(ctx, "maxmemory", str(max(_MIB, memory.used - _MIB)))

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Well when a write is taken."""
        try:
            await self.ask(ctx, lambda client: client.set(f"{self.mark}:write", "x" * 1_000))
        except FullError as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True)


class FragmentedMemory(RedisDrill):
    """Pages that nothing is in, still held by the process."""

    spec = DrillSpec(
        id="redis.fragmented_memory",
        action="redis.memory_purge",
        scenario="high_memory_response",
        summary="A sandbox server holds 64 MiB of pages that nothing is in any more.",
        sandbox="named",
        sandbox_keys=NAMED,
    )

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Need a server that is there."""
        await self.ask(ctx, lambda client: client.ping())
        return self.trial(min_excess_bytes=_EXCESS, hold_seconds=0.2)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Fill and remove."""
        for first in range(0, 640, 40):
            await self.fill(ctx, 40, 100_000, first)
        await self.remove_keys(ctx)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Well when the process holds little beyond its data."""
        memory = memory_of(await self.ask(ctx, lambda client: client.info(section="memory")))
        ok = memory.excess < _EXCESS
        return Check(ok=ok, reason="" if ok else f"{memory.excess} bytes are held for nothing")


class IdleClients(RedisDrill):
    """Connections that nobody uses."""

    spec = DrillSpec(
        id="redis.idle_clients",
        action="redis.kill_clients",
        scenario="too_many_clients",
        summary="Twenty connections of the drill's own are open and idle.",
    )
    count = 20

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Need a server that is there."""
        await self.ask(ctx, lambda client: client.ping())
        name = self.mark.replace(":", "-")
        return self.trial(name=name, min_idle_seconds=0, min_share=0.0, hold_seconds=0.2)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Open them."""
        for _ in range(self.count):
            await self.connect(str(trial.params["name"])).ping()

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Well when they are gone."""
        listed = clients_of(await self.ask(ctx, lambda client: client.client_list()))
        found = sum(one.name == trial.params["name"] for one in listed)
        return Check(ok=not found, reason=f"{found} idle connections" if found else "")


class BlockedClient(RedisDrill):
    """A worker that waits for ever."""

    spec = DrillSpec(
        id="redis.blocked_client",
        action="redis.unblock",
        scenario="blocked_client",
        summary="A connection of the drill's own waits in a blocking command on a key of the drill's own.",
    )

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Need a server that is there."""
        await self.ask(ctx, lambda client: client.ping())
        return self.trial(name=self.mark.replace(":", "-"), min_blocked_seconds=0, hold_seconds=0.2)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Begin to wait, and see the server know of it."""
        client = self.connect(str(trial.params["name"]))
        await client.ping()
        self.wait_for(client.blpop(f"{self.mark}:queue", timeout=0))
        while ctx.seconds_left and (await self.symptom(ctx, trial)).ok:
            await ctx.clock.sleep(0.01)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Well when nobody waits."""
        listed = clients_of(await self.ask(ctx, lambda client: client.client_list()))
        waits = any(one.is_blocked and one.name == trial.params["name"] for one in listed)
        return Check(ok=not waits, reason="the client waits" if waits else "")


class BusyScript(RedisDrill):
    """A script that never ends."""

    spec = DrillSpec(
        id="redis.busy_script",
        action="redis.kill_script",
        scenario="service_crash_handling",
        summary="A script on a sandbox server never ends: nobody else is served.",
        sandbox="named",
        sandbox_keys=NAMED,
    )

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Make the server say soon that it is busy."""
        if not self.sandbox.get("server"):
            raise PermanentError("name the sandbox's `server`: nobody else is served by it meanwhile")
        try:
            await self.set_config(ctx, "busy-reply-threshold", "50")
        except PermanentError:
            await self.set_config(ctx, "lua-time-limit", "50")
        return self.trial(hold_seconds=0.2)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Run it, and wait until the server says that it is busy."""
        client = self.connect("oncall-agent-drill")
        self.wait_for(client.eval(_SPIN, 0))
        while ctx.seconds_left and (await self.symptom(ctx, trial)).ok:
            await ctx.clock.sleep(0.01)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Well when it answers."""
        try:
            await self.ask(ctx, lambda client: client.ping())
        except BusyError as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True)

    async def clean_up(self, ctx: SystemContext) -> None:
        """End the script, should it still run; it ends a moment after the server has said yes."""
        with contextlib.suppress(ActionError):
            await self.ask(ctx, lambda client: client.script_kill())
        while ctx.seconds_left and not (await self.symptom(ctx, Trial(self.trial().target))).ok:
            await ctx.clock.sleep(0.01)
        await super().clean_up(ctx)


class ReadOnlyPrimary(RedisDrill):
    """A primary that refuses every write, beside a replica that could take them."""

    spec = DrillSpec(
        id="redis.primary_without_writes",
        action="redis.failover",
        scenario="service_crash_handling",
        summary="The primary of a sandbox pair refuses writes; its replica could take over.",
        sandbox="named",
        sandbox_keys=NAMED,
    )

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Need a primary with a replica."""
        info = await self.ask(ctx, lambda client: client.info(section="replication"))
        if info.get("role") != "master" or not info.get("connected_slaves"):
            raise PermanentError("the sandbox must be a primary with a replica")
        return self.trial(hold_seconds=0.2)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Ask for more replicas than there are before a write is taken."""
        await self.set_config(ctx, "min-replicas-to-write", "99")

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Well when the primary of now takes a write."""
        info = await self.ask(ctx, lambda client: client.info(section="replication"))
        place = self.place()
        if info.get("role") != "master":
            place = place.at(str(info.get("master_host")), int(info.get("master_port") or 0))
        try:
            await self.ask(ctx, lambda client: client.set(f"{self.mark}:write", "1"), place)
        except PermanentError as error:
            return Check(ok=False, reason=error.message)
        return Check(ok=True)


DRILLS: tuple[type[Drill], ...] = (
    StaleKeys,
    StaleDatabase,
    FullMemory,
    FragmentedMemory,
    IdleClients,
    BlockedClient,
    BusyScript,
    ReadOnlyPrimary,
)
