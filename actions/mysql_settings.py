"""The group `backends.mysql`, and where a target's server is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from oncall_agent.contract import SecretRef, Target

KIND = "mysql_server"
DRILL_PREFIX = "oncall_drill_"
NAME = r"^[A-Za-z0-9_$-]{1,64}$"
_VARIABLE = re.compile(r"^[a-z_][a-z0-9_]{0,63}$")
_FORBIDDEN = re.compile(
    r"^(read_only|super_read_only|event_scheduler|general_log|local_infile|sql_mode|server_id|foreign_key_checks)$"
    r"|^init_|_file$|_dir$|^ssl|^tls|^secure|password|^sql_log_|^log_bin|skip_counter$|^gtid_|^plugin|^validate_"
)

TRANSIENT_ERRORS = (1040, 1158, 1159, 1160, 1161, 1205, 1213, 1129, 2002, 2003, 2006, 2013)


class VariableBounds(BaseModel):
    """What `mysql.set_global` may set one variable to: a range, or a list."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    minimum: float | None = None
    """Smallest number allowed."""
    maximum: float | None = None
    """Largest number allowed."""
    values: tuple[str, ...] = Field((), max_length=50)
    """Or the words allowed, as the server shows them (`ON`, `OFF`, ...)."""

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        has_range = self.minimum is not None and self.maximum is not None
        if has_range == bool(self.values):
            raise ValueError("give minimum and maximum, or values")
        return self


class MySQLSettings(BaseModel):
    """The group `backends.mysql`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Host name or address; a target's address may name another."""
    port: int = Field(3306, ge=1, le=65535)
    """Port of the server itself: a proxy hides the threads."""
    user: str = "oncall_agent"
    """The account made by `oncall-agent actions can-i --grants`; never root."""
    password: SecretRef | None = None
    """Reference to the account's password."""
    product: Literal["mariadb", "mysql"] = "mariadb"
    """Which one the grants are written for; conversations ask the server itself."""
    tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """How far the connection is secured. MySQL's own password exchange needs TLS."""
    ca_file: str = ""
    """Certificates that `verify-ca` and `verify-full` trust; empty: those of the machine."""
    timeout_seconds: float = Field(10.0, ge=0.5, le=300)
    """For one conversation."""
    protected_users: tuple[str, ...] = Field(("root", "mariadb.sys", "mysql.sys"), max_length=200)
    """Threads of these users are never touched; those of the server and of replication never are anyway."""
    variables: dict[str, VariableBounds] = Field(default_factory=dict, max_length=100)
    """Variables that `mysql.set_global` may set, with their bounds."""
    transient_errors: tuple[int, ...] = Field(TRANSIENT_ERRORS, max_length=100)
    """Error numbers after which a replica may be started again: what it did is simply tried once more."""
    replicas: tuple[str, ...] = Field((), max_length=50)
    """All replicas as `host:port`, asked with the same account before binary logs are removed."""
    backup_position_file: str = ""
    """File whose first word is the binary log with which recovery from the newest good backup begins."""

    @field_validator("variables")
    @classmethod
    def _are_harmless(cls, variables: dict[str, VariableBounds]) -> dict[str, VariableBounds]:
        for name in variables:
            if not _VARIABLE.match(name):
                raise ValueError(f"{name!r} is no name of a variable")
            if _FORBIDDEN.search(name):
                raise ValueError(f"{name} decides over durability, security or replication: not allowed")
        return variables

    @field_validator("replicas")
    @classmethod
    def _have_ports(cls, replicas: tuple[str, ...]) -> tuple[str, ...]:
        for one in replicas:
            host, _, port = one.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"{one!r} is not host:port")
        return replicas


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect."""

    host: str
    port: int


def place_of(target: Target, settings: MySQLSettings) -> Place:
    """Give the target's server; the address may name another, with the same account."""
    address = target.address
    return Place(str(address.get("host") or settings.host), int(address.get("port") or settings.port))


def replica_places(settings: MySQLSettings) -> tuple[Place, ...]:
    """Give the places of the replicas."""
    parts = (one.rpartition(":") for one in settings.replicas)
    return tuple(Place(host, int(port)) for host, _, port in parts)
