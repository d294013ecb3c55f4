"""What becomes of alerts, given what is known of them."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncall_agent.models import (
    Alert,
    AlertStatus,
    Disposition,
    PlacedAlert,
    Severity,
    SuppressReason,
)
from oncall_agent.rules.grouping import Known, KnownAlert, KnownIncident, group, signal_of
from oncall_agent.settings.model import FlapSettings

_NUMBERS = count(1)
FLAP = FlapSettings(count=3, window_seconds=600)
FIRING, RESOLVED = AlertStatus.FIRING, AlertStatus.RESOLVED
OPENED, MERGED, CLEARED = (
    (Disposition.OPENED, None),
    (Disposition.MERGED, None),
    (Disposition.CLEARED, None),
)


def _suppressed(reason: SuppressReason):
    return (Disposition.SUPPRESSED, reason)


def _placed(name="a", status=FIRING, *, key="k", silence="", starts_at=900.0, severity=Severity.WARNING):
    alert = Alert("alertmanager", name, status, "Down", {}, {}, starts_at, severity=severity)
    return PlacedAlert(alert, "down", "web", "shop", key, silence)


def _group(placed, known=None):
    numbers = _NUMBERS
    signed = [(signal_of(row.alert), row) for row in placed]
    return group(signed, known or Known(), flap=FLAP, new_id=lambda: f"id{next(numbers)}")


def _said(grouped):
    return [(row.disposition, row.reason) for row in grouped.accepted]


def _known(*, is_open=True, firing=1, fired="a", joinable=True, status=FIRING, openings=0):
    """One incident `i` of key `k` with one alert."""
    incident = KnownIncident("i", is_open, alert_count=1, firing_count=firing, priority=2)
    return Known(
        alerts={(signal_of(_placed(fired).alert), status): KnownAlert("x", "i")},
        joinable={"k": incident} if joinable else {},
        incidents={"i": incident},
        openings={"k": openings},
    )


@pytest.mark.parametrize(
    ("placed", "known", "expected"),
    [
        pytest.param([_placed()], Known(), [OPENED], id="first of its key opens"),
        pytest.param([_placed("b")], _known(), [MERGED], id="open key merges"),
        pytest.param(
            [_placed()], _known(), [_suppressed(SuppressReason.DUPLICATE)], id="same again is a duplicate"
        ),
        pytest.param(
            [_placed(starts_at=901.0)], _known(), [MERGED], id="same print, other start is another signal"
        ),
        pytest.param([_placed("a"), _placed("b")], Known(), [OPENED, MERGED], id="two of a key in one body"),
        pytest.param(
            [_placed("a"), _placed("b", key="other")], Known(), [OPENED, OPENED], id="two keys in one body"
        ),
        pytest.param([_placed("b")], _known(is_open=False), [MERGED], id="escalated and firing merges"),
        pytest.param(
            [_placed("b")], _known(is_open=False, firing=0), [OPENED], id="escalated and cleared opens"
        ),
        pytest.param(
            [_placed("a", RESOLVED), _placed("b")],
            _known(is_open=False),
            [CLEARED, OPENED],
            id="escalated, cleared in the same body, opens",
        ),
        pytest.param([_placed("a", RESOLVED)], _known(), [CLEARED], id="end of a known one clears"),
        pytest.param(
            [_placed("a", RESOLVED, silence="s")],
            _known(),
            [CLEARED],
            id="a silence does not keep it from clearing",
        ),
        pytest.param(
            [_placed("a", RESOLVED)],
            Known(alerts={(signal_of(_placed().alert), FIRING): KnownAlert("x", "closed")}),
            [_suppressed(SuppressReason.RESOLVED_WITHOUT_FIRING)],
            id="end of one whose incident is resolved",
        ),
        pytest.param(
            [_placed("a", RESOLVED)],
            Known(alerts={(signal_of(_placed().alert), FIRING): KnownAlert("x", None)}),
            [_suppressed(SuppressReason.RESOLVED_WITHOUT_FIRING)],
            id="end of one that was suppressed",
        ),
        pytest.param(
            [_placed("a", RESOLVED), _placed("a")],
            Known(),
            [_suppressed(SuppressReason.RESOLVED_WITHOUT_FIRING), _suppressed(SuppressReason.STALE_FIRING)],
            id="end before its beginning",
        ),
        pytest.param(
            [_placed("a"), _placed("a", RESOLVED), _placed("a")],
            Known(),
            [OPENED, CLEARED, _suppressed(SuppressReason.DUPLICATE)],
            id="beginning, end, late copy of the beginning",
        ),
        pytest.param([_placed(silence="s")], Known(), [_suppressed(SuppressReason.SILENCED)], id="silenced"),
        pytest.param(
            [_placed(silence="s"), _placed("a", RESOLVED, silence="s")],
            Known(),
            [_suppressed(SuppressReason.SILENCED)] * 2,
            id="silenced beginning and end",
        ),
        pytest.param(
            [_placed("b")],
            _known(joinable=False, openings=3),
            [_suppressed(SuppressReason.FLAPPING)],
            id="opened too often within the window",
        ),
    ],
)
def test_disposition(placed, known, expected):
    assert expected == _said(_group(placed, known))


@pytest.mark.parametrize(("openings", "expected"), [(0, False), (1, False), (2, True)])
def test_the_opening_that_reaches_the_count_is_flapping(openings, expected):
    (opening,) = _group([_placed()], Known(openings={"k": openings})).opened
    assert expected is opening.flapping


def test_duplicate_answers_with_what_is_stored():
    (accepted,) = _group([_placed()], _known()).accepted
    assert ("x", "i", "a") == (accepted.id, accepted.incident_id, accepted.fingerprint)


def test_deltas_count_alerts_firing_and_the_loudest():
    placed = [
        _placed("a", RESOLVED),
        _placed("b", severity=Severity.INFO),
        _placed("c", severity=Severity.CRITICAL),
    ]
    delta = _group(placed, _known()).deltas["i"]
    assert (3, 1, 0) == (delta.alerts, delta.firing, delta.priority)


def test_refused_request_leaves_no_trace_and_learnt_one_does():
    known = Known()
    grouped = _group([_placed("a"), _placed("b")], known)
    assert Known() == known
    known.learn(grouped)
    assert (2, 2, True) == (
        known.joinable["k"].alert_count,
        known.joinable["k"].firing_count,
        known.joinable["k"].is_open,
    )
    assert [_suppressed(SuppressReason.DUPLICATE), MERGED] == _said(
        _group([_placed("a"), _placed("c")], known)
    )


def test_signals_sort_by_start_and_stay_short():
    early, late = (signal_of(_placed("x" * 5_000, starts_at=at).alert) for at in (1.7e9, 1.7e9 + 1))
    assert early < late
    assert len(late) < 100


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.sampled_from(AlertStatus), st.sampled_from("kl"), st.booleans()
        ),
        max_size=30,
    ),
    st.integers(0, 30),
)
def test_one_request_and_its_halves_end_the_same(drawn, cut):
    placed = [
        _placed(name, status, key=key, silence="s" if quiet else "") for name, status, key, quiet in drawn
    ]
    whole, halves = Known(), Known()
    said_at_once = _said(_group(placed, whole))
    said_in_turn = []
    for part in (placed[:cut], placed[cut:]):
        grouped = _group(part, halves)
        said_in_turn += _said(grouped)
        halves.learn(grouped)
    assert said_at_once == said_in_turn
    assert len(placed) == len(said_at_once)
