"""The prober of MySQL and MariaDB: does it let us in, is there room, does anybody wait, does the replica keep up?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from actions.mysql_client import Conversation, MySQL
from actions.mysql_replica import Replica, replica_of
from actions.mysql_sessions import row_waits, threads, waiting_count
from actions.mysql_settings import MySQLSettings, place_of
from oncall_agent.contract import (
    Clock,
    Params,
    PermanentError,
    Prober,
    Reading,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject


class MySQLProbeParams(Params):
    """From where on a server counts as down though it answers."""

    max_connections_share: float = Field(0.95, gt=0, le=1)
    """Taken connections per `max_connections`."""
    max_wait_seconds: float = Field(30.0, gt=0)
    """Longest wait for a row lock or a table's metadata lock."""
    is_replica: bool = False
    """Whether it has to be a replica that runs."""
    max_lag_seconds: float = Field(300.0, ge=0)
    """How far a replica may be behind."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one look at the server gave."""

    used: int
    allowed: int
    working: int
    waiting: int
    wait_seconds: float

    @property
    def connections_share(self) -> float:
        """Taken connections per usable one."""
        return self.used / max(1, self.allowed)

    @property
    def waiting_share(self) -> float:
        """Threads that wait for a lock per thread that has something to do."""
        return self.waiting / max(1, self.working)


class MySQLProber(Prober):
    """Reads whether a server is up, how long an answer takes and how many threads are held up."""

    kind = "mysql"
    params = MySQLProbeParams

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._mysql = MySQL(MySQLSettings.model_validate(dict(settings)))

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Connect and look once. Who can't connect finds it down; who is refused can't tell."""
        began, place = clock.monotonic(), place_of(target, self._mysql.settings)

        def look(db: Conversation) -> tuple[Vitals, Replica | None]:
            return vitals_of(db), replica_of(db, "") if params.is_replica else None

        try:
            vitals, replica = await self._mysql.ask(run_blocking, place, timeout_seconds, look)
        except TransientError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        except PermanentError as error:
            raise TransientError(error.message) from error
        reason = complaint(vitals, replica, params)
        facts: dict[str, Any] = {**asdict(vitals), "wait_seconds": round(vitals.wait_seconds, 1)}
        if replica is not None:
            facts["replica"] = replica.as_facts()
        signals = Signals(
            up=not reason, response_seconds=clock.monotonic() - began, error_rate=vitals.waiting_share
        )
        return Reading(signals, {**facts, **({"reason": reason} if reason else {})})


def vitals_of(db: Conversation) -> Vitals:
    """Read how full the server is and who waits."""
    found, rows = [one for one in threads(db) if one.is_client], row_waits(db)
    queued = {one.waiting for one in rows} | {one.id for one in found if "metadata lock" in one.state.lower()}
    return Vitals(
        used=len(found) + 1,
        allowed=int((db.row("SELECT @@GLOBAL.max_connections AS allowed") or {})["allowed"]),
        working=sum(not one.is_idle or one.in_transaction for one in found),
        waiting=max(len(queued), waiting_count(rows)),
        wait_seconds=max((one.seconds for one in found if one.id in queued), default=0.0),
    )


def complaint(vitals: Vitals, replica: Replica | None, params: MySQLProbeParams) -> str:
    """Give why a server that answers counts as down, or an empty text."""
    if vitals.connections_share > params.max_connections_share:
        return f"{vitals.used} of {vitals.allowed} connections are taken"
    if vitals.wait_seconds > params.max_wait_seconds:
        return f"a thread has waited {vitals.wait_seconds:.0f} s for a lock"
    if not params.is_replica:
        return ""
    if replica is None or not replica.runs:
        return "the replica does not run"
    is_late = replica.lag is None or replica.lag > params.max_lag_seconds
    return "the replica is too far behind" if is_late else ""
