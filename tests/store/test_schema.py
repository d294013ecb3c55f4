"""The schema: migrations give what the tables say, and every frequent question has its index."""

import re
from collections.abc import Iterator

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text
from store.building import placed

from oncall_agent.errors import ConfigError
from oncall_agent.store import (
    accept,
    audit,
    claim,
    commit,
    housekeeping,
    ledger,
    limits,
    lists,
    migrate,
    operator,
    past,
    policy_state,
    reads,
    schema,
    targets,
    unit,
    usage,
    verdicts,
)
from oncall_agent.store import store as store_module
from oncall_agent.store.database import Database
from oncall_agent.store.statement import Statement

_MODULES = (
    accept, audit, claim, commit, housekeeping, ledger, limits, operator, past, policy_state, reads, store_module,
    targets, unit, usage, verdicts,
)  # fmt: skip
_MAY_SCAN = {
    # The equation of promise 1 counts rows on purpose, each over an index that covers it.
    "reads._BY_STATE", "reads._BY_REASON", "reads._REPEATS", "reads._ROWS",
    # A handful of rows.
    "unit._ALL",
}  # fmt: skip


@pytest.fixture
def fresh(durable_url: str) -> Iterator[Database]:
    database = Database(durable_url)
    yield database
    database.close()


def _tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def test_upgrade_makes_what_the_tables_say_and_downgrade_takes_it_away(fresh: Database):
    assert migrate.bring_up(fresh)
    with fresh.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert [] == compare_metadata(context, schema.metadata)
    assert set(schema.metadata.tables) == _tables(fresh.engine)
    with fresh.engine.begin() as connection:
        migrate.to_revision(connection, "base")
    assert set() == _tables(fresh.engine)
    assert migrate.bring_up(fresh)
    assert set(schema.metadata.tables) == _tables(fresh.engine)


def _indices(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
    return {name: re.sub(r"\s+", " ", sql) for name, sql in rows if name != "alembic_version"}


def test_migrated_tables_and_partial_indices_are_the_same_to_the_letter(tmp_path):
    migrated = Database(f"sqlite:///{tmp_path}/migrated.db")
    migrate.bring_up(migrated)
    created = sqlalchemy.create_engine("sqlite://")
    schema.metadata.create_all(created)
    assert _indices(created) == _indices(migrated.engine)
    created.dispose()
    migrated.close()


def test_schema_that_is_up_to_date_is_left_alone(fresh: Database):
    assert (True, False) == (migrate.bring_up(fresh), migrate.bring_up(fresh))


def test_known_revisions_are_those_of_alembic():
    config = Config()
    config.set_main_option("script_location", "oncall_agent:store/migrations")
    script = ScriptDirectory.from_config(config)
    assert list(schema.REVISIONS) == [revision.revision for revision in script.walk_revisions()][::-1]


async def test_database_of_a_newer_program_is_refused(durable_url, open_store):
    database = Database(durable_url)
    migrate.bring_up(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(ConfigError, match=r"9999.*newer"):
        await open_store(durable_url)


async def test_stored_alerts_survive_going_down_to_the_first_revision_and_up_again(durable_url, open_store):
    store = await open_store(durable_url)
    await store.accept([placed("a")], 1_000.0)
    await store.close()
    database = Database(durable_url)
    with database.engine.begin() as connection:
        migrate.to_revision(connection, schema.REVISIONS[0])
    database.close()
    assert 1 == (await (await open_store(durable_url)).conservation()).accepted


def _statements() -> Iterator[tuple[str, Statement]]:
    for module in _MODULES:
        for name, value in vars(module).items():
            if isinstance(value, Statement):
                yield f"{module.__name__.rpartition('.')[2]}.{name}", value
    for states in ((), ("queued",), ("parked", "queued"), lists.states_of("open")):
        for number in range(8):
            flags = [bool(number >> bit & 1) for bit in range(3)]
            yield f"lists.incidents{states}{flags}", lists._incidents(states, *flags)
    for number in range(8):
        flags = [bool(number >> bit & 1) for bit in range(3)]
        yield f"lists.attempts{flags}", lists._attempts(*flags)
    yield "lists._PENDING", lists._PENDING


@pytest.mark.parametrize(("name", "statement"), [pytest.param(*pair, id=pair[0]) for pair in _statements()])
def test_no_frequent_question_walks_a_whole_table(name, statement, planner):
    plan = statement.plan(planner.dialect)
    rows = planner.raw.execute(f"EXPLAIN QUERY PLAN {plan.sql}", [None] * len(plan.names)).fetchall()
    told = [row[3] for row in rows]
    scans = [line for line in told if line.startswith("SCAN") and not _is_harmless(line)]
    assert name in _MAY_SCAN or [] == scans, told
    assert not (name in _MAY_SCAN and any("USING" not in line for line in scans)) or name == "unit._ALL"


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        pytest.param(claim._QUEUED, "ix_incidents_queued", id="queued"),
        pytest.param(claim._DUE, "ix_incidents_parked", id="due"),
        pytest.param(claim._LAPSED, "ix_incidents_leased", id="lapsed"),
        pytest.param(targets._NEXT, "ix_incidents_blocked", id="blocked"),
        pytest.param(store_module._FIRST_DUE, "ix_incidents_parked", id="next timer"),
        pytest.param(accept._OPEN, "uq_incidents_open", id="open of a key"),
        pytest.param(accept._ESCALATED, "ix_incidents_escalated", id="escalated of a key"),
        pytest.param(past._CLOSED_OPENINGS, "ix_incidents_past", id="openings of a key"),
        pytest.param(verdicts._LAPSED, "ix_approvals_pending", id="lapsed approvals"),
        pytest.param(housekeeping._OLD, "ix_incidents_closed", id="too old"),
        pytest.param(limits._LATEST, "ix_attempts_target", id="cooldown"),
    ],
)
def test_queue_is_read_in_order_from_its_own_index(statement, index, planner):
    plan = statement.plan(planner.dialect)
    told = [row[3] for row in planner.raw.execute(f"EXPLAIN QUERY PLAN {plan.sql}", [None] * len(plan.names))]
    assert index in told[0]
    assert not any("TEMP B-TREE" in line for line in told)


def _is_harmless(line: str) -> bool:
    """Parameters as rows, parts of a merged list, and walks along an index that a limit ends."""
    return bool(
        re.match(r"SCAN (each_\w+|anon_\d+|\d+ CONSTANT ROW|CONSTANT ROW|\(subquery)", line)
        or re.match(
            r"SCAN (incidents|attempts|approvals|audit|policy_\w+) USING INDEX (sqlite_autoindex_\w+|ix_\w+)$",
            line,
        )
        or re.match(r"SCAN (audit|policy_\w+|timeline)$", line)
        or re.match(r"SCAN \w+ USING COVERING INDEX ix_incidents_(parked|leased)$", line)
    )


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    class Planner:
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('plans')}/plans.db")

    migrate.bring_up(Planner.database)
    Planner.dialect = Planner.database.engine.dialect
    connection = Planner.database.engine.raw_connection()
    Planner.raw = connection.driver_connection
    yield Planner
    connection.close()
    Planner.database.close()
