"""Which sessions, connections and parameters of PostgreSQL may be touched: the plain decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from actions.postgres_parameters import out_of_bounds
from actions.postgres_reap import Capacity, ReapParams, choose, complaint, objection, surplus
from actions.postgres_sessions import Session, Wanted, blocked_count, roots_of, select
from actions.postgres_settings import Bounds, PostgresSettings
from actions.sql_text import shape_of

SETTINGS = PostgresSettings(protected_users=("boss",))
ONE = Session(
    pid=1,
    backend_start=10,
    query_start=20,
    query_id=7,
    state="active",
    user="shop",
    application="web",
    database="shop",
    query="SELECT 1",
    query_seconds=100.0,
    state_seconds=100.0,
    transaction_seconds=100.0,
)
LONG = Wanted(min_seconds=60)


def several(count: int, **changes: Any) -> list[Session]:
    return [replace(ONE, pid=pid, **changes) for pid in range(1, count + 1)]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"query_seconds": 59.0}, {}),
        ({"state": "idle"}, {}),
        ({}, {"state": "idle in transaction"}),
        ({}, {"application": "reports"}),
        ({}, {"user": "ann"}),
        ({}, {"query_id": 8}),
        ({}, {"pid": 2}),
        ({}, {"only_blockers": True}),
    ],
    ids=["young", "idle", "another state", "application", "user", "query", "pid", "blocks nobody"],
)
def test_what_does_not_match_is_not_chosen(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    asked = replace(LONG, **wanted)
    assert select([ONE], replace(asked, **{name: getattr(LONG, name) for name in wanted}), SETTINGS).chosen
    assert select([replace(ONE, **changes)], asked, SETTINGS).chosen == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_superuser": True}, "superuser"),
        ({"vacuums": True}, "vacuum"),
        ({"application": "oncall-agent"}, "our own"),
        ({"application": "pg_dump"}, "protected application"),
        ({"user": "boss"}, "protected user"),
    ],
)
def test_some_sessions_are_never_touched(changes: dict[str, Any], reason: str) -> None:
    found = select([replace(ONE, **changes)], LONG, SETTINGS)
    assert ((), {reason: 1}) == (found.chosen, found.skipped)


def test_what_was_too_young_when_the_attempt_began_is_not_part_of_it() -> None:
    assert select([ONE], LONG, SETTINGS, seconds_ago=40.0).chosen == (ONE,)
    assert select([ONE], LONG, SETTINGS, seconds_ago=41.0).chosen == ()


def test_the_longest_comes_first() -> None:
    longer = replace(ONE, pid=2, query_seconds=200.0)
    assert select([ONE, longer], LONG, SETTINGS).chosen == (longer, ONE)


def test_a_blocker_that_waits_itself_is_not_the_root() -> None:
    chain = [ONE, replace(ONE, pid=2, blocked_by=(1,)), replace(ONE, pid=3, blocked_by=(2, 1))]
    assert roots_of(chain) == {1}
    assert blocked_count(chain) == 2
    assert select(chain, replace(LONG, only_blockers=True), SETTINGS).chosen == (ONE,)


REAPING = ReapParams(applications=("web",), min_seconds=60, max_n=5)


@pytest.mark.parametrize(
    ("used", "changes", "expected"),
    [
        (9, {}, 1),
        (12, {}, 4),
        (20, {}, 5),
        (12, {"min_idle": 4}, 2),
        (8, {}, 0),
        (12, {"applications": ("other",)}, 0),
        (12, {"state": "idle in transaction"}, 0),
        (12, {"min_seconds": 101}, 0),
    ],
    ids=["one", "as needed", "max_n", "min_idle", "has room", "application", "state", "young"],
)
def test_as_few_connections_as_needed_are_ended(used: int, changes: dict[str, Any], expected: int) -> None:
    params = REAPING.model_copy(update=changes)
    found = several(6, state="idle")
    assert len(choose(found, Capacity(allowed=10, used=used), params, SETTINGS)) == expected


def test_connections_are_not_ended_when_it_is_not_full_or_would_not_help() -> None:
    assert "not full" in objection(Capacity(allowed=10, used=8), (), REAPING)
    assert "would not help" in objection(Capacity(allowed=10, used=10), (ONE,), REAPING)
    assert objection(Capacity(allowed=10, used=9), (ONE,), REAPING) == ""
    assert surplus(Capacity(allowed=10, used=9), REAPING) == 1


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (Capacity(10, 9), "9 of 10 connections are taken"),
        (Capacity(10, 8, commits=5, rollbacks=15), "15 of 20 transactions failed since"),
        (Capacity(10, 8, commits=4, rollbacks=15), ""),
        (Capacity(10, 8, commits=15, rollbacks=15), ""),
    ],
    ids=["full", "harm", "too few to tell", "half"],
)
def test_room_and_no_spike_of_failures_is_well(now: Capacity, expected: str) -> None:
    assert expected == complaint(now, Capacity(10, 8), REAPING)


NUMBER = {"name": "work_mem", "vartype": "integer", "minimum": 64.0, "maximum": 4096.0, "unit": "kB"}
RANGE, WORDS = Bounds(minimum=100, maximum=9999), Bounds(values=("on", "off"))


@pytest.mark.parametrize(
    ("changes", "value", "bounds", "expected"),
    [
        ({}, 100, RANGE, ""),
        ({}, 4096.0, RANGE, ""),
        ({}, 99, RANGE, "99 is outside 100..4096 kB"),
        ({}, 4097, RANGE, "4097 is outside 100..4096 kB"),
        ({}, 100.5, RANGE, "a whole number is needed"),
        ({}, "64MB", RANGE, "a number is needed"),
        ({"vartype": "bool"}, 1, RANGE, "work_mem is no number: give its values in the settings"),
        ({"vartype": "bool"}, "on", WORDS, ""),
        ({"vartype": "bool"}, "maybe", WORDS, "'maybe' is not one of the values allowed"),
    ],
)
def test_a_value_stays_in_both_bounds(
    changes: dict[str, Any], value: Any, bounds: Bounds, expected: str
) -> None:
    assert expected == out_of_bounds({**NUMBER, **changes}, value, bounds)


@pytest.mark.parametrize(
    "name", ["archive_command", "fsync", "ssl_ca_file", "session_preload_libraries", "x; DROP", "Work_Mem"]
)
def test_what_decides_over_safety_can_never_be_allowed(name: str) -> None:
    with pytest.raises(ValidationError):
        PostgresSettings(parameters={name: RANGE})


@pytest.mark.parametrize("said", [{}, {"minimum": 1}, {"minimum": 1, "maximum": 2, "values": ["on"]}])
def test_bounds_say_one_thing(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give minimum and maximum, or values"):
        Bounds.model_validate(said)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT  n FROM t WHERE a = 'x''y' AND b=12.5", "SELECT n FROM t WHERE a = ? AND b=?"),
        ("SELECT $tag$ secret $tag$, E'\\' secret', n1", "SELECT ?, ?, n1"),
        ("SELECT /* secret */ 1 -- secret", "SELECT ?"),
        ("SELECT 'cut in the middle of a secret", "SELECT ?"),
    ],
)
def test_a_statement_shows_no_literals(statement: str, expected: str) -> None:
    assert expected == shape_of(statement)
