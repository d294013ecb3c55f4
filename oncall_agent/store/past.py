"""What a worker is told with a claim: the incident's own story so far, and what the guard must know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import bindparam, func, null, select

from oncall_agent.models import Attempt, History, IncidentState
from oncall_agent.store import codec
from oncall_agent.store import rows as read
from oncall_agent.store.codec import dump
from oncall_agent.store.schema import alerts, approvals, attempts, decisions, incidents
from oncall_agent.store.statement import Row, Statement, Tx, each
from oncall_agent.store.unit import Unit
from oncall_agent.store.usage import Usage
from oncall_agent.store.values import Claimed

_MOST_ALERTS: Final = 50
_MOST_ATTEMPTS: Final = 20
_I, _A, _T = incidents.c, alerts.c, attempts.c
_ids, _keys = each("ids"), each("keys")

_ALERTS = Statement(
    select(alerts).where(_A.incident_id == bindparam("of")).order_by(_A.id.desc()).limit(_MOST_ALERTS)
)
_OWN = Statement(
    select(attempts).where(_T.incident_id == bindparam("of")).order_by(_T.id.desc()).limit(_MOST_ATTEMPTS)
)
_UNREAD = ("receipt", "outcome", "reward_terms", "before", "after")
"""What `past_attempt` leaves alone: most of a row's bytes, and twenty rows are read with each claim."""
_ON_TARGET = Statement(
    select(*(null() if c.name in _UNREAD else c for c in attempts.columns))
    .where(_T.target == bindparam("of"))
    .order_by(_T.started_at.desc())
    .limit(_MOST_ATTEMPTS)
)
_DECISION = Statement(
    select(decisions.c.body)
    .where(decisions.c.incident_id == bindparam("of"))
    .order_by(decisions.c.id.desc())
    .limit(1)
)
_APPROVAL = Statement(
    select(approvals)
    .where(approvals.c.incident_id == bindparam("of"))
    .order_by(approvals.c.id.desc())
    .limit(1)
)
_CLOSED_OPENINGS = Statement(
    select(_I.key, func.count())
    .where(_I.key.in_(select(_keys.c.value)), _I.opened_at >= bindparam("since"), _I.closed_at.is_not(None))
    .group_by(_I.key)
)


def closed_openings(tx: Tx, keys: str, since: float) -> dict[str, int]:
    """Count by key (`keys` is a JSON list) the closed incidents that were opened since then."""
    return dict(tx.rows(_CLOSED_OPENINGS, keys=keys, since=since))


@dataclass(frozen=True, slots=True)
class Past:
    """Reads the past of claimed incidents."""

    usage: Usage
    flap_window_seconds: float

    def claimed(self, unit: Unit, taken: Sequence[Row], now: float) -> list[Claimed]:
        """Give the incidents as they are after the claim, each with its past."""
        if not taken:
            return []
        tx, open_incidents = unit.tx, unit.open_incidents()
        actions, services = self.usage.counts(tx, {row[4] for row in taken}, now)
        since = now - self.flap_window_seconds
        again = closed_openings(tx, dump(sorted({row[1] for row in taken})), since)
        return [
            self._one(
                tx,
                row,
                now,
                History(
                    attempts=self._on_target(tx, row[3]),
                    action_counts=actions,
                    service_count=services.get(row[4], 0),
                    open_incidents=open_incidents,
                    recurrences=again.get(row[1], 0) + (row[10] >= since),
                ),
            )
            for row in taken
        ]

    def _one(self, tx: Tx, row: Row, now: float, history: History) -> Claimed:
        incident = read.incident(row)
        incident = replace(
            incident,
            state=IncidentState.RUNNING,
            fence=incident.fence + 1,
            claim_count=incident.claim_count + 1,
            updated_at=now,
        )
        newest = tuple(read.alert(found) for found in tx.rows(_ALERTS, of=incident.id))
        if incident.fence == 1:
            return Claimed(incident, newest, history=history)
        decision = tx.row(_DECISION, of=incident.id)
        approval = tx.row(_APPROVAL, of=incident.id)
        return Claimed(
            incident,
            newest,
            attempts=self._own(tx, incident.id),
            decision=None if decision is None else codec.decision(decision[0]),
            approval=None if approval is None else read.approval(approval),
            history=history,
            before=read.before_of(row),
        )

    def _own(self, tx: Tx, incident_id: str) -> tuple[Attempt, ...]:
        return tuple(read.attempt(found) for found in reversed(tx.rows(_OWN, of=incident_id)))

    def _on_target(self, tx: Tx, target: str) -> tuple[Attempt, ...]:
        return tuple(read.past_attempt(found) for found in tx.rows(_ON_TARGET, of=target))
