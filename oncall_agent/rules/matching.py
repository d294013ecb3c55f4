"""Labels against matchers: the one way in which runbooks, silences and incidents are compared."""

from __future__ import annotations

from collections.abc import Iterable

from oncall_agent.models import Incident, Labels, Silence
from oncall_agent.settings.patterns import is_pattern, pattern

MAX_VALUE_LENGTH = 4_096
"""A longer label value never matches a regular expression: alert text must not buy time by backtracking."""


def matches(labels: Labels, matchers: Labels) -> bool:
    """Say whether every matcher holds; a label that is absent counts as empty text.

    No matcher at all matches nothing: an empty silence must not mute everything.
    """
    if not matchers:
        return False
    for label, wanted in matchers.items():
        value = labels.get(label, "")
        if value == wanted:
            continue
        if not is_pattern(wanted) or not _matches_pattern(value, wanted):
            return False
    return True


def _matches_pattern(value: str, wanted: str) -> bool:
    if len(value) > MAX_VALUE_LENGTH:
        return False
    try:
        return pattern(wanted).fullmatch(value) is not None
    except ValueError:
        return False


def silence_of(labels: Labels, silences: Iterable[Silence], now: float) -> str:
    """Give the id of the first silence that stands now and matches, or empty text."""
    for silence in silences:
        if silence.starts_at <= now < silence.ends_at and matches(labels, silence.matchers):
            return silence.id
    return ""


def labels_of(incident: Incident) -> Labels:
    """Give an incident's labels for matching; its title stands in for a missing `alertname`."""
    if "alertname" in incident.labels:
        return incident.labels
    return {**incident.labels, "alertname": incident.title}
