"""One transaction in the making: what it counts, and what is told once it is durable."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import bindparam, select

from oncall_agent.models import Control, IncidentState
from oncall_agent.store.schema import counters, words
from oncall_agent.store.statement import Statement, Tx, upsert
from oncall_agent.store.values import FeedItem

_ADD = upsert(counters, ["name"], lambda now, new: {"value": now.value + new.value})
_ALL = Statement(select(counters.c.name, counters.c.value))
_OPEN = Statement(
    select(counters.c.name, counters.c.value).where(
        counters.c.name.in_(words(*(f"state.{state}" for state in IncidentState if not state.is_final)))
    )
)
_ONE = Statement(select(counters.c.value).where(counters.c.name == bindparam("of")))


class Unit:
    """Collects beside the statements: counters, news for the watchers, whether there is work to claim."""

    __slots__ = ("changes", "control", "has_work", "news", "next_due", "tx")

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.changes: Counter[str] = Counter()
        self.news: list[FeedItem] = []
        self.has_work = False
        self.control: tuple[int, Control] | None = None

    def count(self, name: str, number: int = 1) -> None:
        """Add to a durable counter when the transaction ends."""
        self.changes[name] += number

    def moved(self, incident_id: str, old: str, new: str, name: str) -> None:
        """Count an incident from one state into another and tell the watchers."""
        if old != new:
            self.changes[f"state.{old}"] -= 1
            self.changes[f"state.{new}"] += 1
        self.news.append(FeedItem(incident_id, new, name))
        if new == IncidentState.QUEUED:
            self.has_work = True

    def flush(self) -> None:
        """Write the counters, last and in one order, so that two transactions can't wait for each other."""
        rows = [(name, number) for name, number in sorted(self.changes.items()) if number]
        self.tx.insert(_ADD, rows)
        self.changes.clear()

    def touch(self) -> None:
        """Write a counter as it is."""
        self.tx.insert(_ADD, [("accepted", 0)])

    def open_incidents(self) -> int:
        """Count the incidents that are open, those of this transaction included."""
        stored: dict[str, int] = dict(self.tx.rows(_OPEN))
        fresh = sum(
            number
            for name, number in self.changes.items()
            if name.startswith("state.") and not IncidentState(name[6:]).is_final
        )
        return int(sum(stored.values())) + fresh


def read_counters(tx: Tx) -> dict[str, int]:
    """Give all durable counters."""
    return {name: int(value) for name, value in tx.rows(_ALL)}


def read_counter(tx: Tx, name: str) -> int:
    """Give one durable counter, 0 if nothing was counted yet."""
    row = tx.row(_ONE, of=name)
    return 0 if row is None else int(row[0])
