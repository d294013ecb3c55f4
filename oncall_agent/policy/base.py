"""What every policy offers, and the values that go in and out of it.

The pipeline knows only this; numpy is not imported here, so that whoever merely stores an update stays light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from oncall_agent.models import Mode, Permitted, Scored
from oncall_agent.settings.model import PolicySettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PolicyUpdate:
    """One observed reward, in the order in which the policy learned: replaying them gives the policy again.

    Attributes:
        version: of the policy after this update; the first one is 1. Gaps and repeats are refused.
        action: id of the action that was carried out.
        features: the context vector of the decision, columns of its schema.
        reward: -1..1.
        prior: the runbook's expected reward of the candidate, which the policy learns the difference to.
    """

    version: int
    action: str
    features: tuple[float, ...]
    reward: float
    prior: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy chose and how it saw every candidate.

    Attributes:
        index: into the sequence of permitted candidates that it was given.
        propensity: probability with which this candidate was chosen, in (0, 1].
        scored: one per permitted candidate, in the same order; propensities sum to 1.
        explanation: for people, one short paragraph.
    """

    index: int
    propensity: float
    mode: Mode
    scored: tuple[Scored, ...]
    explanation: str


class Policy(Protocol):
    """Chooses among permitted candidates and learns from rewards. Not thread-safe: one writer at a time."""

    def __init__(self, settings: PolicySettings) -> None:
        """Start from the runbooks, with nothing learned."""
        ...

    @property
    def name(self) -> str:
        """Kind and parameters; together with `version` it says which policy decided."""
        ...

    @property
    def version(self) -> int:
        """Number of updates seen."""
        ...

    def choose(self, x: FloatArray, allowed: Sequence[Permitted], *, seed: int) -> Choice:
        """Pick one candidate; the same policy, context, candidates and seed give the same choice.

        Raises:
            PolicyError: nothing is allowed, or a number is not finite.
        """
        ...

    def update(self, update: PolicyUpdate) -> None:
        """Learn one reward; `version` goes up by one.

        Raises:
            PolicyError: not the next version, or not finite; nothing is changed then.
        """
        ...

    def snapshot(self) -> bytes:
        """Give everything that was learned, with a digest; no pickle inside."""
        ...

    @classmethod
    def restore(cls, blob: bytes, settings: PolicySettings) -> Self:
        """Give the policy of a snapshot.

        Raises:
            PolicyError: corrupted, of another kind, or of another features schema.
        """
        ...

    def renamed(self, name: str) -> Policy:
        """Give what this policy would be under the parameters in `name`, so that old decisions can be recomputed.

        Raises:
            PolicyError: the name is not of this kind of policy.
        """
        ...
