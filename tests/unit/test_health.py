"""Health: signals as one number, and several probes as one reading."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncall_agent.models import Signals
from oncall_agent.rules import health
from oncall_agent.settings.model import HealthSettings

WEIGHTS = HealthSettings()

SCORES: dict[str, tuple[Signals, float | None]] = {
    "nothing read": (Signals(), None),
    "only not-a-number read": (Signals(cpu=math.nan), None),
    "up and nothing else": (Signals(up=True), 100.0),
    "down whatever else is read": (Signals(up=False, cpu=0.0, error_rate=0.0), 0.0),
    "cpu at its threshold": (Signals(cpu=0.80), 100.0),
    "cpu half-way": (Signals(cpu=0.90), 87.5),
    "cpu full": (Signals(cpu=1.0), 75.0),
    "cpu beyond full costs no more": (Signals(cpu=4.0), 75.0),
    "memory full": (Signals(memory=1.0), 75.0),
    "answer at its threshold": (Signals(response_seconds=1.0), 100.0),
    "answer at three times": (Signals(response_seconds=3.0), 87.5),
    "answer at five times": (Signals(response_seconds=5.0), 75.0),
    "answer never": (Signals(response_seconds=math.inf), 75.0),
    "errors half of full": (Signals(error_rate=0.10), 75.0),
    "errors full": (Signals(error_rate=0.20), 50.0),
    "error lines half of full": (Signals(error_lines=25), 95.0),
    "negative readings cost nothing": (Signals(cpu=-1.0, error_rate=-1.0, error_lines=-5), 100.0),
    "everything full stays at zero": (Signals(None, 1.0, 1.0, 9.0, 1.0, 99), 0.0),
    "penalties add up": (Signals(up=True, cpu=1.0, error_rate=0.10), 50.0),
    "not-a-number is left out": (Signals(up=True, cpu=math.nan, error_rate=0.10), 75.0),
}


@pytest.mark.parametrize(("signals", "expected"), SCORES.values(), ids=SCORES.keys())
def test_health_is_a_hundred_less_penalties(signals: Signals, expected: float | None) -> None:
    found = health.score(signals, WEIGHTS)
    assert expected == (None if found is None else pytest.approx(found))


def test_the_operators_weights_count() -> None:
    assert pytest.approx(30.0) == health.score(Signals(cpu=1.0), HealthSettings(cpu=70.0))
    assert pytest.approx(50.0) == health.score(Signals(error_rate=0.02), HealthSettings(error_rate_full=0.02))


MERGED: dict[str, tuple[list[Signals], Signals]] = {
    "none": ([], Signals()),
    "one": ([Signals(up=True, cpu=0.5)], Signals(up=True, cpu=0.5)),
    "one down is down": ([Signals(up=True), Signals(up=False), Signals()], Signals(up=False)),
    "unknown does not hide up": ([Signals(), Signals(up=True)], Signals(up=True)),
    "worst of each": (
        [Signals(None, 0.1, 0.9, 1.0, None, 3), Signals(None, 0.2, 0.8, None, 0.5, 7)],
        Signals(None, 0.2, 0.9, 1.0, 0.5, 7),
    ),
    "not-a-number was not read": ([Signals(cpu=math.nan), Signals(cpu=0.3)], Signals(cpu=0.3)),
    "only not-a-number": ([Signals(cpu=math.nan)], Signals()),
}


@pytest.mark.parametrize(("readings", "expected"), MERGED.values(), ids=MERGED.keys())
def test_several_probes_give_the_worst_of_each_signal(readings: list[Signals], expected: Signals) -> None:
    assert expected == health.merge(readings)


_FRACTION = st.none() | st.floats()
_SIGNALS = st.builds(
    Signals, up=st.none() | st.booleans(), cpu=_FRACTION, memory=_FRACTION, response_seconds=_FRACTION,
    error_rate=_FRACTION, error_lines=st.none() | st.integers(-(10**6), 10**6),
)  # fmt: skip


@given(_SIGNALS)
def test_health_is_between_zero_and_a_hundred_for_any_reading(signals: Signals) -> None:
    found = health.score(signals, WEIGHTS)
    assert found is None or 0.0 <= found <= 100.0


@given(st.lists(_SIGNALS, min_size=1, max_size=4))
def test_one_more_probe_never_makes_it_look_healthier(readings: list[Signals]) -> None:
    scores = [score for score in (health.score(r, WEIGHTS) for r in readings) if score is not None]
    merged = health.score(health.merge(readings), WEIGHTS)
    assert (merged is None) == (not scores)
    assert merged is None or merged <= min(scores) + 1e-9
