"""Redis as a system: what answers, what our user may do there, and the ACL line that is just enough."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from actions.redis_client import Client, Place, Redis, RedisServer
from actions.redis_drills import DRILLS
from actions.redis_executor import MARK_PREFIX
from actions.redis_facts import unsupported, version_of
from oncall_agent.contract import Grants, Inspection, PermanentError, Privilege, System, SystemContext
from oncall_agent.models import JsonObject

_PROBES = ("ping", "info", "time", "acl|whoami", "acl|dryrun", "client|setname", "slowlog|get", "select")
_COMMANDS: dict[str, tuple[str, ...]] = {
    "redis.memory_purge": ("memory|purge",),
    "redis.unlink_keys": ("scan", "unlink", "exists", "set"),
    "redis.flush_db": ("flushdb", "dbsize", "exists", "set"),
    "redis.config_set": ("config|get", "config|set"),
    "redis.kill_clients": ("client|list", "client|kill"),
    "redis.unblock": ("client|list", "client|unblock"),
    "redis.kill_script": ("script|kill", "function|kill"),
    "redis.failover": ("failover", "set"),
}
_KEYS = ("redis.unlink_keys", "redis.flush_db", "redis.failover")
_SENTINEL: tuple[str, ...] = ("ping", "client|setname", "sentinel|ckquorum", "sentinel|failover")
_SENTINEL += ("sentinel|get-master-addr-by-name", "sentinel|replicas")
# Asked by ACL DRYRUN: one whole command line per name, so that it fits the command's arity.
_DRY: dict[str, tuple[str, ...]] = {
    "set": ("SET", f"{MARK_PREFIX}x", "1"),
    "exists": ("EXISTS", f"{MARK_PREFIX}x"),
    "scan": ("SCAN", "0"),
    "select": ("SELECT", "0"),
    "info": ("INFO",),
    "client|setname": ("CLIENT", "SETNAME", "x"),
    "client|kill": ("CLIENT", "KILL", "ID", "1"),
    "client|unblock": ("CLIENT", "UNBLOCK", "1"),
    "config|get": ("CONFIG", "GET", "maxmemory"),
    "config|set": ("CONFIG", "SET", "maxmemory", "1"),
    "acl|dryrun": ("ACL", "DRYRUN", "default", "PING"),
}
_TOO_MUCH: dict[str, tuple[str, ...]] = {
    "flushall": ("FLUSHALL",),
    "shutdown": ("SHUTDOWN",),
    "eval": ("EVAL", "return 1", "0"),
    "debug": ("DEBUG", "SLEEP", "0"),
    "acl|setuser": ("ACL", "SETUSER", "x"),
    "replicaof": ("REPLICAOF", "NO", "ONE"),
    "config|set": _DRY["config|set"],
    "flushdb": ("FLUSHDB",),
    "client|kill": _DRY["client|kill"],
    "failover": ("FAILOVER",),
    "any key": ("GET", "oncall-agent-may-not-read-this"),
}


class RedisSystem(System):
    """Every configured server; what one of them lacks is lacking."""

    name = "redis"
    drills = DRILLS

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._redis = Redis(settings)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._redis.close()

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Ask every server; the clock is that of the one which is furthest off."""
        names = list(self._redis.settings.servers)
        if not names:
            raise PermanentError("no server is configured in backends.redis")
        found = [await self._inspect(ctx, self._redis.place(name), actions) for name in names]
        now = ctx.clock.now()
        worst = max(found, key=lambda one: abs((one.server_time or now) - now))
        return Inspection(
            product=", ".join(sorted({one.product for one in found})),
            version=", ".join(sorted({one.version for one in found})),
            unsupported="; ".join(sorted({one.unsupported for one in found if one.unsupported})),
            identity=", ".join(sorted({one.identity for one in found})),
            server_time=worst.server_time,
            privileges=_merged(found),
            privileges_unknown=next((one.privileges_unknown for one in found if one.privileges_unknown), ""),
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give `ACL SETUSER` lines, one for each server that has key patterns of its own."""
        chosen = [action for action in actions if action in _COMMANDS]
        servers = self._redis.settings.servers
        lines = [_acl(server, chosen) for server in servers.values()] or [_acl(RedisServer(), chosen)]
        if "redis.failover" in chosen and any(server.sentinels for server in servers.values()):
            lines += ["# on each sentinel", _line("", (), _SENTINEL)]
        how = "Run it on the server and on each of its replicas by redis-cli, then ACL SAVE or keep it in the ACL file."
        return Grants(language="text", text="\n".join(dict.fromkeys(lines)), how_to_apply=how)

    async def _inspect(self, ctx: SystemContext, place: Place, actions: Sequence[str]) -> Inspection:
        info = await self._ask(ctx, place, lambda client: client.info(section="server"))
        product, version = version_of(info)
        seconds, microseconds = await self._ask(ctx, place, lambda client: client.time())
        inspection = Inspection(
            product=product,
            version=version,
            unsupported=unsupported(product, version),
            server_time=float(seconds) + float(microseconds) / 1e6,
        )
        return await self._privileges(ctx, place, actions, inspection)

    async def _privileges(
        self, ctx: SystemContext, place: Place, actions: Sequence[str], known: Inspection
    ) -> Inspection:
        needed = _needed(actions, place.server)
        try:
            user = str(await self._ask(ctx, place, lambda client: client.acl_whoami()))
            held = []
            for name, words in {**_TOO_MUCH, **{name: _words(name) for name in needed}}.items():
                may = await self._ask(ctx, place, _dry_run(user, words))
                held.append(Privilege(name, may, tuple(needed.get(name, ()))))
        except PermanentError as error:
            return replace(
                known, privileges_unknown=f"ACL DRYRUN (Redis 7) is needed to ask: {error.message}"
            )
        return replace(known, identity=f"{user}@{place.name}", privileges=tuple(held))

    async def _ask(self, ctx: SystemContext, place: Place, question: Any) -> Any:
        return await self._redis.ask(place, ctx.seconds_left, question)


def _acl(server: RedisServer, actions: Sequence[str]) -> str:
    patterns = [f"{MARK_PREFIX}*"] if any(action in _KEYS for action in actions) else []
    if "redis.unlink_keys" in actions:
        patterns += server.key_patterns
    commands = [*_PROBES, *(command for action in actions for command in _COMMANDS[action])]
    return _line(server.username, patterns, commands)


def _line(user: str, patterns: Sequence[str], commands: Sequence[str]) -> str:
    words = ["ACL", "SETUSER", user or "oncall-agent", "reset", "on", ">PASSWORD"]
    words += [f"~{pattern}" for pattern in patterns]
    words += [f"+{command}" for command in dict.fromkeys(commands)]
    return shlex.join(words)


def _needed(actions: Sequence[str], server: RedisServer) -> dict[str, list[str]]:
    """Give each privilege with the actions that need it; probes and inspection need theirs always."""
    needed: dict[str, list[str]] = {name: ["inspect"] for name in _PROBES}
    for action in actions:
        for name in _COMMANDS.get(action, ()):
            needed.setdefault(name, []).append(action)
    if "redis.unlink_keys" in actions:
        for pattern in server.key_patterns:
            needed[f"unlink {pattern}"] = ["redis.unlink_keys"]
    return needed


def _words(name: str) -> tuple[str, ...]:
    if name.startswith("unlink "):
        return ("UNLINK", name.removeprefix("unlink ").replace("*", "x"))
    if name == "unlink":
        return ("UNLINK", f"{MARK_PREFIX}x")
    return _DRY.get(name) or _TOO_MUCH.get(name) or tuple(name.upper().split("|"))


def _dry_run(user: str, words: Sequence[str]) -> Any:
    async def run(client: Client) -> bool:
        return str(await client.execute_command("ACL", "DRYRUN", user, *words)) == "OK"

    return run


def _merged(found: Sequence[Inspection]) -> tuple[Privilege, ...]:
    """Join the servers' privileges: held is what all hold that need it, too much what any holds."""
    merged: dict[str, Privilege] = {}
    for one in (privilege for inspection in found for privilege in inspection.privileges):
        known = merged.get(one.name, one)
        needed_by = tuple(dict.fromkeys((*known.needed_by, *one.needed_by)))
        held = known.held and one.held if needed_by else known.held or one.held
        merged[one.name] = Privilege(one.name, held, needed_by)
    return tuple(merged.values())
