"""What could be done about an incident: the candidates of every runbook that matches, and the two that always stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from oncall_agent.models import Candidate, Incident, Target
from oncall_agent.rules.matching import labels_of
from oncall_agent.rules.placement import is_about, kind_of
from oncall_agent.settings.model import Runbook, RunbookCandidate

ESCALATE = "escalate.page"
WAIT = "watch.wait"
WAIT_PRIOR = -0.05
"""Slightly worse than asking a person at once: waiting has to earn its place."""


def matching(
    incident: Incident, runbooks: Iterable[Runbook], targets: Mapping[str, Target]
) -> tuple[Runbook, ...]:
    """Give the runbooks about an incident, in their own order."""
    labels, kind = labels_of(incident), kind_of(incident.target, targets)
    return tuple(runbook for runbook in runbooks if is_about(runbook, labels, kind))


def candidates(
    incident: Incident, runbooks: Sequence[Runbook], targets: Mapping[str, Target]
) -> tuple[Candidate, ...]:
    """Give what could be done, in the runbooks' order, each thing once; asking a person is always among it.

    For an unknown target only asking and waiting are offered: nothing outside the allow-list is touched.
    """
    found: dict[str, Candidate] = {}
    if incident.target in targets:
        for runbook in matching(incident, runbooks, targets):
            for offered in runbook.candidates:
                candidate = _candidate(offered, incident, runbook)
                found.setdefault(candidate.key, candidate)
    for standing in (
        Candidate(ESCALATE, incident.target),
        Candidate(WAIT, incident.target, prior=WAIT_PRIOR),
    ):
        found.setdefault(standing.key, standing)
    return tuple(found.values())


def settle_seconds(incident: Incident, runbooks: Iterable[Runbook], targets: Mapping[str, Target]) -> float:
    """Give how long a fix must hold: the first matching runbook that says so, else the target; 0 if unknown."""
    target = targets.get(incident.target)
    for runbook in matching(incident, runbooks, targets):
        if runbook.settle_seconds is not None:
            return runbook.settle_seconds
    return target.settle_seconds if target else 0.0


def _candidate(offered: RunbookCandidate, incident: Incident, runbook: Runbook) -> Candidate:
    return Candidate(
        action=offered.action,
        target=offered.target or incident.target,
        params=offered.params,
        prior=offered.prior,
        runbook=runbook.name,
    )
