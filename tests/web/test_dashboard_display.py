"""How values are written for people."""

import math

import pytest

from oncall_agent.models import IncidentState, OutcomeStatus, Severity
from oncall_agent.web.pages import display

NOW = 1_700_000_000.0
MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 ms"),
        (0.25, "250 ms"),
        (3.14, "3.1 s"),
        (59.0, "59 s"),
        (61.0, "1 min"),
        (3_600.0, "1 h 0 min"),
        (90_000.0, "25 h 0 min"),
        (200_000.0, "2 d"),
        (-5.0, "0 ms"),
    ],
)
def test_duration_is_written_in_the_units_that_matter(seconds, expected):
    assert expected == display.span(seconds)


@pytest.mark.parametrize(
    ("at", "expected"),
    [(NOW, "now"), (NOW - 12.9, "12 s ago"), (NOW - 125, "2 min ago"), (NOW + 60, "now")],
)
def test_age_is_told_from_now(at, expected):
    assert expected == display.ago(at, NOW)


@pytest.mark.parametrize(
    ("at", "expected"), [(NOW - 1, "now"), (NOW + 42.5, "in 42 s"), (NOW + 900, "in 15 min")]
)
def test_time_left_is_told_from_now(at, expected):
    assert expected == display.left(at, NOW)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, "+0.50"),
        (-0.31, f"{MINUS}0.31"),
        (None, display.NONE),
        (math.nan, display.NONE),
        (math.inf, display.NONE),
    ],
)
def test_reward_has_a_sign_and_what_is_not_finite_is_a_dash(value, expected):
    assert expected == display.signed(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, "100.0 %"), (0.0, "0.0 %"), (0.0004, "<0.1 %"), (None, display.NONE)],
)
def test_small_probability_is_not_written_as_zero(value, expected):
    assert expected == display.percent(value)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://grafana.example/d/1?x=1", "https://grafana.example/d/1?x=1"),
        ("http://alertmanager:9093/#/alerts", "http://alertmanager:9093/#/alerts"),
        ("javascript:alert(1)", ""),
        ("JavaScript:alert(1)", ""),
        ("data:text/html,<script>alert(1)</script>", ""),
        ("//evil.example/", ""),
        ("/control/pause", ""),
        ("http://[broken", ""),
        ("", ""),
    ],
)
def test_only_web_addresses_become_links(link, expected):
    assert expected == display.web_link(link)


def test_json_text_is_bounded():
    assert len(display.pretty({"text": "x" * 100_000})) < 8_100
    assert len(display.short(["x" * 100_000])) == 160


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (22.222222, "22.222"),
        (1_700_000_000.0, "1700000000.0"),
        ("a", "a"),
        (True, "true"),
        (math.nan, "null"),
    ],
)
def test_value_on_one_line_has_few_digits(value, expected):
    assert expected == display.short(value)


def test_unspeakable_time_is_written_anyway():
    assert display.iso(1e300) == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize("word", [*IncidentState, *Severity, *OutcomeStatus])
def test_every_state_has_a_tone_of_its_own_choice(word):
    assert word.value in display.TONES


def test_interval_stays_on_its_axis():
    place = display.interval(5.0, 9.0)
    assert (place["low"], place["mean"], place["high"]) == (0.0, 100.0, 100.0)
    assert display.interval(math.nan, 0.1)["mean"] == place["zero"] == 50.0
