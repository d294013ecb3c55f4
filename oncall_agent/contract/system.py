"""The system behind a family of actions: what it is, what our credentials may do there, how to make it sick.

`oncall-agent validate` inspects each configured system and runs its drills; `actions can-i` compares what is
held with what is needed; `actions can-i --grants` prints the least-privilege role. Nothing here is called
while incidents are handled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Self

from oncall_agent.contract.clock import Clock
from oncall_agent.contract.executor import Log, RunBlocking, run_inline
from oncall_agent.models import Check, JsonObject, Target


@dataclass(frozen=True, slots=True)
class SystemContext:
    """What an inspection or a drill may know; `deadline_at` is by `clock.monotonic()`."""

    clock: Clock
    log: Log
    deadline_at: float
    run_blocking: RunBlocking = run_inline

    @property
    def seconds_left(self) -> float:
        """Time until the deadline, never negative."""
        return max(0.0, self.deadline_at - self.clock.monotonic())


@dataclass(frozen=True, slots=True)
class Privilege:
    """One thing that credentials may or may not do.

    Attributes:
        name: in the system's own words, such as `pg_signal_backend` or `patch deployments/scale`.
        held: whether the credentials have it.
        needed_by: ids of the actions that need it. Held and needed by none is too much.
    """

    name: str
    held: bool
    needed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a system says of itself and of us.

    Attributes:
        product: what answers, honestly: `MongoDB-compatible (FerretDB)` is not `MongoDB`.
        unsupported: why this version is not supported; empty when it is.
        identity: the user, role or account that we are there.
        server_time: its clock, epoch seconds; None when it tells none.
        privileges: what was asked for, held or not; empty with `privileges_unknown` saying why.
    """

    product: str
    version: str
    unsupported: str = ""
    identity: str = ""
    server_time: float | None = None
    privileges: tuple[Privilege, ...] = ()
    privileges_unknown: str = ""


@dataclass(frozen=True, slots=True)
class Grants:
    """The least-privilege role for some actions.

    Attributes:
        language: of `text`: sql, yaml, json, text.
        how_to_apply: one sentence for the operator.
    """

    language: str
    text: str
    how_to_apply: str


@dataclass(frozen=True, slots=True)
class DrillSpec:
    """A drill, declared once.

    Attributes:
        id: `system.fault`, such as `postgres.idle_in_transaction`.
        action: the action that has to heal it.
        scenario: the failure scenario that it belongs to: `database_timeout_recovery`,
            `high_memory_response`, `service_crash_handling`, or the fault's own name.
        summary: one sentence: what is broken, where.
        sandbox: `made` when the drill makes and removes its own harmless target, `named` when the operator
            has to name one (the keys that it needs: `sandbox_keys`).
        deadline_seconds: for preparing, breaking and cleaning up, without the action itself.
    """

    id: str
    action: str
    scenario: str
    summary: str
    sandbox: str = "made"
    sandbox_keys: tuple[str, ...] = ()
    deadline_seconds: float = 60.0

    @property
    def system(self) -> str:
        """The part before the dot."""
        return self.id.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Trial:
    """One prepared drill: what the action is to be carried out on."""

    target: Target
    params: JsonObject = field(default_factory=dict)
    facts: JsonObject = field(default_factory=dict)


class Drill(ABC):
    """A fault made on purpose on a sandbox. One instance serves one run.

    Called in this order: prepare, inject, symptom (must be sick), the action, symptom (must be well),
    clean_up. `settings` is the operator's `backends.<system>` group, `sandbox` what he named for this system.
    """

    spec: ClassVar[DrillSpec]

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        self.settings, self.sandbox = settings, sandbox

    @abstractmethod
    async def prepare(self, ctx: SystemContext) -> Trial:
        """Make or look up the sandbox, healthy.

        Raises:
            PermanentError: the sandbox is not there or not fit; the message says what to name.
        """

    @abstractmethod
    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make the fault."""

    @abstractmethod
    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Ask the sandbox, not the action: `ok` when it is well, else the reason."""

    @abstractmethod
    async def clean_up(self, ctx: SystemContext) -> None:
        """Remove everything that was made; safe at any time, twice, and after a failed prepare."""


class System(ABC):
    """One system; an entry point of the group `oncall_agent.systems` names it by `name`."""

    name: ClassVar[str]
    drills: ClassVar[Sequence[type[Drill]]] = ()

    def __init__(self, settings: JsonObject) -> None:
        self.settings = settings

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection | None:
        """Read version, clock, identity and privileges, for the actions that are switched on.

        None when there is no one backend to ask, because each target answers for itself.

        Raises:
            TransientError: it does not answer.
            PermanentError: it refuses us; the message never holds a secret.
        """

    @abstractmethod
    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the role with which exactly these actions, their probes and `inspect` work, and no more."""
