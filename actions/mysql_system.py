"""MySQL and MariaDB as a system: what answers, what our account may do there, and the account that it should have."""

from __future__ import annotations

from collections.abc import Sequence

from actions.mysql_client import Conversation, MySQL
from actions.mysql_dialect import MARIADB, MYSQL, Dialect, variable_privilege
from actions.mysql_drills import DRILLS
from actions.mysql_sessions import held_privileges
from actions.mysql_settings import MySQLSettings, Place
from oncall_agent.contract import Grants, Inspection, Privilege, System, SystemContext
from oncall_agent.models import JsonObject

_SET = "mysql.set_global"
_LOOKING = ("PROCESS",)
"""What the probe and the diagnostics need whatever else is on."""
_SELF = """
SELECT CURRENT_USER() AS identity, UNIX_TIMESTAMP(NOW(6)) AS server_time, VERSION() AS version
"""
_VIEWS = """
SELECT COUNT(*) AS held FROM information_schema.SCHEMA_PRIVILEGES
WHERE TABLE_SCHEMA = 'performance_schema' AND PRIVILEGE_TYPE = 'SELECT'
"""
_VIEWS_NAME = "SELECT ON performance_schema.*"
_HARMLESS = frozenset(("USAGE",))


class MySQLSystem(System):
    """A MySQL or MariaDB server."""

    name = "mysql"
    drills = DRILLS

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._mysql = MySQL(MySQLSettings.model_validate(dict(settings)))

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Read version, clock, our account and what it may do."""
        settings = self._mysql.settings
        seconds = min(ctx.seconds_left, settings.timeout_seconds)
        place = Place(settings.host, settings.port)
        return await self._mysql.ask(
            ctx.run_blocking, place, seconds, lambda db: self._inspection(db, actions)
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the account as SQL, for the product that the settings name."""
        settings = self._mysql.settings
        dialect = MARIADB if settings.product == "mariadb" else MYSQL
        needs = ", ".join(needs_of(dialect, actions, settings))
        lines = [
            f"-- For {dialect.product}, on the server; on each replica as well if accounts are not replicated.",
            "CREATE USER 'oncall_agent'@'%' IDENTIFIED BY '<password>' WITH MAX_USER_CONNECTIONS 20;",
            f"GRANT {needs} ON *.* TO 'oncall_agent'@'%';",
        ]
        if dialect.needs_tables:
            lines.append(f"{dialect.needs_tables} 'oncall_agent'@'%';")
        how = "Run it as an administrator, with a password of your own and the agent's address for %."
        return Grants("sql", "\n".join(lines) + "\n", how)

    def _inspection(self, db: Conversation, actions: Sequence[str]) -> Inspection:
        own = db.row(_SELF) or {}
        return Inspection(
            product=db.dialect.product,
            version=str(own["version"]).split("-")[0],
            identity=str(own["identity"]),
            server_time=float(own["server_time"]),
            privileges=self._privileges(db, actions),
        )

    def _privileges(self, db: Conversation, actions: Sequence[str]) -> tuple[Privilege, ...]:
        held = held_privileges(db)
        needs = needs_of(db.dialect, actions, self._mysql.settings)
        needed = [Privilege(name, name in held, by) for name, by in needs.items()]
        if db.dialect.needs_tables:
            may_look = bool((db.row(_VIEWS) or {}).get("held")) or "SELECT" in held
            needed.append(Privilege(_VIEWS_NAME, may_look, _by_all(db.dialect, actions)))
        extra = sorted(held - set(needs) - _HARMLESS)
        return (*needed, *(Privilege(name, held=True) for name in extra))


def needs_of(dialect: Dialect, actions: Sequence[str], settings: MySQLSettings) -> dict[str, tuple[str, ...]]:
    """Give each global privilege that is needed and the actions that need it."""
    needs: dict[str, tuple[str, ...]] = {name: _by_all(dialect, actions) for name in _LOOKING}
    for action in actions:
        if action == _SET:
            names = {variable_privilege(name, dialect) for name in settings.variables}
        else:
            names = set(dialect.needs.get(action, ()))
        for name in sorted(names):
            needs[name] = tuple(dict.fromkeys((*needs.get(name, ()), action)))
    return needs


def _by_all(dialect: Dialect, actions: Sequence[str]) -> tuple[str, ...]:
    return tuple(action for action in actions if action in dialect.needs)
