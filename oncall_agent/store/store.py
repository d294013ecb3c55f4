"""The one object through which everything else reads and writes: `Store`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy import func, select

from oncall_agent.contract.clock import Clock
from oncall_agent.errors import OncallAgentError, QueueFullError, StoreError
from oncall_agent.models import AcceptedAlert, Approval, Attempt, Control, Incident, PlacedAlert, Refusal
from oncall_agent.settings.model import FlapSettings, GroupingSettings, StoreSettings
from oncall_agent.store import audit, lists, reads, verdicts
from oncall_agent.store.accept import Arrival
from oncall_agent.store.claim import Renewal, Wish
from oncall_agent.store.control import Switching, read_control
from oncall_agent.store.database import Database
from oncall_agent.store.feed import Feed
from oncall_agent.store.migrate import bring_up
from oncall_agent.store.operator import Order
from oncall_agent.store.parts import parts_of
from oncall_agent.store.policy_state import NEWEST, last_version, read_policy
from oncall_agent.store.readers import Readers
from oncall_agent.store.schema import incidents, state_is
from oncall_agent.store.statement import Statement, Tx
from oncall_agent.store.unit import Unit
from oncall_agent.store.values import (
    AuditReport,
    AuditRow,
    Change,
    Claimed,
    Conservation,
    ControlChange,
    IncidentDetail,
    Page,
    StoredDecision,
    StoreStats,
)
from oncall_agent.store.writer import Writer

if TYPE_CHECKING:
    from oncall_agent.policy.base import PolicyUpdate

T = TypeVar("T")
_FIRST_DUE = Statement(select(func.min(incidents.c.run_after)).where(state_is("parked")))
_FIRST_LAPSE = Statement(select(func.min(incidents.c.lease_until)).where(state_is("running")))


class Store:
    """Queue, ledger, policy state and audit in one database. Used on one event loop.

    Attributes:
        feed: tells watchers after each commit.
    """

    def __init__(self, database: Database, settings: StoreSettings, clock: Clock) -> None:
        self._database, self._settings, self._clock = database, settings, clock
        self._writer: Writer
        self._readers = Readers(database)
        self._control: tuple[int, Control] = (0, Control())
        self._work = asyncio.Event()
        self.feed = Feed()

    @classmethod
    async def open(
        cls,
        settings: StoreSettings,
        *,
        clock: Clock,
        flap: FlapSettings | None = None,
        grouping: GroupingSettings | None = None,
        rate_window_seconds: float = 3600.0,
    ) -> Store:
        """Open the database, bring its schema up to date and start the writer.

        Raises:
            ConfigError: the URL is wrong, the SQLite file is in use by another process, or the schema is newer.
            StoreError: the database does not answer.
        """
        database = await asyncio.to_thread(Database, settings.url)
        try:
            await asyncio.to_thread(bring_up, database)
            database.remember_file()
            store = cls(database, settings, clock)
            parts = parts_of(
                settings,
                flap=flap or FlapSettings(),
                grouping=grouping or GroupingSettings(),
                rate_window_seconds=rate_window_seconds,
                is_shared=not database.is_sqlite,
            )
            store._writer = Writer(database, parts, store._settle)
            store._writer.start()
            store._control = await store._read(read_control)
        except OncallAgentError:
            database.close()
            raise
        except Exception as error:
            database.close()
            raise StoreError(
                f"the database can't be opened: {type(error).__name__}: {error}"[:300]
            ) from error
        return store

    async def close(self) -> None:
        """Write what waits, then let the database go."""
        await self._writer.close()
        await asyncio.to_thread(self._readers.close)
        await asyncio.to_thread(self._database.close)

    # --- the queue ------------------------------------------------------------------------------------------

    def accept(self, placed: Sequence[PlacedAlert], now: float) -> asyncio.Future[list[AcceptedAlert]]:
        """Write alerts down and say what became of each, in their order; they are on disk then.

        Not a coroutine, so that it can be begun without a task.

        Raises:
            QueueFullError: too many incidents are open, or too many writes wait; nothing of it is stored.
            StoreError: the database does not answer; the alerts may or may not be stored, sending them again
                is safe.
        """
        self._check_room()
        return self._writer.submit("accept", Arrival(placed, now), 1 + len(placed))

    async def claim(self, worker: str, *, limit: int, lease_seconds: float, now: float) -> list[Claimed]:
        """Lease up to `limit` incidents, the worst and oldest first, at most one per target.

        The lease and its fence are durable when this returns.
        """
        claimed: list[Claimed] = await self._writer.submit("claim", Wish(worker, limit, lease_seconds, now))
        return claimed

    async def renew(self, leases: Sequence[tuple[str, int]], lease_seconds: float, now: float) -> set[str]:
        """Lengthen leases given as (incident id, fence); give the ids that are still held."""
        kept: set[str] = await self._writer.submit("renew", Renewal(leases, lease_seconds, now))
        return kept

    async def wait_for_work(self, timeout_seconds: float) -> None:
        """Return when something may be claimable, at the next timer or lapsed lease, or after the timeout."""
        if not self._work.is_set():
            with contextlib.suppress(StoreError):  # an outage is no reason to spin: wait for the timeout
                due = await self._read(_first_due)
                timeout_seconds = min(timeout_seconds, max(0.0, due - self._clock.now()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), timeout_seconds)
        self._work.clear()

    async def release_all(self, now: float) -> int:
        """Let all leases lapse at once: at the start of the only process that claims from this database."""
        number: int = await self._writer.submit("release", now)
        return number

    async def commit(self, change: Change) -> Refusal | None:
        """Write one change whole. A refusal means that its attempt may not begin: only the decision is written.

        Raises:
            StaleLeaseError: the fence is no longer the current one; nothing is written.
            ConflictError: an attempt with this idempotency key has begun before, or is unknown.
            StoreError: the database does not answer.
        """
        refusal: Refusal | None = await self._writer.submit("commit", change)
        return refusal

    # --- people -----------------------------------------------------------------------------------------------

    async def vote(self, subject_id: str, *, identity: str, approve: bool, now: float) -> Approval:
        """Count one person's answer to an approval, named by its own id or its incident's.

        Raises:
            NotFoundError: there is none.
            ConflictError: it is decided or expired, or this person has approved already.
        """
        self._check_room()
        approval: Approval = await self._writer.submit(
            "vote", verdicts.Vote(subject_id, identity, approve, now)
        )
        return approval

    async def expire_approvals(self, now: float) -> int:
        """Deny approvals whose time is over; give how many."""
        number: int = await self._writer.submit("expire", now)
        return number

    async def operator(
        self, incident_id: str, verb: Literal["escalate", "retry"], identity: str, now: float
    ) -> Incident:
        """Escalate an open incident to people, or queue a final one again.

        Raises:
            NotFoundError: there is no such incident.
            ConflictError: its state does not permit it.
        """
        self._check_room()
        incident: Incident = await self._writer.submit("operator", Order(incident_id, verb, identity, now))
        return incident

    @property
    def control(self) -> Control:
        """The switches as they are."""
        return self._control[1]

    async def set_control(self, change: ControlChange, identity: str, now: float) -> Control:
        """Change the switches."""
        self._check_room()
        control: Control = await self._writer.submit("control", Switching(change, identity, now))
        return control

    async def verify_audit(self) -> AuditReport:
        """Walk the hash chain of the audit log."""
        return await self._read(audit.verify)

    async def audit(self, limit: int = 100) -> tuple[AuditRow, ...]:
        """Give the last rows of the audit log, newest first."""
        return await self._read(partial(audit.newest, most=max(1, min(limit, lists.MOST))))

    # --- reading ----------------------------------------------------------------------------------------------

    async def incidents(
        self,
        state: str | None = None,
        alert_class: str | None = None,
        target: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Incident]:
        """Give a page of incidents, newest first; `state` may also be `open` or `final`.

        Raises:
            PayloadError: there is no such state.
        """
        states = lists.states_of(state)
        return await self._read(
            lambda tx: lists.list_incidents(
                tx, states, alert_class=alert_class, target=target, limit=limit, cursor=cursor
            )
        )

    async def incident(self, incident_id: str) -> IncidentDetail:
        """Give one incident with its story.

        Raises:
            NotFoundError: there is none with this id.
        """
        return await self._read(partial(reads.incident_detail, incident_id=incident_id))

    async def attempts(
        self,
        limit: int = 50,
        cursor: str | None = None,
        action: str | None = None,
        incident_id: str | None = None,
    ) -> Page[Attempt]:
        """Give a page of the ledger, newest first."""
        return await self._read(lambda tx: lists.list_attempts(tx, action, incident_id, limit, cursor))

    async def approvals(self, pending_only: bool = True) -> tuple[Approval, ...]:
        """Give the questions that are open, the most urgent first, or the newest of all."""
        return await self._read(lambda tx: lists.list_approvals(tx, pending_only=pending_only))

    async def decision(self, incident_id: str) -> StoredDecision | None:
        """Give the newest decision about an incident with its inputs."""
        return await self._read(partial(reads.latest_decision, incident_id=incident_id))

    async def conservation(self) -> Conservation:
        """Count every alert ever accepted."""
        return await self._read(reads.conservation)

    async def counts(self) -> Mapping[str, int]:
        """Give the number of incidents in each state."""
        return await self._read(reads.state_counts)

    @property
    def failing_for(self) -> str:
        """Say why the database does not answer, empty while it does; found out by every write, and by the writer itself."""
        return self._writer.failing_for

    async def stats(self) -> StoreStats:
        """Give how the store itself is doing; works during an outage too."""
        writer = self._writer
        return StoreStats(
            waiting=writer.waiting,
            committed=writer.committed,
            last_commit_seconds=writer.last_commit_seconds,
            failing_for=self.failing_for,
            database_bytes=self._database.size(),
        )

    # --- the policy -------------------------------------------------------------------------------------------

    async def load_policy(self) -> tuple[bytes | None, list[PolicyUpdate]]:
        """Give the newest checkpoint and the updates after it."""
        return await self.policy_at(NEWEST)

    async def policy_at(self, version: int) -> tuple[bytes | None, list[PolicyUpdate]]:
        """Give the newest checkpoint not after a version, and the updates from there to it."""
        return await self._read(partial(read_policy, version=version))

    async def policy_version(self) -> int:
        """Give the number of the newest update or checkpoint."""
        return await self._read(last_version)

    async def save_checkpoint(self, version: int, blob: bytes, now: float) -> None:
        """Keep the policy as it is at a version."""
        await self._writer.submit("checkpoint", (version, blob, now))

    async def housekeeping(self, now: float) -> int:
        """Delete one slice of what is too old; give how much it was, 0 when nothing is left to do."""
        number: int = await self._writer.submit("housekeeping", now)
        return number

    # --- inside -----------------------------------------------------------------------------------------------

    def _check_room(self) -> None:
        if self._writer.waiting >= self._settings.max_waiting_writes:
            raise QueueFullError(f"{self._writer.waiting} writes are waiting: repeat later")

    async def _read(self, question: Callable[[Tx], T]) -> T:
        if not self._database.is_memory:
            return await self._readers.read(question)
        # A database in memory has one connection, and the writer owns it.
        answer: T = await self._writer.submit("read", question)
        return answer

    def _settle(self, unit: Unit) -> None:
        """Take over what a durable unit brought; runs on the event loop."""
        if unit.control is not None and unit.control[0] > self._control[0]:
            self._control = unit.control
        if unit.has_work:
            self._work.set()
        if unit.news and self.feed.is_watched:
            self.feed.publish(unit.news)


def _first_due(tx: Tx) -> float:
    """Give when the next timer or lease ends, infinity if none is set."""
    found = [tx.row(statement) for statement in (_FIRST_DUE, _FIRST_LAPSE)]
    times: list[Any] = [row[0] for row in found if row is not None and row[0] is not None]
    return min(times, default=float("inf"))
