"""Bringing a database to the schema that this program works with. Alembic is imported only when it is needed."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from oncall_agent.errors import ConfigError
from oncall_agent.store.database import Database
from oncall_agent.store.schema import REVISIONS

_LOCK = "SELECT pg_advisory_xact_lock(7231000)"


def bring_up(database: Database) -> bool:
    """Upgrade the schema if it is not the newest; give whether it was changed.

    Raises:
        ConfigError: the database is of a newer program, which this one does not understand.
    """
    with database.engine.begin() as connection:
        if not database.is_sqlite:
            connection.execute(text(_LOCK))  # two replicas may start at once
        current = revision_of(connection)
        if current == REVISIONS[-1]:
            return False
        if current is not None and current not in REVISIONS:
            newest = REVISIONS[-1]
            raise ConfigError(
                f"the database has schema revision {current}, this program knows up to {newest}: "
                "it was used by a newer oncall-agent, upgrade this one",
                key="store.url",
            )
        to_revision(connection, "head")
        return True


def revision_of(connection: Connection) -> str | None:
    """Give the revision that a database has, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def to_revision(connection: Connection, revision: str) -> None:
    """Upgrade, or downgrade to an older revision or `base`, inside the connection's transaction."""
    from alembic import command  # noqa: PLC0415 - a fifth of a second that most starts do not need
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    if revision == "base" or (revision in REVISIONS and _is_older(revision, revision_of(connection))):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def _is_older(revision: str, current: str | None) -> bool:
    return current is not None and REVISIONS.index(revision) < REVISIONS.index(current)
