"""The group `backends.postgres`, and where a target's database is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from oncall_agent.contract import PermanentError, SecretRef, Target

KIND = "postgres_database"
APPLICATION = "oncall-agent"
DRILL_PREFIX = "oncall_drill_"
NAME = r"^[A-Za-z_][A-Za-z0-9_$.-]{0,62}$"
_PARAMETER = re.compile(r"^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$")
_FORBIDDEN = re.compile(
    r"_command$|_librar(y|ies)$|_file$|^ssl|^krb_|_directory$|^log_destination$|^password_encryption$"
    r"|^session_replication_role$|^(fsync|full_page_writes|zero_damaged_pages|ignore_checksum_failure)$"
    r"|^(autovacuum|row_security|allow_system_table_mods|listen_addresses|search_path)$"
)


class Bounds(BaseModel):
    """What `postgres.set_param` may set one parameter to: a range in the parameter's own unit, or a list."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    minimum: float | None = None
    """Smallest number allowed."""
    maximum: float | None = None
    """Largest number allowed."""
    values: tuple[str, ...] = Field((), max_length=50)
    """Or the words allowed, as `pg_settings` shows them (`on`, `off`, ...)."""

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        has_range = self.minimum is not None and self.maximum is not None
        if has_range == bool(self.values):
            raise ValueError("give minimum and maximum, or values")
        return self


class PostgresSettings(BaseModel):
    """The group `backends.postgres`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Host name, address, or the folder of the Unix socket; a target's address may name another."""
    port: int = Field(5432, ge=1, le=65535)
    """Port of the server itself: a pooler hides the sessions."""
    user: str = "oncall_agent"
    """The role made by `oncall-agent actions can-i --grants`; never a superuser."""
    password: SecretRef | None = None
    """Reference to the role's password."""
    database: str = "postgres"
    """Where to connect for what concerns the whole server."""
    tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """As libpq's `sslmode`."""
    ca_file: str = ""
    """Certificates that `verify-ca` and `verify-full` trust; empty: those of the machine."""
    timeout_seconds: float = Field(10.0, ge=0.5, le=300)
    """For one conversation; a vacuum has a limit of its own."""
    protected_users: tuple[str, ...] = Field((), max_length=200)
    """Sessions of these roles are never touched; those of superusers and of replication never are anyway."""
    protected_applications: tuple[str, ...] = Field(
        ("pg_dump", "pg_dumpall", "pg_basebackup", "pg_restore"), max_length=200
    )
    """Nor are sessions with these application names."""
    parameters: dict[str, Bounds] = Field(default_factory=dict, max_length=100)
    """Parameters that `postgres.set_param` may set, with their bounds."""
    droppable_slots: tuple[str, ...] = Field((), max_length=100)
    """Replication slots whose owners agreed that they may be dropped when nobody reads them."""
    table_owners: tuple[str, ...] = Field((), max_length=100)
    """Roles whose tables are vacuumed. Before PostgreSQL 17 the agent's role has to be a member of them."""
    max_vacuum_bytes: int = Field(53_687_091_200, ge=1)
    """A table larger than this is left to people."""

    @field_validator("parameters")
    @classmethod
    def _are_harmless(cls, parameters: dict[str, Bounds]) -> dict[str, Bounds]:
        for name in parameters:
            if not _PARAMETER.match(name):
                raise ValueError(f"{name!r} is no name of a parameter")
            if _FORBIDDEN.search(name):
                raise ValueError(
                    f"{name} decides over durability, security or what the server runs: not allowed"
                )
        return parameters


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect."""

    host: str
    port: int
    database: str


def place_of(target: Target, settings: PostgresSettings) -> Place:
    """Give the target's database; the address may name another server, with the same credentials."""
    database = target.address.get("database")
    if not isinstance(database, str) or not database:
        raise PermanentError(f"target {target.name}: the address must have a database")
    return Place(
        str(target.address.get("host") or settings.host),
        int(target.address.get("port") or settings.port),
        database,
    )


def home_of(settings: PostgresSettings) -> Place:
    """Give the place for what concerns the whole server."""
    return Place(settings.host, settings.port, settings.database)
