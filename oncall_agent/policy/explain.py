"""Why this candidate: a sentence for people, and the proof that the decision can be computed again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from oncall_agent.errors import PolicyError
from oncall_agent.models import Autonomy, Decision, JsonObject, Permitted, Scored
from oncall_agent.policy.base import Choice, Policy
from oncall_agent.policy.context import Context
from oncall_agent.policy.features import SCHEMA, encode

TOP: Final = 3
"""Reasons named in a sentence."""
SHOWN: Final = 0.005
"""Smaller differences would read as 0.00."""
TOLERANCE: Final = 1e-9
"""Another machine's linear algebra may round differently: far below anything that matters."""


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Whether a stored decision is what its inputs give; `differences` name what is not, with both values."""

    equal: bool
    differences: tuple[str, ...] = ()


def rival(odds: Sequence[float], index: int) -> int | None:
    """Give the most probable of the others; None when there is no other."""
    others = [other for other in range(len(odds)) if other != index]
    return max(others, key=odds.__getitem__, default=None)


def sentence(
    scored: Sequence[Scored],
    index: int,
    other: int | None,
    contributions: tuple[float, list[float]] | None,
    labels: Sequence[str],
) -> str:
    """Say why this candidate, and what tells it from the runner-up.

    Args:
        scored: every permitted candidate.
        index: of the chosen one.
        other: the runner-up, None when there was no other candidate.
        contributions: by how much the chosen one is ahead of it: from the runbook, and per label.
        labels: what each of the learned contributions is called.
    """
    ours = scored[index]
    start = (
        f"{ours.candidate.action}: expected reward {ours.mean:.2f} ± {ours.std:.2f}, "
        f"best with probability {ours.propensity:.2f}"
    )
    if other is None or contributions is None:
        return f"{start}; nothing else was permitted."
    theirs = scored[other]
    place = "ahead of" if ours.mean >= theirs.mean else "drawn to learn more of it, though behind"
    return f"{start}; {place} {theirs.candidate.action} ({theirs.mean:.2f}) by {_reasons(contributions, labels)}."


def _reasons(contributions: tuple[float, list[float]], labels: Sequence[str]) -> str:
    """Give the largest differences, largest first."""
    runbook, learned = contributions
    values, names = [runbook, *learned], ("runbook", *labels)
    sizes = [abs(value) for value in values]
    top = sorted(range(len(values)), key=sizes.__getitem__, reverse=True)[:TOP]
    named = [f"{names[i]} {values[i]:+.2f}" for i in top if sizes[i] >= SHOWN]
    return ", ".join(named) or "chance alone: nothing tells them apart yet"


def recompute(decision: Decision, context_json: JsonObject, policy_at_version: Policy) -> Recomputed:
    """Compute a stored decision again and compare: features, scores, propensities, draw, explanation.

    Args:
        decision: as stored.
        context_json: the `Context` stored with it.
        policy_at_version: with exactly the updates that the deciding one had seen; its parameters may be other
            ones, those of the decision are in `decision.policy`.

    Returns:
        Equal, or what differs; never an error for anything that was stored wrongly.
    """
    found = _identity(decision, policy_at_version)
    if found:
        return Recomputed(equal=False, differences=found)
    try:
        x = encode(Context.from_json(context_json))
        allowed = [_permitted(decision, scored) for scored in decision.scored]
        choice = policy_at_version.renamed(decision.policy).choose(x, allowed, seed=decision.seed)
    except PolicyError as error:
        return Recomputed(equal=False, differences=(error.message,))
    found = (*_vector(decision.features, tuple(x.tolist())), *_choice(decision, choice))
    return Recomputed(equal=not found, differences=found)


def _permitted(decision: Decision, scored: Scored) -> Permitted:
    """Give the candidate as it was permitted; only the chosen one's level is stored, and none changes a score."""
    level = decision.chosen.level if scored.candidate == decision.candidate else Autonomy.AUTO
    return Permitted(scored.candidate, level)


def _identity(decision: Decision, policy: Policy) -> tuple[str, ...]:
    """Compare what the decision says it was made with to what is here."""
    found = []
    if decision.features_schema != SCHEMA:
        found.append(f"features schema: stored {decision.features_schema}, this program has {SCHEMA}")
    if decision.policy_version != policy.version:
        found.append(f"policy version: stored {decision.policy_version}, compared with {policy.version}")
    return tuple(found)


def _vector(stored: Sequence[float], now: Sequence[float]) -> tuple[str, ...]:
    if len(stored) != len(now):
        return (f"features: stored {len(stored)} numbers, computed {len(now)}",)
    pairs = enumerate(zip(stored, now, strict=True))
    return tuple(
        f"features[{i}]: stored {was}, computed {is_}" for i, (was, is_) in pairs if not _close(was, is_)
    )


def _choice(decision: Decision, choice: Choice) -> tuple[str, ...]:
    """Compare what was chosen, how probable it was and how every candidate was seen."""
    found = []
    chosen = choice.scored[choice.index].candidate
    if chosen != decision.candidate:
        found.append(f"chosen: stored {decision.candidate.key}, computed {chosen.key}")
    if choice.mode is not decision.mode:
        found.append(f"mode: stored {decision.mode}, computed {choice.mode}")
    if not _close(decision.propensity, choice.propensity):
        found.append(f"propensity: stored {decision.propensity}, computed {choice.propensity}")
    if decision.explanation != choice.explanation:
        found.append("explanation: the words differ")
    for was, now in zip(decision.scored, choice.scored, strict=True):
        found.extend(_score(was, now))
    return tuple(found)


def _score(was: Scored, now: Scored) -> list[str]:
    numbers = (
        ("mean", was.mean, now.mean),
        ("std", was.std, now.std),
        ("propensity", was.propensity, now.propensity),
    )
    return [
        f"{was.candidate.key} {name}: stored {before}, computed {after}"
        for name, before, after in numbers
        if not _close(before, after)
    ]


def _close(was: float, now: float) -> bool:
    return math.isclose(was, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
