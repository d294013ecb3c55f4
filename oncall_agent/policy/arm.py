"""What is known of one action: a Bayesian linear regression of the reward's difference to the prior."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

REFACTOR_EVERY: Final = 128
"""Rank-one updates between two inversions from scratch, which wipe out the rounding they add up."""


class Arm:
    """Evidence on one action and the posterior that follows from it.

    Attributes:
        gram: (d, d), sum of z z'; does not depend on any setting.
        moment: (d,), sum of y z, where y is reward minus prior.
        count: rewards seen.
        table: (d + 1, d): the inverse of `gram + weight * I`, and below it the posterior mean, so that one
            product with z gives what variance and mean need.
    """

    __slots__ = ("count", "gram", "moment", "table", "weight")

    def __init__(self, size: int, weight: float) -> None:
        self.gram = np.zeros((size, size))
        self.moment = np.zeros(size)
        self.count = 0
        self.weight = weight
        self.table = np.zeros((size + 1, size))
        self.table[:-1] = np.eye(size) / weight

    @classmethod
    def of_evidence(cls, gram: FloatArray, moment: FloatArray, count: int, weight: float) -> Arm:
        """Give the arm that has seen this evidence, under a prior of this weight."""
        arm = cls(len(moment), weight)
        arm.gram, arm.moment, arm.count = gram, moment, count
        arm.refactor()
        return arm

    def learn(self, z: FloatArray, y: float) -> None:
        """Take in one observation: Sherman and Morrison's rank-one update, exactly symmetric."""
        self.gram += np.outer(z, z)
        self.moment += y * z
        self.count += 1
        if self.count % REFACTOR_EVERY == 0:
            self.refactor()
            return
        covariance = self.table[:-1]
        step = covariance @ z
        covariance -= np.outer(step, step) / (1.0 + float(step @ z))
        self.table[-1] = covariance @ self.moment

    def refactor(self) -> None:
        """Compute the posterior from the evidence alone, by Cholesky's factor.

        Raises:
            numpy.linalg.LinAlgError: the evidence is not that of any sum of z z'.
        """
        size = len(self.moment)
        factor = np.linalg.inv(np.linalg.cholesky(self.gram + self.weight * np.eye(size)))
        covariance = factor.T @ factor
        self.table[:-1] = (covariance + covariance.T) / 2.0
        self.table[-1] = self.table[:-1] @ self.moment
