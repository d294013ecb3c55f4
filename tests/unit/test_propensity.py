"""Propensities: exact enough, and a distribution whatever the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncall_agent.policy.propensity import FLOOR, best_probabilities

SCORES = st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 10)), min_size=1, max_size=40)


def _simulated(means: list[float], stds: list[float], draws: int = 1_000_000) -> np.ndarray:
    rng = np.random.default_rng(20260727)
    wins = np.zeros(len(means))
    for _ in range(10):
        scores = np.array(means) + np.array(stds) * rng.standard_normal((draws // 10, len(means)))
        wins += np.bincount(scores.argmax(axis=1), minlength=len(means))
    return wins / draws


@pytest.mark.parametrize(
    ("means", "stds"),
    [
        pytest.param([0.5, 0.4], [0.25, 0.25], id="two-new"),
        pytest.param([0.5 - 0.03 * n for n in range(12)], [0.2] * 12, id="twelve-new"),
        pytest.param([0.5, 0.4925] + [0.0] * 10, [0.005, 0.005] + [0.25] * 10, id="two-sharp-rivals-ten-new"),
        pytest.param([0.5, 0.497] + [0.4] * 3, [0.002, 0.002, 0.1, 0.3, 0.5], id="all-scales"),
        pytest.param([0.6] + [0.5] * 11, [0.01] + [0.03] * 11, id="one-sharp-favourite"),
        pytest.param([0.3, 0.3, 0.9], [0.1, 0.1, 0.02], id="hopeless-rivals"),
        pytest.param(
            [0.1 * (n % 3) for n in range(40)], [0.05 + 0.01 * (n % 7) for n in range(40)], id="forty"
        ),
    ],
)
def test_propensities_agree_with_a_million_draws(means: list[float], stds: list[float]) -> None:
    expected = _simulated(means, stds)
    assert np.abs(expected - best_probabilities(means, stds)).max() <= 0.003


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
@pytest.mark.parametrize("ratio", [1.0, 3.0, 30.0, 300.0])
def test_two_candidates_agree_with_the_closed_form(gap: float, ratio: float) -> None:
    stds = [0.25, 0.25 / ratio]
    expected = 0.5 * math.erfc(-gap / math.hypot(*stds) / math.sqrt(2.0))
    assert expected == pytest.approx(best_probabilities([gap, 0.0], stds)[0], abs=1e-3)


@given(SCORES)
def test_propensities_are_a_distribution_without_zeros(scores: list[tuple[float, float]]) -> None:
    odds = best_probabilities(*map(list, zip(*scores, strict=True)))
    assert sum(odds) == pytest.approx(1.0, abs=1e-9)
    assert min(odds) >= FLOOR / 2


@given(SCORES, st.floats(-5, 5))
def test_a_shift_of_all_scores_changes_nothing(scores: list[tuple[float, float]], shift: float) -> None:
    means, stds = map(list, zip(*scores, strict=True))
    stds = [max(std, 1e-3) for std in stds]
    moved = best_probabilities([mean + shift for mean in means], stds)
    assert best_probabilities(means, stds) == pytest.approx(moved, abs=2e-3)


def test_equal_candidates_are_equally_probable() -> None:
    assert pytest.approx(best_probabilities([0.3] * 12, [0.2] * 12), abs=1e-12) == [1 / 12] * 12


def test_a_single_candidate_is_certain() -> None:
    assert best_probabilities([-3.0], [0.1]) == [1.0]
