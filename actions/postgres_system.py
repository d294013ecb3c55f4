"""PostgreSQL as a system: what answers, what our role may do there, and the role that it should have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actions.postgres_client import Conversation, Postgres
from actions.postgres_drills import DRILLS
from actions.postgres_settings import PostgresSettings, home_of
from oncall_agent.contract import Grants, Inspection, Privilege, System, SystemContext
from oncall_agent.models import JsonObject

_SIGNALLING = ("postgres.cancel_query", "postgres.terminate_backend", "postgres.reap_idle")
_VACUUM, _SET, _DROP = "postgres.vacuum_analyze", "postgres.set_param", "postgres.drop_inactive_slot"
_ALL = (*_SIGNALLING, _VACUUM, _SET, _DROP)
_MAINTAIN_SINCE, _RESERVED_SINCE, _CHECKPOINT_SINCE, _ALTER_SINCE = 17, 16, 15, 15
_ATTRIBUTES = ("SUPERUSER", "CREATEDB", "CREATEROLE", "BYPASSRLS", "REPLICATION")
_TOO_MUCH = (
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
)

_SELF = """
SELECT version() AS product, current_setting('server_version') AS version, current_user::text AS identity,
  extract(epoch FROM clock_timestamp())::float8 AS server_time, rolsuper AS "SUPERUSER",
  rolcreatedb AS "CREATEDB", rolcreaterole AS "CREATEROLE", rolbypassrls AS "BYPASSRLS",
  rolreplication AS "REPLICATION"
FROM pg_roles WHERE rolname = current_user
"""
_ROLES = """
SELECT rolname::text AS name, pg_has_role(current_user, oid, 'USAGE') AS held
FROM pg_roles WHERE rolname LIKE 'pg\\_%' OR rolname = ANY($1::text[]) LIMIT 500
"""
_FUNCTION = "SELECT has_function_privilege($1, 'EXECUTE')"
_PARAMETER = "SELECT has_parameter_privilege($1, 'ALTER SYSTEM')"


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that some actions need: a role, an attribute, a function or a parameter, and since when."""

    kind: str
    name: str
    actions: tuple[str, ...]
    since: int = 0
    until: int = 1_000

    @property
    def shown(self) -> str:
        """Give it in the server's words."""
        return {
            "function": f"EXECUTE ON FUNCTION {self.name}",
            "parameter": f"ALTER SYSTEM ON PARAMETER {self.name}",
            "owner": f"member of {self.name}",
        }.get(self.kind, self.name)

    @property
    def statement(self) -> str:
        """Give the SQL that grants it to the agent's role."""
        return {
            "attribute": f"ALTER ROLE oncall_agent {self.name}",
            "function": f"GRANT {self.shown} TO oncall_agent",
            "parameter": f"GRANT {self.shown} TO oncall_agent",
        }.get(self.kind, f"GRANT {_quoted(self.name)} TO oncall_agent")


class PostgreSQLSystem(System):
    """A PostgreSQL server."""

    name = "postgres"
    drills = DRILLS

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._pg = Postgres(PostgresSettings.model_validate(dict(settings)))

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Read version, clock, our role and what it may do."""
        seconds = min(ctx.seconds_left, self._pg.settings.timeout_seconds)
        async with self._pg.talk(home_of(self._pg.settings), seconds) as db:
            own = await db.row(_SELF) or {}
            privileges = await self._privileges(db, own, actions)
        product = str(own["product"]).split(" on ")[0]
        is_postgres = product.startswith("PostgreSQL")
        return Inspection(
            product="PostgreSQL" if is_postgres else f"PostgreSQL-compatible ({product.split()[0]})",
            version=str(own["version"]).split()[0],
            unsupported="" if is_postgres else "only PostgreSQL itself has the views that the actions read",
            identity=str(own["identity"]),
            server_time=float(own["server_time"]),
            privileges=privileges,
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the role as SQL; what depends on the server's version decides there."""
        lines = [
            "-- Once, as a superuser, in the database that backends.postgres.database names.",
            "CREATE ROLE oncall_agent LOGIN PASSWORD '<password>' CONNECTION LIMIT 20;",
            *(_granted(need) for need in self._needs(actions)),
        ]
        if _VACUUM in actions and not self._pg.settings.table_owners:
            lines.append(
                "-- Before PostgreSQL 17 vacuum_analyze needs membership in the owners of the tables:"
                " name them in backends.postgres.table_owners."
            )
        return Grants(
            "sql", "\n".join(lines) + "\n", "Run it with psql as a superuser, with a password of your own."
        )

    def _needs(self, actions: Sequence[str]) -> list[Need]:
        settings, wanted = self._pg.settings, [one for one in _ALL if one in actions]
        needs = [
            Need("role", "pg_read_all_stats", tuple(wanted)),
            Need("role", "pg_signal_backend", _SIGNALLING),
            Need("role", "pg_use_reserved_connections", ("postgres.reap_idle",), since=_RESERVED_SINCE),
            Need("role", "pg_maintain", (_VACUUM,), since=_MAINTAIN_SINCE),
            *(Need("owner", owner, (_VACUUM,), until=_MAINTAIN_SINCE - 1) for owner in settings.table_owners),
            Need("role", "pg_read_all_settings", (_SET,)),
            Need("function", "pg_reload_conf()", (_SET,)),
            *(Need("parameter", name, (_SET,), since=_ALTER_SINCE) for name in sorted(settings.parameters)),
            Need("attribute", "REPLICATION", (_DROP,)),
            Need("function", "pg_ls_waldir()", (_DROP,)),
            Need("role", "pg_checkpoint", (_DROP,), since=_CHECKPOINT_SINCE),
        ]
        kept = ((need, tuple(one for one in need.actions if one in wanted)) for need in needs)
        return [
            Need(n.kind, n.name, by, n.since, n.until)
            for n, by in kept
            if by or n.name == "pg_read_all_stats"
        ]

    async def _privileges(
        self, db: Conversation, own: JsonObject, actions: Sequence[str]
    ) -> tuple[Privilege, ...]:
        needs = [need for need in self._needs(actions) if need.since <= db.version <= need.until]
        owners = [need.name for need in needs if need.kind == "owner"]
        roles = {row["name"]: bool(row["held"]) for row in await db.rows(_ROLES, owners)}
        found = []
        for need in needs:
            if need.kind == "attribute":
                held = bool(own[need.name])
            elif need.kind in ("function", "parameter"):
                held = bool(await db.value(_FUNCTION if need.kind == "function" else _PARAMETER, need.name))
            else:
                held = roles.get(need.name, False)
            found.append(Privilege(need.shown, held, need.actions))
        return (*found, *_too_much(own, roles, {need.name for need in needs}))


def _too_much(own: JsonObject, roles: dict[str, bool], needed: Iterable[str]) -> list[Privilege]:
    extra = [(name, bool(own[name])) for name in _ATTRIBUTES] + [
        (name, roles.get(name, False)) for name in _TOO_MUCH
    ]
    return [Privilege(name, held) for name, held in extra if name not in needed]


def _granted(need: Need) -> str:
    if not need.since and need.until > _MAINTAIN_SINCE:
        return f"{need.statement};"
    # Older and newer servers know other roles: the statement is hidden from those that don't.
    lower, upper = need.since * 10_000, (need.until + 1) * 10_000
    test = f"current_setting('server_version_num')::int >= {lower}"
    if need.until < _MAINTAIN_SINCE:
        test = f"current_setting('server_version_num')::int < {upper}"
    return f"DO $$ BEGIN IF {test} THEN EXECUTE $s${need.statement}$s$; END IF; END $$;"


def _quoted(name: str) -> str:
    return name if name.startswith("pg_") else '"' + name.replace('"', '""') + '"'
