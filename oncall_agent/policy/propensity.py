"""How probable each of several independent Gaussian scores is the highest: the propensity of its candidate.

Without propensities no policy can be judged by another policy's log. Simulation would need a million draws
for three digits; one dimension of numerical integration gives them at once. Pure; called by the policy for
each decision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

POINTS: Final = 192
"""Points of the grid, shared out among the candidates."""
LEAST_POINTS: Final = 16
"""Points that each of them gets even when there are many."""
REACH: Final = 4.0
"""How many standard deviations around its mean each candidate contributes points."""
FLOOR: Final = 1e-12
"""Least probability: what can be drawn must never be logged as impossible."""
STD_FLOOR: Final = 1e-9
"""Smaller standard deviations count as this one: a step function has no grid of its own."""

_CELLS: Final = 16_384
_EDGE: Final = 8.0
_PER_STD: Final = _CELLS / (2.0 * _EDGE)


def _frozen(values: FloatArray) -> FloatArray:
    values.flags.writeable = False
    return values


def _normal_cdf_table() -> FloatArray:
    """Give the standard normal distribution function at `_CELLS + 1` even steps over +-`_EDGE`."""
    steps = (cell / _PER_STD - _EDGE for cell in range(_CELLS + 1))
    return np.array([0.5 * math.erfc(-step / math.sqrt(2.0)) for step in steps])


def _spread(points: int) -> FloatArray:
    """Give that many symmetric places over +-`REACH`, denser in the middle, where most of the mass is."""
    even = np.arange(1 - points, points, 2) / (points - 1)
    return REACH * np.sign(even) * np.abs(even) ** 1.4


_TABLE: Final = _frozen(_normal_cdf_table())
_SPREADS: Final = tuple(_frozen(_spread(POINTS // max(1, n))) for n in range(POINTS // LEAST_POINTS + 1))


def best_probabilities(means: Sequence[float], stds: Sequence[float]) -> list[float]:
    """Give, for each candidate, the probability that its independent Gaussian score is the highest.

    p_i is the integral of (product of F_j, j != i) dF_i. It is summed by the trapezoid rule over the F_i
    themselves, on a grid that is dense wherever any candidate's score is: a well-known candidate a hundred
    times sharper than a new one is resolved as well as the new one.

    Args:
        means: at least one, finite.
        stds: as many, not negative, finite.

    Returns:
        As many, each at least `FLOOR`, summing to 1 within 1e-12; error below 0.003.
    """
    if len(means) == 1:
        return [1.0]
    m, s = np.array(means), np.array(stds)
    np.maximum(s, STD_FLOOR, out=s)
    raw = _masses(_cdf(_grid(m, s), m, s)).tolist()
    total = sum(raw)
    floored = [max(mass / total, FLOOR) for mass in raw]
    total = sum(floored)
    return [p / total for p in floored]


def _masses(below: FloatArray) -> FloatArray:
    """Give twice the integral of every candidate from (n, points) values of the distribution functions.

    With P the product of all F and r = F[g+1] / F[g], twice the trapezoid of P/F over dF in one interval is
    P[g+1] - P[g] + r P[g] - P[g+1] / r: two products with P instead of five passes over the grid.
    """
    product = np.multiply.reduce(below, axis=0)
    rise = below[:, 1:] / below[:, :-1]
    masses: FloatArray = rise @ product[:-1]
    np.reciprocal(rise, out=rise)
    masses -= rise @ product[1:]
    masses += product[-1] - product[0]
    return masses


def _grid(means: FloatArray, stds: FloatArray) -> FloatArray:
    """Give the sorted points around every candidate, without those that the best is certainly above."""
    points = stds[:, None] * _SPREADS[min(len(stds), len(_SPREADS) - 1)]
    points += means[:, None]
    low = points[:, 0].max()
    points = points.ravel()
    points.sort()
    return points[points.searchsorted(low) :]


def _cdf(points: FloatArray, means: FloatArray, stds: FloatArray) -> FloatArray:
    """Give (n, points) values of each candidate's distribution function, never quite 0.

    Taken from a table at the nearest of its steps: off by 2e-4 at most, and the same on every machine.
    """
    place = points - means[:, None]
    place *= (_PER_STD / stds)[:, None]
    place += _CELLS / 2 + 0.5
    return _TABLE.take(place.astype(np.intp), mode="clip")
