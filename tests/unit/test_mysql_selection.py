"""Which threads, replicas, variables and binary logs of MySQL and MariaDB may be touched: the plain decisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from actions.mysql_binlogs import PurgeParams, Reader, Source, plan_of, read_position
from actions.mysql_blockers import BlockerParams, judge, objection, table_waits
from actions.mysql_connections import ConnectionParams, choose, unhelpful
from actions.mysql_dialect import MARIADB, MYSQL, dialect_of, variable_privilege, version_of
from actions.mysql_queries import QueryParams, select
from actions.mysql_replica import Replica, complaint, refusal
from actions.mysql_sessions import Thread, Wait
from actions.mysql_settings import MySQLSettings, VariableBounds
from actions.mysql_system import MySQLSystem
from actions.mysql_variables import Variable, out_of_bounds
from oncall_agent.contract import PermanentError

SETTINGS = MySQLSettings(protected_users=("boss",))
ONE = Thread(
    id=1,
    user="shop",
    db="shop",
    command="Query",
    seconds=100.0,
    state="executing",
    query="SELECT n FROM stock",
    query_id=7,
    in_transaction=False,
)
IDLE = replace(ONE, command="Sleep", query="")
LONG = QueryParams(min_seconds=60)


# --- queries and connections ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"seconds": 59.0}, {}),
        ({"command": "Sleep"}, {}),
        ({"query": ""}, {}),
        ({}, {"user": "ann"}),
        ({}, {"database": "books"}),
        ({}, {"query_contains": "DELETE"}),
        ({}, {"only_blockers": True}),
    ],
    ids=["young", "idle", "no query", "user", "database", "text", "blocks nobody"],
)
def test_what_does_not_match_is_not_chosen(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert select([ONE], [], LONG, SETTINGS).chosen == (ONE,)
    params = LONG.model_copy(update=wanted)
    assert select([replace(ONE, **changes)], [], params, SETTINGS).chosen == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user": "system user"}, "system thread"),
        ({"user": "event_scheduler"}, "system thread"),
        ({"command": "Binlog Dump GTID"}, "replication"),
        ({"command": "Slave_SQL"}, "replication"),
        ({"query": "SELECT /*!40001 SQL_NO_CACHE */ * FROM stock"}, "backup"),
        ({"query": "LOCK INSTANCE FOR BACKUP"}, "backup"),
        ({"user": "boss"}, "protected user"),
    ],
)
def test_some_threads_are_never_touched(changes: dict[str, Any], reason: str) -> None:
    found = select([replace(ONE, **changes)], [], LONG, SETTINGS)
    assert ((), {reason: 1}) == (found.chosen, found.skipped)


def test_what_was_too_young_when_the_attempt_began_is_not_part_of_it() -> None:
    assert select([ONE], [], LONG, SETTINGS, seconds_ago=40.0).chosen == (ONE,)
    assert select([ONE], [], LONG, SETTINGS, seconds_ago=41.0).chosen == ()


REAPING = ConnectionParams(users=("shop",), min_seconds=60, max_n=5)


@pytest.mark.parametrize(
    ("allowed", "changes", "expected"),
    [
        (7, {}, 1),
        (5, {}, 2),
        (1, {}, 5),
        (5, {"min_idle": 5}, 1),
        (8, {}, 0),
        (5, {"users": ("other",)}, 0),
        (5, {"min_seconds": 101}, 0),
    ],
    ids=["one", "as needed", "max_n", "min_idle", "has room", "user", "young"],
)
def test_as_few_connections_as_needed_are_ended(allowed: int, changes: dict[str, Any], expected: int) -> None:
    found = [replace(IDLE, id=number) for number in range(1, 7)]
    params = REAPING.model_copy(update=changes)
    assert len(choose(found, allowed, params, SETTINGS)) == expected


def test_transactions_are_ended_only_when_asked_for() -> None:
    inside = [replace(IDLE, id=number, in_transaction=True) for number in (1, 2)]
    assert choose(inside, 1, REAPING, SETTINGS) == ()
    wide = REAPING.model_copy(update={"with_transactions": True})
    assert len(choose(inside, 1, wide, SETTINGS)) == 1
    assert "not full" in unhelpful(8, 10, 0, REAPING)
    assert "would not help" in unhelpful(10, 10, 1, REAPING)


# --- blockers -------------------------------------------------------------------------------------------

TABLE = BlockerParams(database="shop", table="stock", min_seconds=60)
QUEUED = replace(ONE, id=2, state="Waiting for table metadata lock", query="ALTER TABLE stock ADD m INT")


def held(*ids: int, waiting: int | None = None, place: str = "shop.stock") -> list[dict[str, Any]]:
    return [{"holder": number, "place": place, "waiting": waiting} for number in ids]


@pytest.mark.parametrize(
    ("changes", "holders", "expected"),
    [
        ({}, held(1), [(2, 1)]),
        ({}, held(1, 2), [(2, 1)]),
        ({}, held(1, place="shop.orders"), []),
        ({"query": "ALTER TABLE stocks ADD m INT"}, held(1), []),
        ({"query": "ALTER TABLE shop.stock ADD m INT", "db": ""}, held(1), [(2, 1)]),
        ({"db": "books"}, held(1), []),
        ({"state": "executing"}, held(1), []),
        ({"state": "executing"}, [*held(1, waiting=0), *held(2, waiting=1)], [(2, 1)]),
    ],
    ids=[
        "holder",
        "a waiter holds too",
        "another table",
        "another name",
        "qualified",
        "another database",
        "runs",
        "MySQL",
    ],
)
def test_who_waits_for_whom_on_a_table(
    changes: dict[str, Any], holders: list[dict[str, Any]], expected: list[tuple[int, int]]
) -> None:
    waits = table_waits([ONE, replace(QUEUED, **changes)], holders, TABLE)
    assert expected == [(one.waiting, one.blocking) for one in waits]


def test_only_who_waits_for_nobody_and_may_be_touched_is_a_blocker() -> None:
    last = replace(QUEUED, id=3)
    waits = [Wait(2, 1, "shop.stock"), Wait(3, 2, "shop.stock"), Wait(3, 1, "shop.stock")]
    jam = judge([ONE, QUEUED, last], waits, TABLE, SETTINGS, is_blind=False)
    assert (jam.blockers, jam.waiting, objection(jam, TABLE)) == ((ONE,), 2, "")
    boss = judge([replace(ONE, user="boss"), QUEUED, last], waits, TABLE, SETTINGS, is_blind=False)
    assert "1 protected user" in objection(boss, TABLE)
    assert "nobody waits" in objection(judge([ONE], [], TABLE, SETTINGS, is_blind=True), TABLE)
    assert "metadata_lock_info" in objection(judge([QUEUED], [], TABLE, SETTINGS, is_blind=True), TABLE)
    assert "only 100.0 s" in objection(jam, TABLE.model_copy(update={"min_seconds": 101}))


# --- replicas -------------------------------------------------------------------------------------------

STOPPED = Replica("Yes", "No", receiver_error=0, applier_error=1205, lag=None, skips=0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"applier": "Yes", "receiver": "No", "receiver_error": 2003}, ""),
        ({"applier": "Yes", "applier_error": 0}, "the replica runs"),
        ({"applier": "Yes", "receiver": "Connecting"}, "the receiver connects again by itself"),
        ({"applier_error": 0}, "it was stopped without an error: somebody wanted that"),
        ({"applier_error": 1062}, "error 1062 does not pass by itself: left to people"),
        ({"receiver": "No", "receiver_error": 1236}, "error 1236 does not pass by itself: left to people"),
        ({"skips": 2}, "it is set to skip 2 events: left to people"),
    ],
)
def test_only_what_stopped_over_something_passing_is_started(changes: dict[str, Any], expected: str) -> None:
    assert expected == refusal(replace(STOPPED, **changes), SETTINGS)


@pytest.mark.parametrize(
    ("lag", "seen", "is_well"),
    [
        (10.0, [], True),
        (100.0, [], False),
        (100.0, [120.0], True),
        (100.0, [100.0], False),
        (None, [], False),
    ],
)
def test_a_long_lag_has_to_fall(lag: float | None, seen: list[float], is_well: bool) -> None:
    runs = replace(STOPPED, applier="Yes", lag=lag)
    assert is_well == (complaint(runs, seen, 60.0) == "")
    assert "applier No" in complaint(STOPPED, [], 60.0)


# --- binary logs ----------------------------------------------------------------------------------------

FILES = tuple((f"binlog.{number:06}", 10) for number in range(1, 7))
SOURCE = Source(FILES, server_id=1, readers=frozenset((2,)), dumps=1)
COPY = Reader("db2:3306", 2, "binlog.000004")
KEEP = PurgeParams(keep_files=1, min_bytes=10)


@pytest.mark.parametrize(
    ("applied", "backup", "keep", "expected"),
    [(4, 5, 1, 4), (5, 3, 1, 3), (5, 5, 4, 3), (6, 6, 1, 6)],
    ids=["the replica", "the backup", "to keep", "all but the newest"],
)
def test_the_oldest_log_that_anybody_needs_stays(applied: int, backup: int, keep: int, expected: int) -> None:
    reader = replace(COPY, applied=f"binlog.{applied:06}")
    params = KEEP.model_copy(update={"keep_files": keep})
    plan = plan_of(SOURCE, [reader], f"binlog.{backup:06}", params)
    assert (f"binlog.{expected:06}", expected - 1, 10 * (expected - 1), "") == (
        plan.target,
        plan.files,
        plan.size,
        plan.reason,
    )


@pytest.mark.parametrize(
    ("source", "readers", "backup", "expected"),
    [
        ({"files": ()}, [COPY], "binlog.000005", "writes no binary logs"),
        ({}, [COPY], "", "nothing is known of the newest backup"),
        ({}, [COPY], "binlog.000009", "which is not among"),
        ({}, [], "binlog.000005", "not named in backends.mysql.replicas (server id 2)"),
        ({"readers": frozenset((2, 3))}, [COPY], "binlog.000005", "server id 3"),
        ({"dumps": 2}, [COPY], "binlog.000005", "not registered"),
        ({}, [replace(COPY, applied="")], "binlog.000005", "db2:3306 has applied nothing"),
        ({}, [replace(COPY, applied="binlog.000001")], "binlog.000005", "only 0 bytes"),
    ],
)
def test_without_knowing_who_needs_what_nothing_goes(
    source: dict[str, Any], readers: list[Reader], backup: str, expected: str
) -> None:
    assert expected in plan_of(replace(SOURCE, **source), readers, backup, KEEP).reason


def test_the_backups_position_is_its_first_word(tmp_path: Path) -> None:
    (tmp_path / "position").write_text("./binlog.000007\t157\tgtid\n")
    (tmp_path / "empty").write_text("")
    read = [read_position(str(tmp_path / name)) for name in ("position", "empty", "none")]
    assert ["binlog.000007", "", ""] == read
    assert read_position("") == ""


# --- variables and products -----------------------------------------------------------------------------

NUMBER = Variable("max_connections", "151", is_dynamic=True, minimum=10.0, maximum=None)
RANGE, WORDS = VariableBounds(minimum=100, maximum=500), VariableBounds(values=("ON", "OFF"))


@pytest.mark.parametrize(
    ("value", "bounds", "now", "expected"),
    [
        (100, RANGE, "151", ""),
        (99, RANGE, "151", "99 is outside 100..500"),
        (501, RANGE, "151", "501 is outside 100..500"),
        ("200", RANGE, "151", "a number is needed"),
        (200, RANGE, "ON", "max_connections is no number: give its values in the settings"),
        ("ON", WORDS, "OFF", ""),
        ("MAYBE", WORDS, "OFF", "'MAYBE' is not one of the values allowed"),
    ],
)
def test_a_value_stays_in_both_bounds(value: Any, bounds: VariableBounds, now: str, expected: str) -> None:
    assert expected == out_of_bounds(replace(NUMBER, value=now), value, bounds)


@pytest.mark.parametrize(
    "name", ["read_only", "init_connect", "slow_query_log_file", "gtid_mode", "X", "a; b"]
)
def test_what_decides_over_safety_can_never_be_allowed(name: str) -> None:
    with pytest.raises(ValidationError):
        MySQLSettings(variables={name: RANGE})


@pytest.mark.parametrize(
    ("said", "version", "product"),
    [
        ("5.5.5-10.11.6-MariaDB-1:10.11.6+maria~deb12", (10, 11, 6), MARIADB),
        ("10.11.19-MariaDB", (10, 11, 19), MARIADB),
        ("8.0.36", (8, 0, 36), MYSQL),
        ("9.7.4-2", (9, 7, 4), MYSQL),
    ],
)
def test_a_server_says_what_it_is(said: str, version: tuple[int, int, int], product: object) -> None:
    assert (version, product) == (version_of(said), dialect_of(said))


@pytest.mark.parametrize("said", ["5.7.44-log", "5.5.5-10.3.39-MariaDB", "8.0.21", "nonsense"])
def test_an_old_server_is_refused(said: str) -> None:
    with pytest.raises(PermanentError, match="is not supported"):
        dialect_of(said)


def test_each_product_gets_the_grants_in_its_own_words() -> None:
    actions = ("mysql.kill_query", "mysql.set_global")
    variables = {"max_connections": {"minimum": 1, "maximum": 2}}
    maria = MySQLSystem({"variables": variables}).grants(actions).text
    mysql = MySQLSystem({"variables": variables, "product": "mysql"}).grants(actions).text
    assert "GRANT PROCESS, CONNECTION ADMIN ON *.* TO" in maria
    assert "GRANT PROCESS, CONNECTION_ADMIN, SYSTEM_VARIABLES_ADMIN ON *.* TO" in mysql
    assert "GRANT SELECT ON performance_schema.* TO" in mysql
    assert ("SUPER", "BINLOG ADMIN") == tuple(
        variable_privilege(name, MARIADB) for name in ("wait_timeout", "sync_binlog")
    )
