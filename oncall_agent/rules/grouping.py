"""What becomes of each accepted alert: a new incident, a part of a known one, or a named reason why not.

A pure decision. The store looks up what it already holds of the alerts (`Known`), asks `group`, and writes
down the answer in the same transaction. Alerts are taken in the order of the body, so that a firing and a
resolved alert of one request work as if they had come one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import pack
from typing import Final

from oncall_agent.models import (
    AcceptedAlert,
    Alert,
    AlertStatus,
    Disposition,
    PlacedAlert,
    SuppressReason,
)
from oncall_agent.settings.model import FlapSettings

_LONGEST_FINGERPRINT: Final = 128
_FIRING, _RESOLVED = AlertStatus.FIRING, AlertStatus.RESOLVED


def signal_of(alert: Alert) -> str:
    """Give the identity that a firing alert and its end share: start time, source, fingerprint.

    The start time comes first and sorts as text, so that an index over signals grows at its end.
    """
    mark = alert.fingerprint
    if len(mark) > _LONGEST_FINGERPRINT:
        mark = blake2b(mark.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return f"{pack('>d', alert.starts_at).hex()}|{alert.source}|{mark}"


@dataclass(frozen=True, slots=True)
class KnownAlert:
    """An alert that was accepted before."""

    id: str
    incident_id: str | None


Twin = KnownAlert | AcceptedAlert
"""The same alert as it came before, or earlier in this very transaction."""


@dataclass(slots=True)
class KnownIncident:
    """An incident that alerts can join or clear: open, or escalated. Changes as alerts are learnt."""

    id: str
    is_open: bool
    alert_count: int
    firing_count: int
    priority: int


@dataclass(slots=True)
class Known:
    """What the store holds of the alerts at hand.

    Attributes:
        alerts: by (signal, status).
        joinable: by incident key; the open incident, else the escalated one that is still mergeable.
        incidents: by id; those that the known alerts belong to and that are open or escalated.
        openings: by incident key; how often it was opened within the flap window.
    """

    alerts: dict[tuple[str, str], Twin] = field(default_factory=dict)
    joinable: dict[str, KnownIncident] = field(default_factory=dict)
    incidents: dict[str, KnownIncident] = field(default_factory=dict)
    openings: dict[str, int] = field(default_factory=dict)

    def learn(self, grouped: Grouped) -> None:
        """Take a decision as done, for the next request of the same transaction."""
        for row in grouped.stored:
            self.alerts[row.signal, row.placed.alert.status] = row.accepted
        for opening in grouped.opened:
            incident = KnownIncident(opening.id, is_open=True, alert_count=0, firing_count=0, priority=99)
            key = opening.placed.incident_key
            self.joinable[key] = self.incidents[opening.id] = incident
            self.openings[key] = self.openings.get(key, 0) + 1
        for incident_id, delta in grouped.deltas.items():
            incident = self.incidents[incident_id]
            incident.alert_count += delta.alerts
            incident.firing_count += delta.firing
            incident.priority = min(incident.priority, delta.priority)


@dataclass(frozen=True, slots=True)
class NewRow:
    """An alert to be stored."""

    signal: str
    placed: PlacedAlert
    accepted: AcceptedAlert


@dataclass(frozen=True, slots=True)
class Opening:
    """An incident to be opened by this alert."""

    id: str
    placed: PlacedAlert
    flapping: bool


@dataclass(slots=True)
class Delta:
    """How the alerts change one incident; `priority` is that of the loudest firing one."""

    alerts: int = 0
    firing: int = 0
    priority: int = 99


@dataclass(frozen=True, slots=True)
class Grouped:
    """The decision about one request: `accepted` in the order of the request, the rest is to be written.

    Attributes:
        repeats: (signal, status) of known alerts that came again.
        deltas: by incident id, the new ones included.
    """

    accepted: list[AcceptedAlert] = field(default_factory=list)
    stored: list[NewRow] = field(default_factory=list)
    repeats: list[tuple[str, str]] = field(default_factory=list)
    opened: list[Opening] = field(default_factory=list)
    deltas: dict[str, Delta] = field(default_factory=dict)


def group(
    placed: Sequence[tuple[str, PlacedAlert]],
    known: Known,
    *,
    flap: FlapSettings,
    new_id: Callable[[], str],
) -> Grouped:
    """Decide about the alerts of one request, each given with its signal (`signal_of`).

    `known` itself is not changed (`Known.learn` does that); `new_id` makes ids of alerts and incidents.
    """
    board = _Board(known, flap, new_id)
    for signal, alert in placed:
        board.place(signal, alert)
    return board.grouped


class _Board:
    """What is known plus what this request adds, so that a refused request leaves nothing behind."""

    def __init__(self, known: Known, flap: FlapSettings, new_id: Callable[[], str]) -> None:
        self._known, self._flap, self._new_id = known, flap, new_id
        self.grouped = Grouped()
        self._alerts: dict[tuple[str, str], Twin] = {}
        self._opened: dict[str, str] = {}

    def place(self, signal: str, placed: PlacedAlert) -> None:
        status = placed.alert.status
        twin = self._alert(signal, status)
        if twin is not None:
            self._repeat(signal, placed, twin)
        elif status is _FIRING:
            self._fire(signal, placed)
        else:
            self._clear(signal, placed)

    def _alert(self, signal: str, status: AlertStatus) -> Twin | None:
        key = (signal, status)
        return self._alerts.get(key) or self._known.alerts.get(key)

    def _repeat(self, signal: str, placed: PlacedAlert, twin: Twin) -> None:
        self.grouped.repeats.append((signal, placed.alert.status))
        self.grouped.accepted.append(
            AcceptedAlert(
                twin.id,
                placed.alert.fingerprint,
                Disposition.SUPPRESSED,
                twin.incident_id,
                SuppressReason.DUPLICATE,
            )
        )

    def _fire(self, signal: str, placed: PlacedAlert) -> None:
        if self._alert(signal, _RESOLVED) is not None:
            self._suppress(signal, placed, SuppressReason.STALE_FIRING)
        elif placed.silence_id:
            self._suppress(signal, placed, SuppressReason.SILENCED)
        elif (incident_id := self._joinable(placed.incident_key)) is not None:
            self._store(signal, placed, Disposition.MERGED, incident_id)
            self._count(incident_id, 1, placed.alert.severity.priority)
        else:
            self._open(signal, placed)

    def _open(self, signal: str, placed: PlacedAlert) -> None:
        key = placed.incident_key
        times = self._known.openings.get(key, 0)
        if times >= self._flap.count:
            self._suppress(signal, placed, SuppressReason.FLAPPING)
            return
        incident_id = self._new_id()
        self._opened[key] = incident_id
        self.grouped.opened.append(Opening(incident_id, placed, flapping=times >= self._flap.count - 1))
        self._store(signal, placed, Disposition.OPENED, incident_id)
        self._count(incident_id, 1, placed.alert.severity.priority)

    def _clear(self, signal: str, placed: PlacedAlert) -> None:
        firing = self._alert(signal, _FIRING)
        incident_id = None if firing is None else firing.incident_id
        if incident_id is not None and self._is_clearable(incident_id):
            self._store(signal, placed, Disposition.CLEARED, incident_id)
            self._count(incident_id, -1, 99)
        elif placed.silence_id:
            self._suppress(signal, placed, SuppressReason.SILENCED)
        else:
            self._suppress(signal, placed, SuppressReason.RESOLVED_WITHOUT_FIRING)

    def _is_clearable(self, incident_id: str) -> bool:
        return incident_id in self._known.incidents or incident_id in self.grouped.deltas

    def _joinable(self, key: str) -> str | None:
        opened = self._opened.get(key)
        if opened is not None:
            return opened
        incident = self._known.joinable.get(key)
        if incident is None:
            return None
        if incident.is_open or incident.firing_count + self._firing_delta(incident.id) > 0:
            return incident.id
        return None

    def _firing_delta(self, incident_id: str) -> int:
        delta = self.grouped.deltas.get(incident_id)
        return 0 if delta is None else delta.firing

    def _count(self, incident_id: str, firing: int, priority: int) -> None:
        delta = self.grouped.deltas.get(incident_id)
        if delta is None:
            delta = self.grouped.deltas[incident_id] = Delta()
        delta.alerts += 1
        delta.firing += firing
        delta.priority = min(delta.priority, priority)

    def _suppress(self, signal: str, placed: PlacedAlert, reason: SuppressReason) -> None:
        self._store(signal, placed, Disposition.SUPPRESSED, None, reason)

    def _store(
        self,
        signal: str,
        placed: PlacedAlert,
        disposition: Disposition,
        incident_id: str | None,
        reason: SuppressReason | None = None,
    ) -> None:
        alert = placed.alert
        accepted = AcceptedAlert(self._new_id(), alert.fingerprint, disposition, incident_id, reason)
        self._alerts[signal, alert.status] = accepted
        self.grouped.accepted.append(accepted)
        self.grouped.stored.append(NewRow(signal, placed, accepted))
