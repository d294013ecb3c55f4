"""Explanations: the sentence names what decided, and the stored decision comes out again or says what differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from oncall_agent.models import Autonomy, Candidate, Decision, Mode, Permitted, Scored
from oncall_agent.policy import explain
from oncall_agent.policy.base import PolicyUpdate
from oncall_agent.policy.features import SCHEMA, Context, encode
from oncall_agent.policy.linear import LinearThompson
from oncall_agent.settings.model import PolicySettings

SETTINGS = PolicySettings(noise_scale=0.25, prior_weight=2.0)
CONTEXT = Context(
    "disk-full", "warning", 3.5, 0, 1, 2, 0, flapping=False, last_failed=True, tried=("app.restart",), cpu=0.7
)
RESTART = Candidate("app.restart", "web", {"grace": 3}, prior=0.6)
ALLOWED = (
    Permitted(RESTART, Autonomy.APPROVE),
    Permitted(Candidate("app.scale_up", "web", prior=0.5), Autonomy.AUTO),
    Permitted(Candidate("escalate.page", "web"), Autonomy.AUTO),
)


def _policy(settings: PolicySettings = SETTINGS, rewards: int = 20) -> LinearThompson:
    policy = LinearThompson(settings)
    features = tuple(encode(CONTEXT).tolist())
    for version in range(1, rewards + 1):
        policy.update(PolicyUpdate(version, "app.restart", features, 0.4 + version % 3 / 10, 0.6))
    return policy


def _decision(policy: LinearThompson, seed: int = 5) -> Decision:
    x = encode(CONTEXT)
    choice = policy.choose(x, ALLOWED, seed=seed)
    return Decision(
        id="d1", at=0.0, chosen=ALLOWED[choice.index], propensity=choice.propensity, mode=choice.mode,
        policy=policy.name, policy_version=policy.version, seed=seed, features=tuple(x.tolist()),
        features_schema=SCHEMA, scored=choice.scored, refused=(), explanation=choice.explanation,
    )  # fmt: skip


POLICY = _policy()
DECISION = _decision(POLICY)
STORED = CONTEXT.to_json()


def _through_json(decision: Decision) -> Decision:
    stored: dict[str, Any] = json.loads(json.dumps(asdict(decision)))

    def scored(entry: dict[str, Any]) -> Scored:
        return Scored(**{**entry, "candidate": Candidate(**entry["candidate"])})

    chosen = stored["chosen"]
    return Decision(**{
        **stored,
        "chosen": Permitted(Candidate(**chosen["candidate"]), Autonomy(chosen["level"])),
        "mode": Mode(stored["mode"]),
        "features": tuple(stored["features"]),
        "scored": tuple(map(scored, stored["scored"])),
        "refused": (),
    })  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_stored_decision_comes_out_again(seed: int) -> None:
    stored = _through_json(_decision(POLICY, seed))
    context = json.loads(json.dumps(STORED))
    restored = LinearThompson.restore(POLICY.snapshot(), SETTINGS)
    assert explain.Recomputed(equal=True) == explain.recompute(stored, context, restored)


def test_a_decision_made_under_other_settings_comes_out_again() -> None:
    today = _policy(PolicySettings(noise_scale=1.0, prior_weight=9.0))
    assert explain.Recomputed(equal=True) == explain.recompute(DECISION, STORED, today)


def _other_seed() -> int:
    """Give a seed that draws another candidate."""
    return next(s for s in range(1000) if _decision(POLICY, s).candidate != DECISION.candidate)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        pytest.param(lambda: {"seed": _other_seed()}, "chosen", id="seed"),
        pytest.param(lambda: {"propensity": DECISION.propensity + 1e-6}, "propensity", id="propensity"),
        pytest.param(lambda: {"features": (0.0, *DECISION.features[1:])}, "features[0]", id="feature"),
        pytest.param(lambda: {"features": DECISION.features[1:]}, "features", id="fewer-features"),
        pytest.param(lambda: {"features_schema": "v0:old"}, "features schema", id="schema"),
        pytest.param(lambda: {"policy_version": 3}, "policy version", id="version"),
        pytest.param(lambda: {"policy": "coin"}, "policy", id="policy"),
        pytest.param(
            lambda: {"policy": "linear_thompson:noise_scale=-1,prior_weight=2"}, "policy", id="parameters"
        ),
        pytest.param(lambda: {"mode": Mode.CREATIVE}, "mode", id="mode"),
        pytest.param(lambda: {"explanation": "because"}, "explanation", id="explanation"),
        pytest.param(lambda: {"scored": DECISION.scored[:2]}, "propensity", id="candidate-missing"),
        pytest.param(lambda: {"scored": ()}, "choose", id="no-candidates"),
        pytest.param(
            lambda: {"scored": (replace(DECISION.scored[0], mean=0.0), *DECISION.scored[1:])},
            "mean",
            id="mean",
        ),
        pytest.param(
            lambda: {"scored": (replace(DECISION.scored[0], std=0.1), *DECISION.scored[1:])}, "std", id="std"
        ),
    ],
)
def test_what_was_changed_afterwards_is_named(change: Callable[[], dict[str, Any]], difference: str) -> None:
    found = explain.recompute(replace(DECISION, **change()), STORED, POLICY)
    assert not found.equal
    assert difference in " ".join(found.differences)


@pytest.mark.parametrize(
    ("context", "difference"),
    [
        pytest.param({**STORED, "cpu": 0.1}, "features", id="changed"),
        pytest.param({**STORED, "cpu": "hot"}, "cpu", id="wrong-type"),
        pytest.param({}, "fields", id="empty"),
    ],
)
def test_a_context_that_does_not_give_the_features_is_named(context: dict[str, Any], difference: str) -> None:
    found = explain.recompute(DECISION, context, POLICY)
    assert not found.equal
    assert difference in " ".join(found.differences)


def test_a_policy_that_learned_something_else_is_found() -> None:
    other = LinearThompson(SETTINGS)
    for version in range(1, 21):
        other.update(PolicyUpdate(version, "app.restart", DECISION.features, -0.5, 0.6))
    assert not explain.recompute(DECISION, STORED, other).equal


def test_the_sentence_names_the_chosen_the_runner_up_and_what_tells_them_apart() -> None:
    scored = (Scored(RESTART, 0.62, 0.11, 0.83), Scored(ALLOWED[2].candidate, 0.02, 0.3, 0.17))
    text = explain.sentence(scored, 0, 1, (0.6, [0.15, -0.2, 0.001]), ("class", "cpu", "hour"))
    expected = (
        "app.restart: expected reward 0.62 ± 0.11, best with probability 0.83; "
        "ahead of escalate.page (0.02) by runbook +0.60, cpu -0.20, class +0.15."
    )
    assert expected == text


@pytest.mark.parametrize(
    ("index", "other", "contributions", "words"),
    [
        pytest.param(
            1, 0, (-0.6, [0.0]), "drawn to learn more of it, though behind app.restart", id="exploring"
        ),
        pytest.param(0, None, None, "nothing else was permitted", id="alone"),
        pytest.param(0, 1, (0.0, [0.0]), "chance alone", id="no-difference"),
    ],
)
def test_the_sentence_says_when_there_was_another_reason(
    index: int, other: int | None, contributions: tuple[float, list[float]] | None, words: str
) -> None:
    scored = (Scored(RESTART, 0.62, 0.11, 0.83), Scored(ALLOWED[2].candidate, 0.02, 0.3, 0.17))
    assert words in explain.sentence(scored, index, other, contributions, ("class",))


@pytest.mark.parametrize(
    ("odds", "index", "expected"),
    [
        pytest.param([0.6, 0.1, 0.3], 0, 2, id="second-best"),
        pytest.param([0.6, 0.1, 0.3], 1, 0, id="favourite"),
        pytest.param([1.0], 0, None, id="alone"),
    ],
)
def test_the_runner_up_is_the_most_probable_other(
    odds: list[float], index: int, expected: int | None
) -> None:
    assert expected == explain.rival(odds, index)
