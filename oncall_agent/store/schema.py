"""The tables, once for both databases: plain types only, and an index for every question that is asked often.

Alembic's revisions under `migrations/` build the same; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    literal_column,
)

REVISIONS = ("0001", "0002")
"""Every revision this program knows, oldest first; the last one is what it works with."""

metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself there


def _text(name: str, default: str | None = "") -> Column[str]:
    """A text column; a `default` of None makes it nullable."""
    return Column(name, Text, nullable=default is None)


incidents = Table(
    "incidents",
    metadata,
    Column("id", Text, primary_key=True),
    _text("key"),
    _text("alert_class"),
    _text("target"),
    _text("service"),
    Column("priority", Integer, nullable=False),  # of its worst alert; 0 is critical
    _text("state"),
    _text("phase"),
    _text("title"),
    _text("labels"),
    Column("opened_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("run_after", Double, nullable=False),
    Column("flapping", Integer, nullable=False),
    Column("alert_count", Integer, nullable=False),
    Column("firing_count", Integer, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("claim_count", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("closed_at", Double),
    _text("end_reason", None),
    Column("settle_until", Double),
    _text("lease_owner"),
    Column("lease_until", Double, nullable=False),
    _text("before", None),
)

_I = incidents.c


def words(*texts: str) -> list[ColumnElement[str]]:
    """Give fixed texts as literals for IN: bound lists are expanded at execution, which costs time."""
    return [literal_column(f"'{text}'") for text in texts]


def state_is(state: str) -> ColumnElement[bool]:
    """Give the condition of a partial index, as literal text: a bound value would keep the index from being used."""
    return _I.state == literal_column(f"'{state}'")


def _partial(name: str, *columns: Column[Any], where: ColumnElement[bool], unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


# One incident of a key is open at a time; the same index finds it.
_partial("uq_incidents_open", _I.key, where=_I.closed_at.is_(None), unique=True)
_partial("ix_incidents_escalated", _I.state, _I.key, _I.closed_at, where=state_is("escalated"))
# Keys are in no order, so that each entry dirties a page of its own: the past is indexed when it becomes the past, and
# the open incident of a key is found above.
_partial("ix_incidents_past", _I.key, _I.opened_at, where=_I.closed_at.is_not(None))
# The waiting rooms of the queue. The state comes first although the condition fixes it: without it SQLite
# prefers the index of the lists, and would read and sort the whole room for each claim.
_partial("ix_incidents_queued", _I.state, _I.priority, _I.opened_at, _I.id, where=state_is("queued"))
_partial("ix_incidents_blocked", _I.target, _I.priority, _I.opened_at, _I.id, where=state_is("blocked"))
_partial("ix_incidents_parked", _I.state, _I.run_after, _I.id, where=state_is("parked"))
_partial("ix_incidents_leased", _I.state, _I.lease_until, _I.id, where=state_is("running"))
_partial("ix_incidents_closed", _I.closed_at, _I.id, where=_I.closed_at.is_not(None))
# The lists; the first also carries the sums of the conservation equation.
Index("ix_incidents_state", _I.state, _I.id, _I.alert_count)
Index("ix_incidents_class", _I.alert_class, _I.id)
Index("ix_incidents_target", _I.target, _I.id)

alerts = Table(
    "alerts",
    metadata,
    # Start time first: new alerts land side by side at the end of the index, however many are stored.
    Column("signal", Text, primary_key=True),
    Column("status", Text, primary_key=True),
    _text("id"),
    _text("source"),
    _text("fingerprint"),
    _text("name"),
    _text("labels"),
    _text("annotations"),
    Column("starts_at", Double, nullable=False),
    Column("ends_at", Double),
    _text("severity"),
    _text("link"),
    _text("group_key"),
    _text("incident_id", None),
    _text("disposition"),
    _text("reason", None),
    Column("received_at", Double, nullable=False),
    Column("last_seen_at", Double, nullable=False),
    Column("repeat_count", Integer, nullable=False),
)
_A = alerts.c
_partial("ix_alerts_incident", _A.incident_id, _A.id, where=_A.incident_id.is_not(None))
_partial("ix_alerts_suppressed", _A.received_at, _A.reason, _A.incident_id, where=_A.incident_id.is_(None))
_partial("ix_alerts_repeated", _A.repeat_count, where=_A.repeat_count > literal_column("0"))

held_targets = Table(
    "held_targets",
    metadata,
    Column("target", Text, primary_key=True),
    _text("incident_id"),
    sqlite_with_rowid=False,
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True),
    _text("incident_id"),
    Column("at", Double, nullable=False),
    _text("action"),
    _text("body"),
    _text("context"),
)
Index("ix_decisions_incident", decisions.c.incident_id, decisions.c.id)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    _text("incident_id"),
    _text("decision_id"),
    Column("number", Integer, nullable=False),
    _text("action"),
    _text("target"),
    _text("service"),
    _text("params"),
    _text("idempotency_key"),
    Column("fence", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("instances", Integer, nullable=False),
    _text("receipt", None),
    _text("outcome", None),
    Column("finished_at", Double),
    _text("status", None),  # these two again from the outcome, so that the past is read without decoding it
    _text("reason", None),
    Column("reward", Double),
    _text("reward_terms", None),
    _text("before", None),
    _text("after", None),
)
Index("uq_attempts_key", attempts.c.idempotency_key, unique=True)
Index("ix_attempts_incident", attempts.c.incident_id, attempts.c.id)
Index("ix_attempts_target", attempts.c.target, attempts.c.started_at)
Index("ix_attempts_action", attempts.c.action, attempts.c.id)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Text, primary_key=True),
    _text("incident_id"),
    _text("decision_id"),
    _text("action"),
    _text("target"),
    _text("risk"),
    Column("asked_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("needed", Integer, nullable=False),
    _text("verdict"),
    _text("voters"),
    Column("decided_at", Double),
)
Index("ix_approvals_incident", approvals.c.incident_id, approvals.c.id)
_partial(
    "ix_approvals_pending",
    approvals.c.expires_at,
    approvals.c.id,
    where=approvals.c.verdict == literal_column("'pending'"),
)

timeline = Table(
    "timeline",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    _text("incident_id"),
    Column("at", Double, nullable=False),
    _text("entries"),
)
Index("ix_timeline_incident", timeline.c.incident_id, timeline.c.number)

usage = Table(
    "usage",
    metadata,
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("count", Integer, nullable=False),
    sqlite_with_rowid=False,
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

control = Table(
    "control",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    _text("body"),
)

audit = Table(
    "audit",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    _text("identity"),
    _text("verb"),
    _text("subject"),
    _text("detail"),
    _text("previous_hash"),
    _text("hash"),
)

policy_updates = Table(
    "policy_updates",
    metadata,
    Column("version", _Number, primary_key=True, autoincrement=False),
    _text("action"),
    _text("features"),
    Column("reward", Double, nullable=False),
    Column("prior", Double, nullable=False),
    Column("at", Double, nullable=False),
)

policy_checkpoints = Table(
    "policy_checkpoints",
    metadata,
    Column("version", _Number, primary_key=True, autoincrement=False),
    Column("blob", LargeBinary, nullable=False),
    Column("at", Double, nullable=False),
)
