"""Accepting alerts: look up what is known of them, decide (`rules.grouping`), write it down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, select, update

from oncall_agent.errors import QueueFullError
from oncall_agent.models import AcceptedAlert, AlertStatus, IncidentState, PlacedAlert
from oncall_agent.rules.grouping import Grouped, Known, KnownAlert, KnownIncident, group, signal_of
from oncall_agent.settings.model import FlapSettings, GroupingSettings
from oncall_agent.store.codec import clean, dump
from oncall_agent.store.ids import new_id
from oncall_agent.store.past import closed_openings
from oncall_agent.store.rows import new_alert_row, new_incident_row
from oncall_agent.store.schema import alerts, incidents, state_is, words
from oncall_agent.store.statement import Row, Statement, each, insert_into
from oncall_agent.store.unit import Unit
from oncall_agent.store.values import FeedItem

_I, _A = incidents.c, alerts.c
_COUNTS = (_I.id, _I.key, _I.closed_at, _I.alert_count, _I.firing_count, _I.priority, _I.state)
_signals, _keys, _ids = each("signals"), each("keys"), each("ids")

_KNOWN_ALERTS = Statement(
    select(_A.signal, _A.status, _A.id, _A.incident_id).where(_A.signal.in_(select(_signals.c.value)))
)
_OPEN = Statement(
    select(*_COUNTS).where(_I.key.in_(select(_keys.c.value)), _I.closed_at.is_(None)).with_for_update()
)
_ESCALATED = Statement(
    select(*_COUNTS)
    .where(
        _I.key.in_(select(_keys.c.value)),
        state_is("escalated"),
        _I.closed_at >= bindparam("since"),
        _I.firing_count > 0,
    )
    .with_for_update()
)
_BY_ID = Statement(
    select(*_COUNTS)
    .where(_I.id.in_(select(_ids.c.value)), _I.state.not_in(words("resolved", "dead_lettered")))
    .with_for_update()
)
_NEW_ALERT, _NEW_INCIDENT = insert_into(alerts), insert_into(incidents)
_REPEAT = Statement(
    update(alerts)
    .where(_A.signal == bindparam("of"), _A.status == bindparam("said"))
    .values(repeat_count=_A.repeat_count + bindparam("times"), last_seen_at=bindparam("at"))
)
_COUNT = Statement(
    update(incidents)
    .where(_I.id == bindparam("of"))
    .values(
        alert_count=bindparam("alerts"),
        firing_count=bindparam("firing"),
        updated_at=bindparam("at"),
    )
)
_LOUDER = Statement(update(incidents).where(_I.id == bindparam("of")).values(priority=bindparam("loud")))
_WAKE = Statement(
    update(incidents).where(_I.id == bindparam("of"), state_is("parked")).values(run_after=bindparam("at"))
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """The alerts of one request."""

    placed: Sequence[PlacedAlert]
    now: float


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Writes arrivals.

    Attributes:
        max_open_incidents: a request that would open more is refused whole.
    """

    flap: FlapSettings
    grouping: GroupingSettings
    max_open_incidents: int

    def __call__(self, unit: Unit, arrivals: Sequence[Arrival]) -> list[list[AcceptedAlert] | QueueFullError]:
        """Write all arrivals of one transaction; one answer each."""
        signed = [[(clean(signal_of(item.alert)), item) for item in arrival.placed] for arrival in arrivals]
        now = max((arrival.now for arrival in arrivals), default=0.0)
        board = self._look_up(unit, [pair for pairs in signed for pair in pairs], now)
        room = self.max_open_incidents - unit.open_incidents()
        answers: list[list[AcceptedAlert] | QueueFullError] = []
        for arrival, pairs in zip(arrivals, signed, strict=True):
            grouped = group(pairs, board.known, flap=self.flap, new_id=new_id)
            if len(grouped.opened) > room:
                answers.append(QueueFullError(f"{self.max_open_incidents} incidents are open: repeat later"))
                continue
            room -= len(grouped.opened)
            board.take(grouped, arrival.now)
            answers.append(grouped.accepted)
        board.write(unit, now)
        return answers

    def _look_up(self, unit: Unit, signed: Sequence[tuple[str, PlacedAlert]], now: float) -> _Board:
        tx = unit.tx
        known = Known()
        for signal, status, alert_id, incident_id in tx.rows(
            _KNOWN_ALERTS, signals=dump([s for s, _ in signed])
        ):
            known.alerts[signal, status] = KnownAlert(alert_id, incident_id)
        board = _Board(known)
        keys = {p.incident_key for _, p in signed if p.alert.status is AlertStatus.FIRING}
        board.know(tx.rows(_OPEN, keys=dump(sorted(keys))) if keys else ())
        keys -= known.joinable.keys()
        if keys:
            wanted = dump(sorted(keys))
            since = now - self.grouping.merge_escalated_seconds
            board.know(tx.rows(_ESCALATED, keys=wanted, since=since))
            # None of them is open, so that those closed are all.
            known.openings.update(closed_openings(tx, wanted, now - self.flap.window_seconds))
        self._look_up_cleared(unit, board, signed)
        return board

    def _look_up_cleared(self, unit: Unit, board: _Board, signed: Sequence[tuple[str, PlacedAlert]]) -> None:
        """Learn of the incidents whose firing alerts are now said to be over."""
        known = board.known
        firing = (
            known.alerts.get((signal, AlertStatus.FIRING))
            for signal, placed in signed
            if placed.alert.status is AlertStatus.RESOLVED
        )
        ids = {row.incident_id for row in firing if row is not None and row.incident_id is not None}
        ids -= known.incidents.keys()
        if ids:
            board.know(unit.tx.rows(_BY_ID, ids=dump(sorted(ids))), joinable=False)


class _Board:
    """What is known, and what is to be written at the end of the transaction."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self._state: dict[str, str] = {}
        self._quiet: dict[str, float] = {}
        self._priority: dict[str, int] = {}
        self._touched: dict[str, None] = {}
        self._opened: list[tuple[str, PlacedAlert, bool, float]] = []
        self._alert_rows: list[Row] = []
        self._repeats: dict[tuple[str, str], tuple[int, float]] = {}
        self._accepted = 0

    def know(self, rows: Iterable[Row], *, joinable: bool = True) -> None:
        """Learn of stored incidents."""
        newest: dict[str, float] = {}
        for incident_id, key, closed_at, alert_count, firing_count, priority, state in rows:
            found = KnownIncident(incident_id, closed_at is None, alert_count, firing_count, priority)
            found = self.known.incidents.setdefault(incident_id, found)
            self._state[incident_id] = state
            self._priority[incident_id] = priority
            if joinable and (closed_at or 0.0) >= newest.get(key, 0.0):
                newest[key] = closed_at or 0.0
                self.known.joinable[key] = found

    def take(self, grouped: Grouped, now: float) -> None:
        """Note one request's decision."""
        known = self.known
        was_firing = {i: known.incidents[i].firing_count for i in grouped.deltas if i in known.incidents}
        known.learn(grouped)
        self._accepted += len(grouped.accepted)
        self._alert_rows.extend(
            new_alert_row(row.signal, row.placed, row.accepted, now) for row in grouped.stored
        )
        self._opened.extend((opening.id, opening.placed, opening.flapping, now) for opening in grouped.opened)
        for pair in grouped.repeats:
            self._repeats[pair] = (self._repeats.get(pair, (0, now))[0] + 1, now)
        for incident_id in grouped.deltas:
            self._touched[incident_id] = None
            if known.incidents[incident_id].firing_count > 0:
                self._quiet.pop(incident_id, None)
            elif was_firing.get(incident_id, 0) > 0:
                self._quiet[incident_id] = now

    def write(self, unit: Unit, now: float) -> None:
        """Write everything in few statements."""
        tx = unit.tx
        tx.insert(_NEW_ALERT, self._alert_rows)
        tx.many(
            _REPEAT,
            (
                {"of": signal, "said": status, "times": times, "at": at}
                for (signal, status), (times, at) in self._repeats.items()
            ),
        )
        fresh = self._write_opened(unit)
        self._write_touched(unit, [i for i in self._touched if i not in fresh], now)
        unit.count("accepted", self._accepted)

    def _write_opened(self, unit: Unit) -> set[str]:
        known = self.known.incidents
        rows = []
        for incident_id, placed, flapping, now in self._opened:
            has = known[incident_id]
            rows.append(
                new_incident_row(
                    incident_id,
                    placed,
                    now,
                    flapping=flapping,
                    alerts=has.alert_count,
                    firing=has.firing_count,
                    priority=has.priority,
                )
            )
            unit.news.append(FeedItem(incident_id, "queued", "incident.opened"))
        unit.tx.insert(_NEW_INCIDENT, rows)
        if rows:
            unit.count(f"state.{IncidentState.QUEUED}", len(rows))
            unit.has_work = True
        return {row[0] for row in rows}

    def _write_touched(self, unit: Unit, touched: Sequence[str], now: float) -> None:
        known = self.known.incidents
        tx = unit.tx
        tx.many(
            _COUNT,
            (
                {"of": i, "alerts": known[i].alert_count, "firing": known[i].firing_count, "at": now}
                for i in touched
            ),
        )
        louder = [i for i in touched if known[i].priority < self._priority[i]]
        tx.many(_LOUDER, ({"of": i, "loud": known[i].priority} for i in louder))
        woken = [i for i in touched if i in self._quiet and self._state[i] == "parked"]
        tx.many(_WAKE, ({"of": i, "at": self._quiet[i]} for i in woken))
        unit.has_work = unit.has_work or bool(woken)
        for i in touched:
            name = "incident.cleared" if i in self._quiet else "incident.merged"
            unit.news.append(FeedItem(i, self._state[i], name))
