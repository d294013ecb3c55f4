"""The result of the contract test, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Status = Literal["done", "exempt", "failed"]


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What became of one rule; `reason` says why it is exempt or how it failed."""

    status: Status
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Scorecard:
    """One result per rule of `SCORECARD`, in that order."""

    action: str
    rules: Mapping[str, RuleResult]

    @property
    def ok(self) -> bool:
        """Whether no rule failed."""
        return not self.failures

    @property
    def failures(self) -> dict[str, str]:
        """Rule -> how it failed."""
        return {name: result.reason for name, result in self.rules.items() if result.status == "failed"}

    def __str__(self) -> str:
        lines = [self.action]
        for name, result in self.rules.items():
            lines.append(f"  {name:<24}{result.status:<8}{result.reason}".rstrip())
        return "\n".join(lines)
