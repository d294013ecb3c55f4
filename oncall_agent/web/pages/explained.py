"""Why a decision came out so: what the policy saw, by name, and whether the choice comes out again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oncall_agent.models import Decision, JsonObject
from oncall_agent.policy.features import COLUMNS, SCHEMA


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Whether the choice came out the same again, and where not."""

    equal: bool
    differences: tuple[str, ...] = ()


def recomputed(found: Mapping[str, Any]) -> Recomputed | None:
    """Read the answer of `Parts.explain`; None when it does not say, which is never taken for equal."""
    equal = found.get("equal")
    if not isinstance(equal, bool):
        return None
    return Recomputed(equal, tuple(str(text) for text in found.get("differences", ())))


def known(context: JsonObject) -> tuple[tuple[str, Any], ...]:
    """Give the inputs of a decision as (name, value), flat, those that could not be read left out."""
    pairs: list[tuple[str, Any]] = []
    for name, value in context.items():
        pairs.extend(value.items() if isinstance(value, Mapping) else ((name, value),))
    return tuple((name, value) for name, value in pairs if value is not None and value != [])


def columns(decision: Decision) -> tuple[tuple[str, float], ...]:
    """Give the context vector as (column, value) without zeros; numbered when its schema is not today's."""
    is_named = decision.features_schema == SCHEMA and len(decision.features) == len(COLUMNS)
    names = COLUMNS if is_named else tuple(f"column {number}" for number in range(len(decision.features)))
    return tuple((name, value) for name, value in zip(names, decision.features, strict=True) if value)
