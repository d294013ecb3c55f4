"""What the operator says of his Airflow, and how targets name DAGs and pools."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from actions.airflow_words import NAME
from oncall_agent.contract import PermanentError, SecretRef, Target
from oncall_agent.contract.http import host_of

DAG_KIND = "airflow_dag"
POOL_KIND = "airflow_pool"


def _base_url(text: str) -> str:
    try:
        host_of(text)
    except PermanentError as error:
        raise ValueError(error.message) from error
    return text.rstrip("/")


class AirflowSettings(BaseModel):
    """The group `backends.airflow`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    url: Annotated[str, AfterValidator(_base_url)] = "http://127.0.0.1:8080"
    """Base URL of the API server (Airflow 3) or webserver (Airflow 2)."""
    username: str = "oncall-agent"
    """Who signs in."""
    password: SecretRef | None = None
    """The user's password, by reference."""
    token: SecretRef | None = None
    """A bearer token instead of a password, by reference; it is not renewed."""
    timeout_seconds: float = Field(10.0, gt=0, le=300)
    """For one request."""
    allow_tag: str = Field("oncall-agent", min_length=1, max_length=100)
    """Only a DAG with this tag gets tasks cleared."""
    rerun_tag: str = Field("oncall-agent.rerunnable", min_length=1, max_length=100)
    """Only a DAG with this tag is run again as a whole: its owner says that this does no harm."""
    protected_tag: str = Field("oncall-agent.protected", min_length=1, max_length=100)
    """A DAG with this tag is never touched."""
    protected_pools: tuple[str, ...] = ()
    """Pools that are never touched."""
    max_pool_slots: int = Field(128, ge=1, le=100_000)
    """No pool is given more slots than this."""


def dag_of(target: Target) -> str:
    """Give the DAG's id from the target's address."""
    return _named(target, "dag")


def pool_of(target: Target) -> str:
    """Give the pool's name from the target's address."""
    return _named(target, "pool")


def _named(target: Target, key: str) -> str:
    name = target.address.get(key)
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise PermanentError(f"target {target.name}: the address must have a {key}")
    return name
