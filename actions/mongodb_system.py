"""MongoDB as a system: what answers, what our user may do there, and the role that is just enough."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from actions.mongodb_client import Mongo, Place
from actions.mongodb_drills import DRILLS
from actions.mongodb_facts import server_time_of, unsupported, version_of
from oncall_agent.contract import (
    Grants,
    Inspection,
    PermanentError,
    Privilege,
    System,
    SystemContext,
    TransientError,
)
from oncall_agent.models import JsonObject

ROLE = "oncallAgent"
_CLUSTER = "cluster"
_EACH = "each of databases"
_NEEDS: dict[str, tuple[tuple[str, str], ...]] = {
    "mongodb.kill_op": ((_CLUSTER, "killop"),),
    "mongodb.kill_open_transactions": ((_CLUSTER, "killAnySession"),),
    "mongodb.step_down_primary": (
        (_CLUSTER, "replSetGetStatus"),
        (_CLUSTER, "replSetGetConfig"),
        (_CLUSTER, "replSetStateChange"),
        (_CLUSTER, "appendOplogNote"),
    ),
    "mongodb.compact_on_secondary": (
        (_CLUSTER, "replSetGetStatus"),
        (_EACH, "compact"),
        (_EACH, "collStats"),
        (_EACH, "dbStats"),
    ),
    "mongodb.set_parameter": ((_CLUSTER, "getParameter"), (_CLUSTER, "setParameter")),
    "mongodb.profiling": ((_EACH, "enableProfiler"),),
    "mongodb.balancer_stop": (("config.settings", "find"), ("config.settings", "update")),
    "mongodb.balancer_start": (("config.settings", "find"), ("config.settings", "update")),
    "mongodb.flush_router_config": ((_CLUSTER, "flushRouterConfig"), (_EACH, "listIndexes")),
}
_ALWAYS = ((_CLUSTER, "inprog"), (_CLUSTER, "serverStatus"))
_TOO_MUCH = (
    "anyAction",
    "shutdown",
    "dropDatabase",
    "dropCollection",
    "find",
    "insert",
    "update",
    "remove",
    "createUser",
    "grantRole",
    "killop",
    "setParameter",
    "replSetConfigure",
    "addShard",
    "fsync",
)


class MongoDBSystem(System):
    """Every configured member; what one of them lacks is lacking."""

    name = "mongodb"
    drills = DRILLS

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._mongo = Mongo(settings)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._mongo.close()

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Ask the first member of each deployment that answers; the clock is that of the one furthest off."""
        names = list(self._mongo.settings.deployments)
        if not names:
            raise PermanentError("no deployment is configured in backends.mongodb")
        found = [await self._inspect(ctx, name, actions) for name in names]
        now = ctx.clock.now()
        worst = max(found, key=lambda one: abs((one.server_time or now) - now))
        return Inspection(
            product=_all(one.product for one in found),
            version=_all(one.version for one in found),
            unsupported="; ".join(sorted({one.unsupported for one in found if one.unsupported})),
            identity=_all(one.identity for one in found),
            server_time=worst.server_time,
            privileges=merged(found),
            privileges_unknown=next((one.privileges_unknown for one in found if one.privileges_unknown), ""),
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give `db.createRole` and `db.createUser` for mongosh."""
        databases = sorted(
            {one for each in self._mongo.settings.deployments.values() for one in each.databases}
        )
        by_resource: dict[str, list[str]] = {}
        for resource, action in needed(actions, databases):
            by_resource.setdefault(resource, []).append(action)
        role = {
            "role": ROLE,
            "privileges": [
                {"resource": _resource(resource), "actions": sorted(held)}
                for resource, held in by_resource.items()
            ],
            "roles": [],
        }
        user = {"user": "oncall-agent", "pwd": "PASSWORD", "roles": [{"role": ROLE, "db": "admin"}]}
        text = f"db.createRole({json.dumps(role, indent=2)})\ndb.createUser({json.dumps(user, indent=2)})"
        how = "Run it by mongosh in the database admin, on the primary or at a router; profile and compact need it on the shards."
        return Grants(language="text", text=text, how_to_apply=how)

    async def _inspect(self, ctx: SystemContext, name: str, actions: Sequence[str]) -> Inspection:
        said = TransientError(f"MongoDB {name} does not answer")
        for place in self._mongo.places(name):
            try:
                return await self._ask(ctx, place, actions)
            except TransientError as error:
                said = error
        raise said

    async def _ask(self, ctx: SystemContext, place: Place, actions: Sequence[str]) -> Inspection:
        product, version = version_of(await self._command(ctx, place, {"buildInfo": 1}))
        hello = await self._command(ctx, place, {"hello": 1})
        status = await self._command(ctx, place, {"connectionStatus": 1, "showPrivileges": True})
        auth = status.get("authInfo") or {}
        users = [str(one.get("user")) for one in auth.get("authenticatedUsers") or []]
        databases = place.deployment.databases
        listed = auth.get("authenticatedUserPrivileges")
        return Inspection(
            product=product,
            version=version,
            unsupported=unsupported(product, version),
            identity=f"{_all(users) or 'nobody'}@{place.name}",
            server_time=server_time_of(hello),
            privileges=() if listed is None else privileges(listed, actions, databases),
            privileges_unknown="" if listed is not None else f"{product} does not say what a user may do",
        )

    async def _command(self, ctx: SystemContext, place: Place, document: dict[str, Any]) -> dict[str, Any]:
        return await self._mongo.command(place, document, seconds=ctx.seconds_left)


def needed(actions: Sequence[str], databases: Sequence[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Give (resource, action) -> what needs it; the probe and `inspect` need theirs always."""
    found: dict[tuple[str, str], tuple[str, ...]] = dict.fromkeys(_ALWAYS, ("inspect",))
    for action in actions:
        for resource, name in _NEEDS.get(action, ()):
            for one in databases if resource == _EACH else (resource,):
                found[one, name] = (*found.get((one, name), ()), action)
    return found


def privileges(
    listed: Sequence[Mapping[str, Any]], actions: Sequence[str], databases: Sequence[str]
) -> tuple[Privilege, ...]:
    """Compare what `connectionStatus` lists with what the actions need."""
    held = {
        (_named(one.get("resource") or {}), str(name)) for one in listed for name in one.get("actions", [])
    }
    wanted = needed(actions, databases)
    found = [
        Privilege(f"{name} on {resource}", _covers(held, resource, name), needed_by)
        for (resource, name), needed_by in wanted.items()
    ]
    too_much = sorted(
        (resource, name) for resource, name in held if name in _TOO_MUCH and (resource, name) not in wanted
    )
    return (*found, *(Privilege(f"{name} on {resource}", held=True) for resource, name in too_much))


def _covers(held: set[tuple[str, str]], resource: str, name: str) -> bool:
    wider = {resource, "anything"} | ({resource.partition(".")[0], "any database"} - {_CLUSTER})
    wider -= {"any database"} if resource == _CLUSTER else set()
    return any((one, action) in held for one in wider for action in (name, "anyAction"))


def _resource(name: str) -> dict[str, Any]:
    if name == _CLUSTER:
        return {"cluster": True}
    database, _, collection = name.partition(".")
    return {"db": database, "collection": collection}


def _named(resource: Mapping[str, Any]) -> str:
    """Give the name under which `needed` knows a resource."""
    if resource.get("cluster"):
        return _CLUSTER
    if resource.get("anyResource"):
        return "anything"
    database, collection = str(resource.get("db", "")), str(resource.get("collection", ""))
    if not database:
        return "any database"
    return f"{database}.{collection}" if collection else database


def merged(found: Sequence[Inspection]) -> tuple[Privilege, ...]:
    """Join the deployments' privileges: held is what all hold that need it, too much what any holds."""
    joined: dict[str, Privilege] = {}
    for one in (privilege for inspection in found for privilege in inspection.privileges):
        known = joined.get(one.name, one)
        needed_by = tuple(dict.fromkeys((*known.needed_by, *one.needed_by)))
        held = known.held and one.held if needed_by else known.held or one.held
        joined[one.name] = Privilege(one.name, held, needed_by)
    return tuple(joined.values())


def _all(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(words)))
