"""What a validation run found, as plain values; how findings become one verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from oncall_agent.models import JsonObject


class Verdict(StrEnum):
    """How one check, or a whole run, ended."""

    PASSED = "passed"
    FINDING = "finding"
    """It works, but something should not be so: too much privilege, say."""
    MISSING = "missing"
    """The backend does not answer: neither failed nor passed."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not asked, and the reason why not; counts as nothing."""


class Kind(StrEnum):
    """What was checked."""

    REACHABILITY = "reachability"
    VERSION = "version"
    CREDENTIALS = "credentials"
    PRIVILEGES = "privileges"
    CLOCK = "clock"
    LATENCY = "latency"
    DRILL = "drill"


EXIT_CODES = {Verdict.PASSED: 0, Verdict.FAILED: 1, Verdict.MISSING: 3, Verdict.FINDING: 4}
"""Exit codes of `oncall-agent validate`; 2 is bad usage or configuration."""
_WORST_FIRST = (Verdict.FAILED, Verdict.MISSING, Verdict.FINDING, Verdict.PASSED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        id: of this check; every log line of the check carries it as `check_id`.
        name: the drill's id, else the kind of check.
        scenario: of a drill: the failure scenario that it belongs to.
        action: of a drill: what healed it.
        started_at: wall clock, epoch seconds.
        seconds: how long the check took.
        recovery_seconds: of a drill: from the action's start to the symptom's end.
        unproven: why a pass here says nothing of a real server; empty when it does.
        facts: bounded evidence.
    """

    id: str
    system: str
    kind: Kind
    name: str
    verdict: Verdict
    reason: str = ""
    scenario: str = ""
    action: str = ""
    started_at: float = 0.0
    seconds: float = 0.0
    recovery_seconds: float | None = None
    unproven: str = ""
    facts: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SystemAnswer:
    """What a system said of itself."""

    system: str
    product: str = ""
    version: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class ActionStanding:
    """One action of a configured system: how far it is proven here and at all.

    Attributes:
        drill: verdict of the drill that exercised it in this run; None when none did.
        contract: rule of the contract test -> `done` or the reason of its exemption.
    """

    action: str
    drill: Verdict | None
    unproven: str
    contract: JsonObject


@dataclass(frozen=True, slots=True)
class Report:
    """One whole run.

    Attributes:
        id: every log line of the run carries it as `validation_id`.
        environment: as the configuration says, `production` or `staging`.
        interrupted: it was ended before everything planned was asked.
    """

    id: str
    config: str
    environment: str
    started_at: float
    ended_at: float
    findings: tuple[Finding, ...]
    systems: tuple[SystemAnswer, ...]
    actions: tuple[ActionStanding, ...] = ()
    interrupted: bool = False

    @property
    def verdict(self) -> Verdict:
        """The worst of all that was asked; failed when it was interrupted or nothing was asked at all."""
        return Verdict.FAILED if self.interrupted else worst(found.verdict for found in self.findings)

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        return EXIT_CODES[self.verdict]

    def count(self, verdict: Verdict, system: str | None = None) -> int:
        """How many findings ended so, of one system or of all."""
        return sum(found.verdict is verdict and system in (None, found.system) for found in self.findings)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Give the one verdict over several: failed before missing before finding before passed.

    Nothing asked is a failure: an empty run proves nothing.
    """
    met = set(verdicts)
    return next((verdict for verdict in _WORST_FIRST if verdict in met), Verdict.FAILED)
