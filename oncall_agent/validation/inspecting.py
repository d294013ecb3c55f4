"""What a system says when it is asked, turned into findings: reachable, version, credentials, privileges, clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from oncall_agent.contract import Inspection, PermanentError, System, SystemContext, TransientError
from oncall_agent.contract.secret import redact
from oncall_agent.settings.model import ValidationSettings
from oncall_agent.validation.results import Kind, Verdict

_MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class Judged:
    """One finding before it has an id and a place."""

    kind: Kind
    verdict: Verdict
    reason: str = ""
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered inspection: the wall clock at its start and how long it took."""

    inspection: Inspection
    asked_at: float
    seconds: float


async def inspected(system: System, ctx: SystemContext, actions: Sequence[str]) -> Sample | Judged:
    """Ask once; a system that does not answer is missing, one that refuses us has failed."""
    asked_at, began = ctx.clock.now(), ctx.clock.monotonic()
    try:
        async with asyncio.timeout(ctx.seconds_left):
            inspection = await system.inspect(ctx, actions)
    except TransientError as error:
        return Judged(Kind.REACHABILITY, Verdict.MISSING, said(error.message))
    except PermanentError as error:
        return Judged(Kind.CREDENTIALS, Verdict.FAILED, said(error.message))
    except TimeoutError:
        return Judged(Kind.REACHABILITY, Verdict.MISSING, "it did not answer in time")
    except Exception as error:  # noqa: BLE001 - foreign code: whatever it raises is a failed check, not a crash
        return Judged(Kind.REACHABILITY, Verdict.FAILED, said(f"{type(error).__name__}: {error}"))
    if inspection is None:
        return Judged(Kind.REACHABILITY, Verdict.SKIPPED, "each target answers for itself: see the drills")
    return Sample(inspection, asked_at, ctx.clock.monotonic() - began)


def judge(sample: Sample, limits: ValidationSettings) -> tuple[Judged, ...]:
    """Give the findings of a system that answered, but for its latency."""
    answer = sample.inspection
    return (
        Judged(Kind.REACHABILITY, Verdict.PASSED, f"{answer.product} answers"),
        _version(answer),
        Judged(Kind.CREDENTIALS, Verdict.PASSED, answer.identity or "it asks for none"),
        _privileges(answer),
        _clock(sample, limits),
    )


def _version(inspection: Inspection) -> Judged:
    said = f"{inspection.product} {inspection.version}".strip()
    if inspection.unsupported:
        return Judged(Kind.VERSION, Verdict.FAILED, f"{said}: {inspection.unsupported}")
    return Judged(Kind.VERSION, Verdict.PASSED, said)


def _privileges(inspection: Inspection) -> Judged:
    if inspection.privileges_unknown:
        return Judged(Kind.PRIVILEGES, Verdict.SKIPPED, inspection.privileges_unknown)
    lacking = [one for one in inspection.privileges if one.needed_by and not one.held]
    surplus = [one.name for one in inspection.privileges if one.held and not one.needed_by]
    facts: dict[str, object] = {
        "lacking": {one.name: list(one.needed_by) for one in lacking},
        "too_much": surplus,
        "held": [one.name for one in inspection.privileges if one.held and one.needed_by],
    }
    if lacking:
        named = "; ".join(f"{one.name} (for {', '.join(one.needed_by)})" for one in lacking)
        return Judged(Kind.PRIVILEGES, Verdict.FAILED, f"lacking: {named}"[:_MAX_REASON], facts)
    if surplus:
        return Judged(
            Kind.PRIVILEGES, Verdict.FINDING, f"too much: {', '.join(surplus)}"[:_MAX_REASON], facts
        )
    return Judged(Kind.PRIVILEGES, Verdict.PASSED, "exactly what is needed", facts)


def _clock(sample: Sample, limits: ValidationSettings) -> Judged:
    told = sample.inspection.server_time
    if told is None:
        return Judged(Kind.CLOCK, Verdict.SKIPPED, "it tells no time")
    # It read its clock at some moment of our waiting: only what lies outside of that is certainly skew.
    early, late = sample.asked_at - told, told - (sample.asked_at + sample.seconds)
    skew = max(0.0, early, late)
    verdict = Verdict.PASSED if skew <= limits.max_clock_skew_seconds else Verdict.FAILED
    reason = f"{skew:.2f} s off, {limits.max_clock_skew_seconds:g} s allowed"
    return Judged(Kind.CLOCK, verdict, reason, {"skew_seconds": round(skew, 3)})


def latency(seconds: Sequence[float], limits: ValidationSettings) -> Judged:
    """Judge how long the answers took."""
    slowest = max(seconds)
    verdict = Verdict.PASSED if slowest <= limits.max_latency_seconds else Verdict.FAILED
    reason = f"slowest of {len(seconds)}: {slowest:.3f} s, {limits.max_latency_seconds:g} s allowed"
    return Judged(Kind.LATENCY, verdict, reason, {"seconds": [round(one, 4) for one in seconds]})


def said(message: str) -> str:
    """Give what a backend said, without secrets and bounded."""
    return redact(message)[:_MAX_REASON]
