"""What an alert is about: its class, its target, its service, and the incident that it belongs to.

Compiled once from the configuration; called for every alert that comes in, before anything is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from oncall_agent.models import UNCLASSIFIED, UNKNOWN_TARGET, Alert, Labels, PlacedAlert, Silence, Target
from oncall_agent.rules.matching import matches, silence_of
from oncall_agent.settings.model import Runbook, Settings, TargetSettings
from oncall_agent.settings.targets import labels_of, targets_of

_MAX_REMEMBERED = 4_096
_MAX_REMEMBERED_LENGTH = 1_024


class Placement:
    """Places alerts by the configuration; one instance per loaded configuration, used from one thread."""

    def __init__(self, settings: Settings, runbooks: Sequence[Runbook]) -> None:
        self._targets = targets_of(settings.targets)
        self._target_index = _TargetIndex(settings.targets)
        self._class_index = _ClassIndex(runbooks)
        self._grouping = settings.grouping.labels

    def place(self, alert: Alert, silences: Sequence[Silence], now: float) -> PlacedAlert:
        """Give the alert with its class, target, service, incident key and the silence that mutes it now."""
        labels = alert.labels
        target = self._targets.get(self._target_index.find(labels))
        alert_class = self._class_index.find(labels, target.kind if target else None)
        name = target.name if target else UNKNOWN_TARGET
        return PlacedAlert(
            alert=alert,
            alert_class=alert_class,
            target=name,
            service=target.service if target else labels.get("service", ""),
            incident_key=self._key(alert, alert_class, name),
            silence_id=silence_of(labels, silences, now) if silences else "",
        )

    def _key(self, alert: Alert, alert_class: str, target: str) -> str:
        labels = alert.labels
        parts = [alert_class, target, *(labels.get(label, "") for label in self._grouping)]
        if target == UNKNOWN_TARGET:
            parts += (alert.name, labels.get("service", ""), labels.get("instance", ""))
        elif alert_class == UNCLASSIFIED:
            parts.append(alert.name)
        return incident_key(parts)


def incident_key(parts: Iterable[str]) -> str:
    """Give the identity that these parts share: 32 hexadecimal digits, different for any other list of parts."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class _TargetIndex:
    """Finds the first target whose labels all equal: one dict look-up per distinct set of label names."""

    def __init__(self, targets: Sequence[TargetSettings]) -> None:
        tables: dict[tuple[str, ...], dict[tuple[str, ...], tuple[int, str]]] = {}
        for position, target in enumerate(targets):
            wanted = labels_of(target)
            names = tuple(sorted(wanted))
            tables.setdefault(names, {}).setdefault(tuple(wanted[n] for n in names), (position, target.name))
        self._tables = tuple(tables.items())

    def find(self, labels: Labels) -> str:
        found: tuple[int, str] | None = None
        for names, table in self._tables:
            hit = table.get(tuple([labels.get(name, "") for name in names]))
            if hit is not None and (found is None or hit < found):
                found = hit
        return found[1] if found else UNKNOWN_TARGET


class _ClassIndex:
    """Finds the class of the first matching runbook; remembers the answer for label values seen before.

    Only the labels that some runbook mentions are part of what is remembered, so that a storm of similar
    alerts costs one look-up each, however many runbooks and regular expressions there are.
    """

    def __init__(self, runbooks: Sequence[Runbook]) -> None:
        self._runbooks = tuple(runbooks)
        self._names = tuple(sorted({label for runbook in runbooks for label in runbook.match}))
        self._remembered: dict[tuple[str | None, ...], str] = {}

    def find(self, labels: Labels, kind: str | None) -> str:
        seen = (kind, *[labels.get(name, "") for name in self._names])
        known = self._remembered.get(seen)
        return known if known is not None else self._learn(seen, labels, kind)

    def _learn(self, seen: tuple[str | None, ...], labels: Labels, kind: str | None) -> str:
        found = next((r.alert_class for r in self._runbooks if is_about(r, labels, kind)), UNCLASSIFIED)
        if sum(len(value or "") for value in seen) <= _MAX_REMEMBERED_LENGTH:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[seen] = found
        return found


def is_about(runbook: Runbook, labels: Labels, kind: str | None) -> bool:
    """Say whether a runbook is about these labels on a target of that kind; None is an unknown target.

    The class of an alert about an unknown target is still worth knowing, so an unknown kind excludes nothing.
    """
    if kind is not None and runbook.target_kind is not None and runbook.target_kind != kind:
        return False
    return matches(labels, runbook.match)


def kind_of(target: str, targets: Mapping[str, Target]) -> str | None:
    """Give the kind of a configured target, None for an unknown one."""
    known = targets.get(target)
    return known.kind if known else None
