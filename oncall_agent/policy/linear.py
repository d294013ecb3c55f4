"""Linear Thompson sampling: one arm per action, on top of what the runbook expects.

The score of a candidate is `prior + theta . z`, with z the scaled context vector and theta the arm's own. An
action that was never tried stands exactly at its prior, with the widest doubt. Each candidate's score is drawn
from its own Gaussian; the highest is chosen.

Source: Agrawal and Goyal 2013, Thompson sampling for contextual bandits with linear payoffs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from oncall_agent.errors import PolicyError
from oncall_agent.models import Mode, Permitted, Scored
from oncall_agent.policy import draw, explain, snapshot
from oncall_agent.policy.arm import Arm
from oncall_agent.policy.base import Choice, PolicyUpdate
from oncall_agent.policy.features import LAYOUT
from oncall_agent.policy.layout import Layout
from oncall_agent.policy.propensity import best_probabilities
from oncall_agent.settings.model import PolicySettings

FloatArray = npt.NDArray[np.float64]

KIND: Final = "linear_thompson"
MAX_ARMS: Final = 256
"""Actions learned about at once (32 MB at most); the one with the least evidence makes room."""
MAX_FEATURE: Final = 1e3
"""Bound of a feature: more is a mistake of the caller and would drown all other evidence."""


class LinearThompson:
    """The shipped policy, version 0. See `policy.base.Policy`."""

    def __init__(self, settings: PolicySettings, *, layout: Layout = LAYOUT, version: int = 0) -> None:
        self.settings = settings
        self.layout = layout
        self._version = version
        self._arms: dict[str, Arm] = {}
        self._untried = Arm(len(layout.scale), settings.prior_weight)

    @property
    def name(self) -> str:
        """Kind and parameters: decisions made under other parameters can be told apart and recomputed."""
        noise, weight = self.settings.noise_scale, self.settings.prior_weight
        return f"{KIND}:noise_scale={noise!r},prior_weight={weight!r}"

    @property
    def version(self) -> int:
        """Number of updates seen."""
        return self._version

    @property
    def counts(self) -> dict[str, int]:
        """Give action id -> rewards seen, for the API."""
        return {action: arm.count for action, arm in self._arms.items()}

    def choose(self, x: FloatArray, allowed: Sequence[Permitted], *, seed: int) -> Choice:
        """Draw a score for each candidate and pick the highest.

        Args:
            x: (d,) float64, columns of the layout.
            allowed: at least one candidate; two of the same action share an arm but draw on their own.
            seed: not negative; the draw depends on nothing else.

        Raises:
            PolicyError: nothing is allowed, or a number is not finite.
        """
        if not allowed:
            raise PolicyError("choose: no candidate is allowed; the guard always allows the escalation")
        z = self._scaled(x)
        learned, variances = self._looked_up(z, allowed)
        priors = [_bounded("prior", permitted.candidate.prior) for permitted in allowed]
        means = [prior + more for prior, more in zip(priors, learned, strict=True)]
        stds = [self.settings.noise_scale * math.sqrt(max(variance, 0.0)) for variance in variances]
        odds = best_probabilities(means, stds)
        index = _drawn(means, stds, seed)
        scored = tuple(map(Scored, [permitted.candidate for permitted in allowed], means, stds, odds))
        rival = explain.rival(odds, index)
        why = None if rival is None else self._contributions(z, allowed, index, rival)
        text = explain.sentence(scored, index, rival, why, self.layout.labels)
        return Choice(index, scored[index].propensity, Mode.BALANCED, scored, text)

    def update(self, update: PolicyUpdate) -> None:
        """Learn one reward.

        Raises:
            PolicyError: not the next version, or a number is not finite; nothing is changed then.
        """
        if update.version != self._version + 1:
            raise PolicyError(f"update {update.version} does not follow version {self._version}")
        y = _bounded("reward", update.reward) - _bounded("prior", update.prior)
        z = self._scaled(np.asarray(update.features, dtype=np.float64))
        self._arm(update.action).learn(z, y)
        self._version += 1

    def snapshot(self) -> bytes:
        """Give everything that was learned as npz with a digest; restored, it chooses bit for bit the same."""
        return snapshot.pack(
            snapshot.State(KIND, self.layout.schema, self._version, self.settings.prior_weight, self._arms)
        )

    @classmethod
    def restore(cls, blob: bytes, settings: PolicySettings, *, layout: Layout = LAYOUT) -> Self:
        """Give the policy of a snapshot; other settings than its own apply to the same evidence.

        Raises:
            PolicyError: corrupted, of another kind, or of another features schema.
        """
        state = snapshot.unpack(blob, KIND, layout.schema, len(layout.scale), settings.prior_weight)
        policy = cls(settings, layout=layout)
        policy._version, policy._arms = state.version, state.arms
        return policy

    def renamed(self, name: str) -> LinearThompson:
        """Give this policy under the parameters in `name`; itself when they are its own.

        Raises:
            PolicyError: the name is not of this kind of policy.
        """
        if name == self.name:
            return self
        return LinearThompson.restore(self.snapshot(), _parsed(name), layout=self.layout)

    def _scaled(self, x: FloatArray) -> FloatArray:
        scale = self.layout.scale
        if x.shape != scale.shape:
            raise PolicyError(
                f"features: {x.shape} numbers, expected {scale.shape} of schema {self.layout.schema}"
            )
        if not np.abs(x).max() <= MAX_FEATURE:  # also when one is not a number
            raise PolicyError("features: a value is not finite or far too large")
        return np.asarray(x * scale)

    def _looked_up(self, z: FloatArray, allowed: Sequence[Permitted]) -> tuple[list[float], list[float]]:
        """Give per candidate theta . z, and the variance of it in units of the noise's."""
        arms, untried = self._arms, self._untried
        seen = np.empty((len(allowed), len(z) + 1))
        for row, permitted in zip(seen, allowed, strict=True):
            arms.get(permitted.candidate.action, untried).table.dot(z, out=row)
        return seen[:, -1].tolist(), (seen[:, :-1] @ z).tolist()

    def _contributions(
        self, z: FloatArray, allowed: Sequence[Permitted], index: int, rival: int
    ) -> tuple[float, list[float]]:
        """Give by how much the chosen one is ahead of the rival: from the runbook, and per group of columns."""
        ours, theirs = allowed[index].candidate, allowed[rival].candidate
        arms, untried = self._arms, self._untried
        theta = arms.get(ours.action, untried).table[-1] - arms.get(theirs.action, untried).table[-1]
        return ours.prior - theirs.prior, np.add.reduceat(theta * z, self.layout.starts).tolist()

    def _arm(self, action: str) -> Arm:
        """Give the arm of this action, making room for a new one."""
        arm = self._arms.get(action)
        if arm is None:
            if len(self._arms) >= MAX_ARMS:
                del self._arms[min(self._arms, key=lambda name: (self._arms[name].count, name))]
            arm = self._arms[action] = Arm(len(self.layout.scale), self.settings.prior_weight)
        return arm


def _drawn(means: Sequence[float], stds: Sequence[float], seed: int) -> int:
    """Give the index of the highest of the scores that this seed draws."""
    normals = draw.normals(seed, len(means))
    scores = [mean + std * normal for mean, std, normal in zip(means, stds, normals, strict=True)]
    return scores.index(max(scores))


def _bounded(what: str, value: float) -> float:
    if not -1.0 <= value <= 1.0:
        raise PolicyError(f"{what}: {value} is not in -1..1")
    return value


def _parsed(name: str) -> PolicySettings:
    """Give the settings that a policy of this name has."""
    kind, _, rest = name.partition(":")
    try:
        pairs = dict(part.split("=", 1) for part in rest.split(","))
        noise, weight = float(pairs["noise_scale"]), float(pairs["prior_weight"])
        if kind == KIND and math.isfinite(noise) and math.isfinite(weight):
            return PolicySettings(noise_scale=noise, prior_weight=weight)
    except (KeyError, ValueError):
        pass
    raise PolicyError(f"policy {name!r:.120} is not of kind {KIND}")
