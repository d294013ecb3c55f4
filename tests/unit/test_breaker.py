"""A backend that keeps failing is left alone, then asked once."""

from __future__ import annotations

from oncall_agent.breaker import Breaker, BreakerState


def opened(at=100.0):
    breaker = Breaker()
    for _ in range(5):
        breaker.record(at, ok=False)
    return breaker


def test_fewer_calls_than_the_least_never_open_it():
    breaker = Breaker()
    for _ in range(4):
        breaker.record(1.0, ok=False)
    assert breaker.state(1.0) is BreakerState.CLOSED


def test_half_of_the_calls_failing_opens_it():
    breaker = Breaker()
    for ok in (True, False, True, False, True, False):
        breaker.record(1.0, ok=ok)
    assert breaker.state(1.0) is BreakerState.OPEN


def test_old_failures_do_not_count():
    breaker = Breaker()
    for at in (0.0, 0.0, 0.0, 0.0, 100.0):
        breaker.record(at, ok=False)
    assert breaker.state(100.0) is BreakerState.CLOSED


def test_after_the_pause_one_success_closes_it():
    breaker = opened()
    assert breaker.state(129.0) is BreakerState.OPEN
    assert breaker.state(130.0) is BreakerState.HALF_OPEN
    breaker.record(130.0, ok=True)
    assert breaker.state(130.0) is BreakerState.CLOSED


def test_a_failure_while_half_open_opens_it_again():
    breaker = opened()
    breaker.record(130.0, ok=False)
    assert breaker.state(150.0) is BreakerState.OPEN
