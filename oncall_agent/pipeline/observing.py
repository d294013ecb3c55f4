"""Reading the world before anything is decided."""

from __future__ import annotations

from dataclasses import replace

from oncall_agent.models import EndReason, Measurement
from oncall_agent.pipeline.run import End, Escalated, Resolved, Run, Services


async def observe(run: Run, services: Services) -> Run | End:
    """Measure the target; an incident that is healthy and cleared, or too old, ends here."""
    if run.outcome is not None:
        return run  # settled or recovered: what was measured before the attempt still counts as before
    measurement = await services.probes.measure(run.target)
    run = replace(run, measurement=measurement)
    if is_over(run, measurement):
        return Resolved(EndReason.SELF_HEALED)
    if services.clock.now() - run.incident.opened_at > services.settings.workers.max_age_seconds:
        return Escalated(EndReason.TOO_OLD)
    return run


def is_over(run: Run, measurement: Measurement) -> bool:
    """Say whether the trouble went away by itself: the sender cleared it and no probe contradicts.

    Probes that are blind contradict: silence of a probe is no evidence of health.
    """
    if not run.incident.is_cleared:
        return False
    has_probes = run.target is not None and bool(run.target.probes)
    return measurement.healthy is True or not has_probes
