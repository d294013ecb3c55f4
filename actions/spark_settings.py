"""The group `backends.spark`, and what a target on it is."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from oncall_agent.contract import PermanentError, SecretRef, Target

APPLICATION = "spark_application"
WORKER = "spark_worker"
_URL = r"^(https?://[A-Za-z0-9._\[\]:-]+(/[ -~]*)?)?$"


class Submission(BaseModel):
    """What is submitted, once and for all: a runbook names it, and may change nothing in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    app_name: str = Field(min_length=1, max_length=200)
    """Name under which the application is known to its master."""
    resource: str = Field("", max_length=2_000)
    """The program: a path or URL that every worker can read."""
    main_class: str = Field("org.apache.spark.deploy.SparkSubmit", pattern=r"^[A-Za-z0-9_.$]{1,300}$")
    """The default runs a Python program."""
    arguments: tuple[str, ...] = Field((), max_length=100)
    """Of the program."""
    environment: dict[str, str] = Field(default_factory=dict, max_length=50)
    """Of the driver."""
    conf: dict[str, str] = Field(default_factory=dict, max_length=200)
    """Spark's own properties, such as `spark.executor.memory`."""
    manifest: dict[str, Any] = Field(default_factory=dict)
    """For the Kubernetes operator: the SparkApplication, without a name."""
    version: str = Field("", max_length=100)
    """Of the code. When set, a checkpoint is only used again by the version that wrote it."""
    checkpoint: str = Field("", max_length=2_000)
    """Of a streaming query: the folder as this machine sees it, when it sees it at all."""


class SparkSettings(BaseModel):
    """The group `backends.spark`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["standalone", "yarn", "kubernetes"] = "standalone"
    """Who runs the applications; proven on a real server: standalone."""
    master_url: str = Field(min_length=1, pattern=_URL)
    """Web address of the master, of YARN's ResourceManager, or of the Kubernetes API."""
    submit_url: str = Field("", pattern=_URL)
    """Where applications are submitted: the master's REST server, or Livy for YARN."""
    history_url: str = Field("", pattern=_URL)
    """The history server: what became of applications that have ended."""
    spark_master: str = Field("", pattern=r"^(spark://[A-Za-z0-9._:,-]+)?$")
    """Address of the standalone master for drivers, such as `spark://master:7077`."""
    spark_version: str = Field("4.1.4", pattern=r"^\d+\.\d+\.\d+$")
    """Said to the master when submitting."""
    namespace: str = Field("default", pattern=r"^[a-z0-9-]{1,63}$")
    """Of the SparkApplications on Kubernetes."""
    reverse_proxy: bool = True
    """The master forwards to applications and workers (`spark.ui.reverseProxy`). If not, list their hosts."""
    ui_hosts: tuple[str, ...] = Field((), max_length=1_000)
    """Hosts of workers and drivers whose pages may be asked directly."""
    token: SecretRef | None = None
    """Bearer token for all of them, by reference."""
    timeout_seconds: float = Field(10.0, gt=0, le=120)
    """For one call."""
    protected: tuple[str, ...] = Field((), max_length=200)
    """Patterns of application names that are never touched."""
    submissions: dict[str, Submission] = Field(default_factory=dict, max_length=200)
    """What may be submitted, by id."""
    max_executor_memory_mb: int = Field(16_384, ge=256)
    """No retry asks for more."""
    max_bumps: Literal[0, 1, 2] = 2
    """How often in a row an application may be retried with more."""

    @model_validator(mode="after")
    def _can_submit(self) -> Self:
        if self.submit_url and self.kind == "standalone" and not self.spark_master:
            raise ValueError("submit_url needs spark_master on a standalone cluster")
        return self


def text_of(target: Target, key: str) -> str:
    """Give a text of the target's address.

    Raises:
        PermanentError: it is not there.
    """
    value = target.address.get(key)
    if not isinstance(value, str) or not value or len(value) > 200:  # noqa: PLR2004 - longer than any name
        raise PermanentError(f"target {target.name}: the address must have a {key}")
    return value


def submission_of(target: Target, settings: SparkSettings) -> Submission | None:
    """Give what the target's address names to be submitted; None when it names nothing.

    Raises:
        PermanentError: it names something that is not in the settings, or another application.
    """
    key = target.address.get("submission")
    if key is None:
        return None
    found = settings.submissions.get(str(key))
    if found is None:
        raise PermanentError(
            f"target {target.name}: there is no submission {str(key)[:80]!r} in backends.spark"
        )
    if found.app_name != text_of(target, "application"):
        raise PermanentError(f"target {target.name}: the submission is for another application")
    return found


def is_protected(target: Target, settings: SparkSettings, name: str) -> bool:
    """Say whether an application may not be touched, whatever else holds."""
    return target.protected or any(fnmatchcase(name, pattern) for pattern in settings.protected)
