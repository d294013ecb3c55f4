"""The prober: reads the health of a target without touching it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Self

from oncall_agent.contract.clock import Clock
from oncall_agent.contract.executor import NoParams, Params, RunBlocking
from oncall_agent.models import JsonObject, Signals, Target


@dataclass(frozen=True, slots=True)
class Reading:
    """What one probe saw: the signals it could read and bounded evidence."""

    signals: Signals
    facts: JsonObject = field(default_factory=dict)


class Prober(ABC):
    """One kind of probe. `settings` is the operator's `backends.<kind>` group."""

    kind: ClassVar[str]
    params: ClassVar[type[Params]] = NoParams

    def __init__(self, settings: JsonObject) -> None:
        self.settings = settings

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Read once. A target that is down is a reading with `up=False`, not an error.

        Raises:
            TransientError: the source of the reading itself can't be reached: the probe is blind.
        """
