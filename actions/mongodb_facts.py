"""What MongoDB says of itself, read into plain values; nothing here asks anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oncall_agent.models import JsonObject

OLDEST = (5, 0)
_OWN_DATABASES = ("admin", "config", "local")
_INTERNAL_COMMANDS = (
    "hello",
    "isMaster",
    "ismaster",
    "createIndexes",
    "applyOps",
    "compact",
    "fsync",
    "moveChunk",
    "moveRange",
    "killOp",
)
_MIGRATING = ("moveChunk", "moveRange", "_shardsvrMoveRange", "_recvChunkStart")
_SECONDARY = 2
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of `$currentOp`. An id is never given twice while its server lives."""

    id: int | str
    namespace: str
    seconds: int
    command: str
    user: str
    application: str
    comment: str
    is_internal: bool

    def as_facts(self) -> dict[str, Any]:
        """Give what may be shown: never the command's own text."""
        return {"id": str(self.id), "namespace": self.namespace, "seconds": self.seconds, "op": self.command}


def operations_of(listed: Iterable[Mapping[str, Any]]) -> tuple[Operation, ...]:
    """Read the running operations."""
    return tuple(_operation(one) for one in listed if one.get("active") and one.get("opid") is not None)


def _operation(one: Mapping[str, Any]) -> Operation:
    command = one.get("command")
    words = command if isinstance(command, Mapping) else {}
    return Operation(
        id=one["opid"],
        namespace=str(one.get("ns") or "")[:_MAX_TEXT],
        seconds=int(one.get("secs_running") or 0),
        command=str(next(iter(words), "") or one.get("op") or ""),
        user=next(iter(_users(one)), ""),
        application=str(one.get("appName") or ""),
        comment=str(words.get("comment") or "")[:_MAX_TEXT],
        is_internal=_is_internal(one, words),
    )


def _users(one: Mapping[str, Any]) -> list[str]:
    return [str(user.get("user")) for user in one.get("effectiveUsers") or [] if isinstance(user, Mapping)]


def _is_internal(one: Mapping[str, Any], words: Mapping[str, Any]) -> bool:
    """Say whether the server works for itself: replication, index builds, chunk moves, its own threads."""
    name = str(next(iter(words), ""))
    database = str(one.get("ns") or "").partition(".")[0]
    return (
        not str(one.get("desc", "conn")).startswith("conn")
        or one.get("op") == "none"
        or "__system" in _users(one)
        or database in _OWN_DATABASES
        or name in _INTERNAL_COMMANDS
        or name.startswith(("_", "replSet"))
        or str(one.get("msg", "")).startswith("Index Build")
    )


def is_migrating(listed: Iterable[Mapping[str, Any]]) -> bool:
    """Say whether a chunk is being moved."""
    return any(
        next(iter(one.get("command") or {}), "") in _MIGRATING
        or "MoveChunk" in str(one.get("desc", ""))
        or str(one.get("desc", "")).startswith("migrat")
        for one in listed
    )


@dataclass(frozen=True, slots=True)
class Transaction:
    """One open transaction of a session; `session` and `owner` are as the server gave them."""

    session: Any
    owner: Any
    number: int
    open_seconds: float
    user: str
    application: str
    is_prepared: bool

    @property
    def id(self) -> str:
        """What tells it from every other, also from the next one of the same session."""
        return f"{self.session}:{self.number}"

    def as_facts(self) -> dict[str, Any]:
        """Give what may be shown."""
        return {"id": self.id, "open_seconds": round(self.open_seconds, 1), "application": self.application}


def transactions_of(listed: Iterable[Mapping[str, Any]]) -> tuple[Transaction, ...]:
    """Read the open transactions."""
    found = []
    for one in listed:
        opened, session = one.get("transaction"), one.get("lsid")
        if isinstance(opened, Mapping) and isinstance(session, Mapping):
            found.append(_transaction(one, opened, session))
    return tuple(found)


def _transaction(
    one: Mapping[str, Any], opened: Mapping[str, Any], session: Mapping[str, Any]
) -> Transaction:
    return Transaction(
        session=session.get("id"),
        owner=session.get("uid"),
        number=int((opened.get("parameters") or {}).get("txnNumber") or 0),
        open_seconds=float(opened.get("timeOpenMicros") or 0) / 1e6,
        user=next(iter(_users(one)), ""),
        application=str(one.get("appName") or ""),
        is_prepared=opened.get("timePreparedMicros") is not None,
    )


@dataclass(frozen=True, slots=True)
class Member:
    """One member as `replSetGetStatus` sees it."""

    host: str
    state: int
    is_healthy: bool
    applied_at: float
    elected_at: float | None

    @property
    def is_secondary(self) -> bool:
        """Whether it follows and answers."""
        return self.is_healthy and self.state == _SECONDARY


def members_of(status: Mapping[str, Any]) -> tuple[Member, ...]:
    """Read `replSetGetStatus`."""
    return tuple(
        Member(
            host=str(one.get("name")),
            state=int(one.get("state") or 0),
            is_healthy=bool(one.get("health")),
            applied_at=_epoch(one.get("optimeDate")) or 0.0,
            elected_at=_epoch(one.get("electionDate")),
        )
        for one in status.get("members") or []
    )


def _epoch(value: Any) -> float | None:
    return value.timestamp() if isinstance(value, datetime) else None


def server_time_of(hello: Mapping[str, Any]) -> float | None:
    """Give the server's clock, epoch seconds."""
    return _epoch(hello.get("localTime"))


def is_router(hello: Mapping[str, Any]) -> bool:
    """Say whether it is a router of a sharded cluster."""
    return hello.get("msg") == "isdbgrid"


def version_of(build: Mapping[str, Any]) -> tuple[str, str]:
    """Give product and version, honestly: what answers MongoDB's protocol need not be MongoDB."""
    ferret = build.get("ferretdb")
    if isinstance(ferret, Mapping):
        return "MongoDB-compatible (FerretDB)", str(ferret.get("version", "")).removeprefix("v")
    return "MongoDB", str(build.get("version", ""))


def unsupported(product: str, version: str) -> str:
    """Give why this version is not supported, or an empty text."""
    if product != "MongoDB":
        return ""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    is_old = tuple(numbers) < OLDEST
    return f"MongoDB {version} is older than 5.0" if is_old else ""


def dirty_share_of(status: JsonObject) -> float | None:
    """Give which share of the cache holds what is not yet written; None where it is not told."""
    cache = (status.get("wiredTiger") or {}).get("cache") or {}
    limit, dirty = cache.get("maximum bytes configured"), cache.get("tracked dirty bytes in the cache")
    return dirty / limit if limit and dirty is not None else None


def status_facts(status: JsonObject) -> dict[str, Any]:
    """Give the few figures of `serverStatus` that tell how a server is."""
    connections = status.get("connections") or {}
    found = {
        "connections": connections.get("current"),
        "connections_left": connections.get("available"),
        "active_clients": active_clients_of(status),
        "waiting_clients": ((status.get("globalLock") or {}).get("currentQueue") or {}).get("total"),
        "open_transactions": (status.get("transactions") or {}).get("currentOpen"),
        "dirty_share": dirty_share_of(status),
        "uptime_seconds": status.get("uptime"),
    }
    return {key: value for key, value in found.items() if value is not None}


def active_clients_of(status: JsonObject) -> int | None:
    """Give how many clients are being served; None where it is not told."""
    total = ((status.get("globalLock") or {}).get("activeClients") or {}).get("total")
    return None if total is None else int(total)
