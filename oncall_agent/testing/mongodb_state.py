"""What the fake MongoDB knows and does, command by command; its sockets are in `mongodb`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from bson.binary import Binary

from oncall_agent.contract import Clock

Document = dict[str, Any]
_EFFECTS = (
    "killOp",
    "killAllSessionsByPattern",
    "setParameter",
    "balancerStart",
    "balancerStop",
    "flushRouterConfig",
    "compact",
    "replSetStepDown",
)
_VERSION = "8.0.4"
_GIB = 1_073_741_824


class RefusedError(Exception):
    """The fake refuses a command with this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class MongoState:
    """One state between all members; a command is a method `_do_<its name in small letters>`.

    Attributes:
        effects: how often something was changed.
        operations: lines of `$currentOp`, with `started` (epoch seconds) instead of `secs_running`.
        transactions: open ones: session id -> when it was begun.
        away, frozen: members that do not answer; members that stand for no election.
        files: of each member: size and free bytes of the collection's file.
    """

    def __init__(self, clock: Clock, members: int, *, is_router: bool) -> None:
        self.clock, self.is_router = clock, is_router
        self.hosts = [""] * members
        self.effects, self.connected = 0, 0
        self.operations: list[Document] = []
        self.transactions: dict[uuid.UUID, float] = {}
        self.prepared, self.applications = set[uuid.UUID](), dict[uuid.UUID, str]()
        self.parameters: Document = {"cursorTimeoutMillis": 600_000, "ttlMonitorEnabled": True}
        self.profile: Document = {"was": 0, "slowms": 100}
        self.balancer, self.is_stale, self.dirty_bytes, self.clients = "full", False, 0, 1
        self.primary, self.elected_at = 0, clock.now() - 86_400
        self.lags, self.priorities = [0.0] * members, [1.0] * members
        self.away, self.frozen = set[int](), set[int]()
        self.files = [{"storageSize": 4_096, "freeStorageSize": 0} for _ in range(members)]
        self.disk_free_bytes = 50 * _GIB

    def carry_out(self, member: int, name: str, document: Mapping[str, Any]) -> Document:
        """Do what a command says, as this member.

        Raises:
            RefusedError: the server would refuse it, too.
        """
        known: Callable[[int, Mapping[str, Any]], Document] | None = getattr(
            self, f"_do_{name.lower()}", None
        )
        if known is None:
            raise RefusedError(59, f"no such command: '{name}'")
        self.effects += name in _EFFECTS or (name == "profile" and document["profile"] >= 0)
        return known(member, document)

    # --- what it is ------------------------------------------------------------------------------------------

    def _do_hello(self, member: int, document: Mapping[str, Any]) -> Document:
        is_primary = self.is_router or member == self.primary
        role = {"msg": "isdbgrid"} if self.is_router else self._role(member)
        return {
            "isWritablePrimary": is_primary,
            "ismaster": is_primary,
            "helloOk": True,
            **role,
            "localTime": self._date(self.clock.now()),
            "maxBsonObjectSize": 16_777_216,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": 25,
        }

    _do_ismaster = _do_hello

    def _role(self, member: int) -> Document:
        is_primary = member == self.primary
        role = {"secondary": not is_primary, "setName": "shop", "setVersion": 1, "me": self.hosts[member]}
        return {**role, "hosts": list(self.hosts), "primary": self.hosts[self.primary]}

    def _do_ping(self, member: int, document: Mapping[str, Any]) -> Document:
        return {}

    _do_endsessions = _do_appendoplognote = _do_drop = _do_ping

    def _do_buildinfo(self, member: int, document: Mapping[str, Any]) -> Document:
        return {"version": _VERSION}

    def _do_serverstatus(self, member: int, document: Mapping[str, Any]) -> Document:
        cache = {
            "maximum bytes configured": _GIB,
            "tracked dirty bytes in the cache": self.dirty_bytes,
        }
        return {
            "connections": {"current": self.connected, "available": 800},
            "globalLock": {"activeClients": {"total": self.clients}, "currentQueue": {"total": 0}},
            "transactions": {"currentOpen": len(self.transactions)},
            "wiredTiger": {"cache": cache},
            "uptime": 86_400,
        }

    def _do_connectionstatus(self, member: int, document: Mapping[str, Any]) -> Document:
        cluster = ["inprog", "serverStatus", "killop", "shutdown"]
        held = [
            {"resource": {"cluster": True}, "actions": cluster},
            {"resource": {"db": "shop", "collection": ""}, "actions": ["enableProfiler", "dropDatabase"]},
        ]
        users = [{"user": "responder", "db": "admin"}]
        return {"authInfo": {"authenticatedUsers": users, "authenticatedUserPrivileges": held}}

    def add_operation(self, number: int | str, seconds: float, **fields: Any) -> None:
        """Let an operation of a client run since so many seconds."""
        known = {"type": "op", "active": True, "desc": f"conn{number}", "ns": "shop.orders", "op": "query"}
        command = {"find": "orders", "filter": {}}
        self.operations.append(
            {**known, "opid": number, "command": command, "started": self.clock.now() - seconds, **fields}
        )

    def open_transaction(self, seconds: float) -> uuid.UUID:
        """Let a transaction be open since so many seconds; it dirties a third of the cache."""
        session = uuid.uuid4()
        self.transactions[session] = self.clock.now() - seconds
        self.dirty_bytes = _GIB // 3
        return session

    def _do_aggregate(self, member: int, document: Mapping[str, Any]) -> Document:
        if "$currentOp" not in document["pipeline"][0]:
            raise RefusedError(40_324, "only $currentOp is known here")
        listed = [self._line(one) for one in self.operations] + [
            self._open_line(session, begun) for session, begun in self.transactions.items()
        ]
        return {"cursor": {"id": 0, "ns": "admin.$cmd.aggregate", "firstBatch": listed}}

    def _line(self, one: Document) -> Document:
        rest = {key: value for key, value in one.items() if key != "started"}
        return {**rest, "secs_running": int(self.clock.now() - one["started"])}

    def _open_line(self, session: uuid.UUID, begun: float) -> Document:
        micros = int((self.clock.now() - begun) * 1e6)
        opened: Document = {"parameters": {"txnNumber": 1}, "timeOpenMicros": micros}
        if session in self.prepared:
            opened["timePreparedMicros"] = 1
        lsid = {"id": Binary.from_uuid(session), "uid": b"\1" * 32}
        return {
            "type": "idleSession",
            "active": False,
            "lsid": lsid,
            "transaction": opened,
            "appName": self.applications.get(session, "shop"),
        }

    def _do_insert(self, member: int, document: Mapping[str, Any]) -> Document:
        return {"n": len(document["documents"])}

    def _do_update(self, member: int, document: Mapping[str, Any]) -> Document:
        if document.get("startTransaction"):
            session = document["lsid"]["id"].as_uuid()
            self.transactions[session] = self.clock.now()
            self.applications[session] = "oncall-agent"
        return {"n": 1, "nModified": 1}

    def _do_aborttransaction(self, member: int, document: Mapping[str, Any]) -> Document:
        if self.transactions.pop(document["lsid"]["id"].as_uuid(), None) is None:
            raise RefusedError(251, "no such transaction")
        return {}

    def _do_killop(self, member: int, document: Mapping[str, Any]) -> Document:
        self.operations = [one for one in self.operations if one["opid"] != document["op"]]
        return {"info": "attempting to kill op"}

    def _do_killallsessionsbypattern(self, member: int, document: Mapping[str, Any]) -> Document:
        for pattern in document["killAllSessionsByPattern"]:
            self.transactions.pop(pattern["lsid"]["id"].as_uuid(), None)
        self.dirty_bytes = _GIB // 3 if self.transactions else 0
        return {}

    def _do_getparameter(self, member: int, document: Mapping[str, Any]) -> Document:
        if not (found := {key: self.parameters[key] for key in document if key in self.parameters}):
            raise RefusedError(72, "no option found to get")
        return found

    def _do_setparameter(self, member: int, document: Mapping[str, Any]) -> Document:
        self.parameters |= {key: value for key, value in document.items() if key in self.parameters}
        return {}

    def _do_profile(self, member: int, document: Mapping[str, Any]) -> Document:
        before = dict(self.profile)
        if document["profile"] >= 0:
            self.profile = {
                "was": document["profile"],
                "slowms": document.get("slowms", before["slowms"]),
            }
        return before

    # --- the replica set ---------------------------------------------------------------------------------------

    def _do_replsetgetstatus(self, member: int, document: Mapping[str, Any]) -> Document:
        return {"set": "shop", "members": [self._member(number) for number, _ in enumerate(self.hosts)]}

    def _member(self, number: int) -> Document:
        is_up = number not in self.away
        found: Document = {"name": self.hosts[number], "health": float(is_up), "state": 2 if is_up else 8}
        if number == self.primary and is_up:
            found |= {"state": 1, "electionDate": self._date(self.elected_at)}
        return {**found, "optimeDate": self._date(self.clock.now() - self.lags[number])}

    def _do_replsetgetconfig(self, member: int, document: Mapping[str, Any]) -> Document:
        members = [
            {"_id": number, "host": host, "priority": self.priorities[number], "votes": 1}
            for number, host in enumerate(self.hosts)
        ]
        return {"config": {"_id": "shop", "members": members}}

    def _do_replsetstepdown(self, member: int, document: Mapping[str, Any]) -> Document:
        if member != self.primary:
            raise RefusedError(10_107, "not primary so can't step down")
        self.frozen.add(member)
        able = [
            number
            for number, priority in enumerate(self.priorities)
            if priority > 0 and number not in self.frozen | self.away
        ]
        if not able:
            raise RefusedError(262, "No electable secondaries caught up")
        self.primary, self.elected_at = able[0], self.clock.now()
        return {}

    def _do_replsetfreeze(self, member: int, document: Mapping[str, Any]) -> Document:
        (self.frozen.add if document["replSetFreeze"] else self.frozen.discard)(member)
        return {}

    def _do_collstats(self, member: int, document: Mapping[str, Any]) -> Document:
        return dict(self.files[member])

    def _do_dbstats(self, member: int, document: Mapping[str, Any]) -> Document:
        return {"fsTotalSize": 100 * _GIB, "fsUsedSize": 100 * _GIB - self.disk_free_bytes}

    def _do_compact(self, member: int, document: Mapping[str, Any]) -> Document:
        file = self.files[member]
        file["storageSize"] -= file["freeStorageSize"]
        file["freeStorageSize"] = 0
        return {}

    def _do_balancerstatus(self, member: int, document: Mapping[str, Any]) -> Document:
        self._need_router()
        return {"mode": self.balancer, "inBalancerRound": False}

    def _do_balancerstop(self, member: int, document: Mapping[str, Any]) -> Document:
        self._need_router()
        self.balancer = "off"
        return {}

    def _do_balancerstart(self, member: int, document: Mapping[str, Any]) -> Document:
        self._need_router()
        self.balancer = "full"
        return {}

    def _do_flushrouterconfig(self, member: int, document: Mapping[str, Any]) -> Document:
        self._need_router()
        self.is_stale = False
        return {"flushed": True}

    def _do_listindexes(self, member: int, document: Mapping[str, Any]) -> Document:
        if self.is_stale:
            raise RefusedError(13_388, "stale config for shop.orders")
        return {"cursor": {"id": 0, "ns": "shop.orders", "firstBatch": []}}

    def _need_router(self) -> None:
        if not self.is_router:
            raise RefusedError(59, "no such command on a member of a replica set")

    def _date(self, at: float) -> datetime:
        return datetime.fromtimestamp(at, UTC)
