"""What runs Spark applications, as far as the actions need to know it; one class per kind, one table."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from actions.spark_http import SparkHttp
from actions.spark_settings import Submission
from oncall_agent.contract import PermanentError

ATTEMPT_KEY = "spark.oncall.attempt"
BUMP_KEY = "spark.oncall.bump"
VERSION_KEY = "spark.oncall.version"


@dataclass(frozen=True, slots=True)
class Application:
    """One application; times are the cluster's, epoch seconds.

    Attributes:
        state: in the words of its master: RUNNING, FINISHED, KILLED, FAILED, ...
        is_over: it has ended, however.
        cores: granted to it now; None when its master does not tell.
    """

    id: str
    name: str
    state: str
    started_at: float
    is_over: bool
    cores: int | None = None
    memory_mb: int | None = None

    def as_facts(self) -> dict[str, Any]:
        """Give it as JSON-safe evidence."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sent:
    """One submission as its server tells it."""

    id: str
    state: str
    is_over: bool
    has_succeeded: bool


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker of a standalone cluster."""

    id: str
    host: str
    state: str
    cores: int
    cores_used: int
    memory_mb: int
    memory_used_mb: int

    @property
    def is_alive(self) -> bool:
        """Whether it takes executors."""
        return self.state == "ALIVE"


@dataclass(frozen=True, slots=True)
class Product:
    """What answers."""

    name: str
    version: str
    server_time: float | None


class Master(ABC):
    """One kind of cluster. `seconds` is what the attempt has left; errors are those of `SparkHttp`."""

    kind: ClassVar[str]

    def __init__(self, http: SparkHttp) -> None:
        self.http, self.settings = http, http.settings

    @property
    def url(self) -> str:
        """Its web address without a slash at the end."""
        return self.settings.master_url.rstrip("/")

    @abstractmethod
    async def product(self, seconds: float) -> Product:
        """Say what it is."""

    @abstractmethod
    async def applications(self, seconds: float, name: str) -> tuple[Application, ...]:
        """Give the applications of that name that it knows, newest first."""

    @abstractmethod
    async def kill(self, seconds: float, application: Application) -> None:
        """End one application."""

    @abstractmethod
    async def executors_left(self, seconds: float, application: Application) -> int:
        """Give how many executors an application still has."""

    @abstractmethod
    async def submit(self, seconds: float, what: Submission, attempt: str, conf: Mapping[str, str]) -> str:
        """Submit and give the submission's id; `conf` goes over the submission's own."""

    @abstractmethod
    async def find(self, seconds: float, attempt: str, since: float) -> Sent | None:
        """Give what this attempt has submitted before, also from another process."""

    @abstractmethod
    async def sent(self, seconds: float, submission: str) -> Sent:
        """Give what became of a submission."""

    @abstractmethod
    async def withdraw(self, seconds: float, submission: str) -> None:
        """End what was submitted; nothing when it is over."""

    async def ui_of(self, seconds: float, application: Application) -> str:
        """Give the base URL of a running application's own pages.

        Raises:
            PermanentError: they can't be reached through this master.
        """
        raise PermanentError(f"the pages of applications can't be reached through {self.kind}")

    async def workers(self, seconds: float) -> tuple[Worker, ...]:
        """Give the workers."""
        raise PermanentError(f"workers of {self.kind} are not Spark's own")

    async def busy_with_drivers(self, seconds: float, host: str) -> int:
        """Give how many drivers run on the workers of a host."""
        raise PermanentError(f"workers of {self.kind} are not Spark's own")

    async def decommission(self, seconds: float, host: str) -> None:
        """Take the workers of one host out of service, executors moving their blocks away first."""
        raise PermanentError(f"workers of {self.kind} are not Spark's own")


def marks(what: Submission, attempt: str) -> dict[str, str]:
    """Give the properties by which a submission is known again: whose it is, and of which version the code."""
    return {ATTEMPT_KEY: attempt, **({VERSION_KEY: what.version} if what.version else {})}


def megabytes(text: str) -> int:
    """Give a size in Spark's notation as MiB: `512m`, `2g`, `1048576k`, plain bytes.

    Raises:
        PermanentError: it is none.
    """
    units = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
    plain = text.strip().lower().removesuffix("b")
    number, unit = (plain[:-1], plain[-1]) if plain[-1:] in units else (plain, "")
    if not number.isdecimal():
        raise PermanentError(f"not a size: {text[:40]!r}")
    return math.ceil(int(number) * units[unit]) if unit else math.ceil(int(number) / 1_048_576)
