"""The linear Thompson sampler: where it starts, what it learns, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oncall_agent.errors import PolicyError
from oncall_agent.models import Autonomy, Candidate, Mode, Permitted
from oncall_agent.policy.base import Policy, PolicyUpdate
from oncall_agent.policy.draw import normals
from oncall_agent.policy.features import LAYOUT, Context, encode
from oncall_agent.policy.linear import MAX_ARMS, LinearThompson
from oncall_agent.settings.model import PolicySettings

SETTINGS = PolicySettings(noise_scale=0.25, prior_weight=2.0)
CALM = Context("disk-full", "warning", 3.5, 0, 1, 1, 0, flapping=False, last_failed=False)
X = encode(CALM)
RESTART = Permitted(Candidate("app.restart", "web", prior=0.6), Autonomy.AUTO)
SCALE_UP = Permitted(Candidate("app.scale_up", "web", prior=0.4), Autonomy.AUTO)
PAGE = Permitted(Candidate("escalate.page", "web"), Autonomy.AUTO)
ALLOWED = (RESTART, SCALE_UP, PAGE)


def _update(version: int = 1, **changes: Any) -> PolicyUpdate:
    good = PolicyUpdate(version, "app.restart", tuple(X.tolist()), 0.9, 0.6)
    return replace(good, **changes)


def _taught(rewards: Sequence[float], settings: PolicySettings = SETTINGS) -> LinearThompson:
    policy = LinearThompson(settings)
    for version, value in enumerate(rewards, start=1):
        policy.update(_update(version, reward=value))
    return policy


def _contexts(count: int, seed: int = 5) -> list[Context]:
    rng = np.random.default_rng(seed)
    return [
        replace(
            CALM,
            alert_class=f"class-{rng.integers(4)}",
            cpu=float(rng.random()),
            hour=float(24 * rng.random()),
        )
        for _ in range(count)
    ]


def test_it_is_a_policy() -> None:
    policy: Policy = LinearThompson(SETTINGS)
    assert (policy.version, policy.name) == (0, "linear_thompson:noise_scale=0.25,prior_weight=2.0")


def test_an_action_never_tried_stands_at_its_prior_with_the_widest_doubt() -> None:
    z = X * LAYOUT.scale
    scored = LinearThompson(SETTINGS).choose(X, ALLOWED, seed=1).scored
    assert [entry.mean for entry in scored] == [0.6, 0.4, 0.0]
    assert [pytest.approx(0.25 * math.sqrt(z @ z / 2.0))] * 3 == [entry.std for entry in scored]


def test_the_posterior_is_the_ridge_regression_of_the_difference_to_the_prior() -> None:
    rng = np.random.default_rng(3)
    policy, seen, values = LinearThompson(SETTINGS), [], []
    for version, given_context in enumerate(_contexts(300), start=1):
        x, reward = encode(given_context), float(rng.uniform(-1, 1))
        policy.update(_update(version, features=tuple(x.tolist()), reward=reward, prior=0.3))
        seen.append(x * LAYOUT.scale)
        values.append(reward - 0.3)
    z, precision = np.array(seen), 2.0 * np.eye(len(X)) + np.array(seen).T @ np.array(seen)
    here = X * LAYOUT.scale
    scored = policy.choose(X, [RESTART], seed=0).scored[0]
    assert scored.mean == pytest.approx(
        0.6 + here @ np.linalg.solve(precision, z.T @ np.array(values)), abs=1e-9
    )
    assert scored.std == pytest.approx(0.25 * math.sqrt(here @ np.linalg.solve(precision, here)), abs=1e-9)


def test_a_reward_moves_only_its_own_action() -> None:
    before = LinearThompson(SETTINGS).choose(X, ALLOWED, seed=1).scored
    after = _taught([-1.0]).choose(X, ALLOWED, seed=1).scored
    assert after[0].mean < before[0].mean
    assert after[0].std < before[0].std
    assert [(0.4, before[1].std), (0.0, before[2].std)] == [(entry.mean, entry.std) for entry in after[1:]]


def test_a_heavier_prior_is_moved_less() -> None:
    light, heavy = (
        _taught([-1.0], PolicySettings(prior_weight=weight)).choose(X, ALLOWED, seed=1).scored[0].mean
        for weight in (1.0, 50.0)
    )
    assert light < heavy < 0.6


def test_two_candidates_of_one_action_differ_by_their_priors_and_draw_on_their_own() -> None:
    gentle = Permitted(Candidate("app.restart", "web", {"grace": 1}, prior=0.5), Autonomy.AUTO)
    scored = _taught([1.0]).choose(X, [RESTART, gentle], seed=1).scored
    assert pytest.approx(scored[0].mean - scored[1].mean) == 0.1
    assert scored[1].propensity > 0.2


def test_the_same_seed_gives_the_same_choice() -> None:
    policy = _taught([0.1, 0.2])
    assert policy.choose(X, ALLOWED, seed=11) == policy.choose(X, ALLOWED, seed=11)


def test_choosing_changes_nothing() -> None:
    policy = _taught([0.1, 0.2])
    before = policy.snapshot()
    policy.choose(X, ALLOWED, seed=11)
    assert before == policy.snapshot()


def test_the_draw_of_a_seed_is_the_same_on_every_machine_for_ever() -> None:
    assert pytest.approx(normals(7, 3), abs=1e-12) == [
        -1.5916474486709788,
        1.8119154053122613,
        -1.1830694146218017,
    ]
    assert normals(7, 12)[:3] == normals(7, 3)


def test_draws_are_standard_normal_and_independent() -> None:
    drawn = np.array([normals(seed, 4) for seed in range(10_000)])
    assert np.abs(np.cov(drawn.T) - np.eye(4)).max() < 0.04
    assert np.abs(drawn.mean(axis=0)).max() < 0.04
    assert np.abs(np.quantile(drawn, [0.025, 0.975]) - [-1.96, 1.96]).max() < 0.04


def test_candidates_are_chosen_as_often_as_their_propensities_say() -> None:
    policy = _taught([0.5, 0.4])
    choices = [policy.choose(X, ALLOWED, seed=seed).index for seed in range(10_000)]
    expected = [entry.propensity for entry in policy.choose(X, ALLOWED, seed=0).scored]
    assert expected == pytest.approx((np.bincount(choices, minlength=3) / 10_000).tolist(), abs=0.015)


def test_the_choice_carries_the_propensity_of_what_was_chosen() -> None:
    choice = LinearThompson(SETTINGS).choose(X, ALLOWED, seed=4)
    assert choice.scored[choice.index].propensity == choice.propensity
    assert (choice.mode, len(choice.scored)) == (Mode.BALANCED, 3)
    assert pytest.approx(sum(entry.propensity for entry in choice.scored), abs=1e-9) == 1.0


def test_even_a_hopeless_candidate_has_a_propensity() -> None:
    policy = _taught([-1.0] * 400)
    assert 0.0 < policy.choose(X, ALLOWED, seed=1).scored[0].propensity < 1e-6


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"reward": math.nan}, id="reward-nan"),
        pytest.param({"reward": math.inf}, id="reward-inf"),
        pytest.param({"reward": 1.5}, id="reward-out-of-range"),
        pytest.param({"prior": math.nan}, id="prior-nan"),
        pytest.param({"features": (math.nan, *X[1:].tolist())}, id="feature-nan"),
        pytest.param({"features": (math.inf, *X[1:].tolist())}, id="feature-inf"),
        pytest.param({"features": (1e300, *X[1:].tolist())}, id="feature-huge"),
        pytest.param({"features": tuple(X[1:].tolist())}, id="too-few-features"),
        pytest.param({"version": 2}, id="repeated"),
        pytest.param({"version": 4}, id="gap"),
    ],
)
def test_a_bad_update_is_refused_and_changes_nothing(change: dict[str, Any]) -> None:
    policy = _taught([0.1, 0.2])
    before = policy.snapshot()
    with pytest.raises(PolicyError):
        policy.update(_update(**{"version": 3, "action": "new.action", **change}))
    assert before == policy.snapshot()


@pytest.mark.parametrize(
    ("choose", "reason"),
    [
        pytest.param(lambda p: p.choose(X, [], seed=1), "allowed", id="nothing-allowed"),
        pytest.param(lambda p: p.choose(X[1:], ALLOWED, seed=1), "features", id="too-few"),
        pytest.param(lambda p: p.choose(X * math.nan, ALLOWED, seed=1), "finite", id="nan"),
        pytest.param(lambda p: p.choose(X, ALLOWED, seed=-1), "seed", id="negative-seed"),
        pytest.param(lambda p: p.choose(X, ALLOWED, seed=2**64), "seed", id="huge-seed"),
        pytest.param(
            lambda p: p.choose(X, [replace(PAGE, candidate=Candidate("a", "b", prior=math.nan))], seed=1),
            "prior", id="prior-nan",
        ),
    ],
)  # fmt: skip
def test_a_choice_from_bad_numbers_is_refused(choose: Callable[[Policy], object], reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        choose(LinearThompson(SETTINGS))


def test_the_number_of_arms_is_bounded_and_the_least_known_makes_room() -> None:
    policy = _taught([0.5, 0.5])
    for number in range(MAX_ARMS + 3):
        policy.update(_update(policy.version + 1, action=f"action.{number}"))
    assert len(policy.counts) == MAX_ARMS
    assert policy.counts["app.restart"] == 2


def test_rounding_does_not_add_up_over_many_updates() -> None:
    policy = LinearThompson(SETTINGS)
    for version, given_context in enumerate(_contexts(2_000), start=1):
        policy.update(_update(version, features=tuple(encode(given_context).tolist()), reward=0.1))
    arm = policy._arms["app.restart"]
    exact = np.linalg.inv(arm.gram + 2.0 * np.eye(len(X)))
    assert np.abs(exact - arm.table[:-1]).max() < 1e-10


# --- learning -------------------------------------------------------------------------------------------------

CHANCE = {  # of success, per class of trouble: one action is right for each, none is right for all
    "leak": {"app.restart": 0.9, "app.rollback_deploy": 0.3, "app.scale_up": 0.2},
    "bad-deploy": {"app.restart": 0.2, "app.rollback_deploy": 0.9, "app.scale_up": 0.1},
    "load": {"app.restart": 0.1, "app.rollback_deploy": 0.2, "app.scale_up": 0.9},
}


def _play(priors: dict[str, dict[str, float]], incidents: int, seed: int) -> tuple[list[bool], float, float]:
    """Give per incident whether the best action was chosen, and the rewards of the sampler and the runbook."""
    rng, policy = np.random.default_rng(seed), LinearThompson(SETTINGS)
    right, learned, static = [], 0.0, 0.0
    for number in range(incidents):
        kind = list(CHANCE)[rng.integers(3)]
        x = encode(replace(CALM, alert_class=kind, cpu=float(rng.random()), hour=float(24 * rng.random())))
        allowed = [Permitted(Candidate(a, "web", prior=p), Autonomy.AUTO) for a, p in priors[kind].items()]
        luck = rng.random()
        rewards = {action: (1.0 if luck < chance else 0.0) - 0.1 for action, chance in CHANCE[kind].items()}
        index = policy.choose(x, [*allowed, PAGE], seed=number).index
        action = [*priors[kind], "escalate.page"][index]
        reward = rewards.get(action, 0.0)
        prior = priors[kind].get(action, 0.0)
        policy.update(PolicyUpdate(number + 1, action, tuple(x.tolist()), reward, prior))
        right.append(action == max(CHANCE[kind], key=CHANCE[kind].__getitem__))
        learned += reward
        static += rewards[max(priors[kind], key=priors[kind].__getitem__)]
    return right, learned, static


def _priors(favourite: dict[str, str]) -> dict[str, dict[str, float]]:
    return {kind: {a: 0.7 if a == favourite[kind] else 0.3 for a in CHANCE[kind]} for kind in CHANCE}


RIGHT = _priors({"leak": "app.restart", "bad-deploy": "app.rollback_deploy", "load": "app.scale_up"})
WRONG = _priors({"leak": "app.scale_up", "bad-deploy": "app.restart", "load": "app.rollback_deploy"})


SEEDS = range(10)


def test_a_right_runbook_is_followed_from_the_start() -> None:
    assert min(sum(_play(RIGHT, 100, seed)[0]) for seed in SEEDS) >= 90


def test_a_right_runbook_costs_little_to_doubt() -> None:
    lost = [static - learned for _, learned, static in (_play(RIGHT, 300, seed) for seed in SEEDS)]
    assert max(lost) < 15.0


def test_the_best_action_is_found_although_the_runbook_is_wrong() -> None:
    right = [sum(_play(WRONG, 400, seed)[0][-100:]) for seed in SEEDS]
    assert sum(right) / len(right) >= 90
    assert sorted(right)[len(right) // 2] >= 97


def test_a_wrong_runbook_is_beaten_by_far() -> None:
    gained = [learned - static for _, learned, static in (_play(WRONG, 300, seed) for seed in SEEDS)]
    assert min(gained) > 100.0
