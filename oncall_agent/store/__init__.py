"""The durable store: queue, ledger, policy state and audit in one database, one transaction per change.

One writer thread commits what many callers hand in at once (group commit); readers never wait for it.
SQLite and PostgreSQL run the same statements.
"""

from oncall_agent.store.feed import Feed, Subscription
from oncall_agent.store.ids import new_id
from oncall_agent.store.store import Store
from oncall_agent.store.values import (
    AttemptDetail,
    AuditReport,
    AuditRow,
    BeginLimits,
    Change,
    Claimed,
    Conservation,
    ControlChange,
    FeedItem,
    Finished,
    IncidentDetail,
    Move,
    Page,
    StoredAlert,
    StoredDecision,
    StoreStats,
    TimelineEntry,
)

__all__ = [
    "AttemptDetail",
    "AuditReport",
    "AuditRow",
    "BeginLimits",
    "Change",
    "Claimed",
    "Conservation",
    "ControlChange",
    "Feed",
    "FeedItem",
    "Finished",
    "IncidentDetail",
    "Move",
    "Page",
    "Store",
    "StoreStats",
    "StoredAlert",
    "StoredDecision",
    "Subscription",
    "TimelineEntry",
    "new_id",
]
