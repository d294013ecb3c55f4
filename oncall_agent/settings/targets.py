"""Targets as the rest of the program sees them, with the defaults that depend on other keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from oncall_agent.models import Probe, Target
from oncall_agent.settings.model import ProbeSettings, TargetSettings


def labels_of(target: TargetSettings) -> Mapping[str, str]:
    """Give the labels that an alert about the target carries, all of them."""
    if target.match:
        return target.match
    return {"service": target.service} if target.service else {"target": target.name}


def target_of(target: TargetSettings) -> Target:
    """Give the configured target as a value of the domain."""
    return Target(
        name=target.name,
        kind=target.kind,
        service=target.service or target.name,
        address=target.address,
        labels=target.labels,
        target_class=target.target_class,
        tier=target.tier,
        protected=target.protected,
        instances=target.instances,
        settle_seconds=target.settle_seconds,
        settle_interval_seconds=target.settle_interval_seconds,
        healthy_score=target.healthy_score,
        probes=tuple(_probe_of(probe) for probe in target.probes),
    )


def targets_of(targets: Iterable[TargetSettings]) -> Mapping[str, Target]:
    """Give every target by name."""
    return {target.name: target_of(target) for target in targets}


def _probe_of(probe: ProbeSettings) -> Probe:
    return Probe(kind=probe.kind, params=dict(probe.model_extra or {}))
