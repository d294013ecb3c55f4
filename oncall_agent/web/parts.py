"""What the web needs of the rest: one frozen value, handed over by whoever puts the daemon together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from oncall_agent.contract.clock import Clock
from oncall_agent.contract.secret import Secret, resolve
from oncall_agent.settings.model import Settings

if TYPE_CHECKING:
    from oncall_agent.rules.placement import Placement
    from oncall_agent.store import Store
    from oncall_agent.telemetry.metrics import Metrics


class ReadinessLike(Protocol):
    """Whether the daemon does its work, and which part does not."""

    @property
    def ok(self) -> bool:
        """Whether every part is well."""
        ...

    @property
    def parts(self) -> Mapping[str, str]:
        """Part -> `ok`, or what is wrong with it."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the web reaches.

    Attributes:
        actions: every registered action with its scorecard, JSON-safe.
        backends: health and breaker state of each backend, JSON-safe.
        readiness: asked by `/readyz`; must not block.
        explain: incident id -> the decision recomputed and compared; `NotFoundError` without one.
        policy: versions, mode shares and estimates of the policy, JSON-safe.
        secrets: reference -> secret; `ConfigError` when it can't be read.
    """

    settings: Settings
    store: Store
    placement: Placement
    clock: Clock
    metrics: Metrics
    actions: Callable[[], list[dict[str, Any]]]
    backends: Callable[[], list[dict[str, Any]]]
    readiness: Callable[[], ReadinessLike]
    explain: Callable[[str], Awaitable[dict[str, Any]]]
    policy: Callable[[], dict[str, Any]]
    secrets: Callable[[str], Secret] = resolve


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)
"""Where a request finds them: `request.app[PARTS]`."""
