"""The executor: one action on one kind of target, in four steps of which only one changes the world."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from oncall_agent.contract.clock import Clock
from oncall_agent.models import Check, JsonObject, Receipt, RiskClass, Target

T = TypeVar("T")

SCORECARD = (
    "dry_run",
    "idempotent",
    "verify_fails_when_sick",
    "rollback_restores",
    "deadline_honoured",
    "secrets_redacted",
)
"""The rules of the contract test; each is done, or exempt with a reason in `ActionSpec.exemptions`."""


class Params(BaseModel):
    """Typed parameters of an action; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class NoParams(Params):
    """For actions that take none."""


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """What an action is, declared once and never changed at run time.

    Attributes:
        id: `system.verb_object`; equal to the entry point's name.
        summary: one sentence for people.
        target_kind: the `Target.kind` that it works on, or `*` for any.
        params: pydantic model of its parameters.
        risk: R1 reversible, no data touched; R2 user-visible; R3 data loss or irreversible.
        reversible: whether `rollback` restores; if not, `irreversible_reason` says why.
        blast_radius: most instances that one execution may touch (unit: instances).
        cooldown_seconds: least time between two attempts on one target.
        deadline_seconds: for precheck, execute and verify together.
        cost: what an execution costs in the unit of the reward, 0..1.
        family: for the policy: restart, rollback, scale, cache, kill, retry, escalate, wait.
        read_only: never changes the world (escalations and waits count as such).
        exemptions: rule of `SCORECARD` -> the reason why it does not apply.
        unproven: why no real server has proven it yet; empty when one has. Never counted as proven.
    """

    id: str
    summary: str
    target_kind: str
    risk: RiskClass
    reversible: bool
    deadline_seconds: float
    params: type[Params] = NoParams
    irreversible_reason: str = ""
    blast_radius: int = 1
    cooldown_seconds: float = 300.0
    cost: float = 0.05
    family: str = "other"
    read_only: bool = False
    exemptions: Mapping[str, str] = field(default_factory=dict)
    unproven: str = ""

    @property
    def system(self) -> str:
        """The part before the dot: which backend it needs."""
        return self.id.partition(".")[0]


class Log(Protocol):
    """The bound logger that an executor is given; names are `noun.past_tense`, values are fields."""

    def info(self, event: str, **fields: Any) -> Any:
        """Say that something took place."""
        ...

    def warning(self, event: str, **fields: Any) -> Any:
        """Say that something is not as it should be."""
        ...


class RunBlocking(Protocol):
    """Runs a blocking call in the bounded thread pool of the executor's system."""

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Awaitable[T]:
        """Await the function's result; `TransientError` when every thread of the pool hangs."""
        ...


async def run_inline(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call directly: a `RunBlocking` for fakes, whose calls do not block."""
    return function(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class ActionContext:
    """All that an executor may know of the attempt; nothing is global.

    Attributes:
        params: an instance of `spec.params`.
        idempotency_key: same key, same attempt: a second execute must not act a second time.
        started_at: wall clock when the attempt was written down.
        deadline_at: by `clock.monotonic()`, when the runner gives up.
        dry_run: execute gives a receipt marked planned and touches nothing.
        incident: JSON-safe summary for pages and diagnostics (id, title, class, severity, timeline).
    """

    target: Target
    params: Any
    idempotency_key: str
    attempt_id: str
    started_at: float
    deadline_at: float
    clock: Clock
    log: Log
    run_blocking: RunBlocking = run_inline
    dry_run: bool = False
    incident: JsonObject = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        """Time until the deadline, never negative."""
        return max(0.0, self.deadline_at - self.clock.monotonic())


class Executor(ABC):
    """One action. An instance lives as long as the daemon and serves many attempts at once.

    `settings` is the operator's `backends.<system>` group, validated by the executor itself. The client is
    opened by `async with` and closed at its end; opening must not fail because the backend is away.
    """

    spec: ClassVar[ActionSpec]

    def __init__(self, settings: JsonObject) -> None:
        self.settings = settings

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the backend answers; read-only, for `/api/v1/backends`. `ctx.target` may be unknown."""
        return Check(ok=True, reason="needs no backend")

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect bounded, read-only evidence before anything is changed."""
        return {}

    @abstractmethod
    async def precheck(self, ctx: ActionContext) -> Check:
        """Say, read-only, whether execute may go on and how many instances it would touch.

        The facts of the check are kept with the attempt: put the snapshot for rollback there too.
        """

    @abstractmethod
    async def execute(self, ctx: ActionContext) -> Receipt:
        """Change the world once per idempotency key, or give a planned receipt when `ctx.dry_run`.

        Raises:
            TransientError: may be repeated by the runner.
            PermanentError: may not; both can carry what was half-done.
        """

    @abstractmethod
    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Ask the symptom, read-only; poll inside the deadline until it held, else `ok=False`.

        After a crash the receipt may hold only the precheck's facts (`receipt.partial`): say then whether
        the fix is seen in the world.
        """

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Restore what was before; safe to call twice. Only called when `spec.reversible`."""
        return Check(ok=False, reason=self.spec.irreversible_reason or "not reversible")
