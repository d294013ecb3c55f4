"""Which executors and probers there are: loaded by entry point, the broken ones reported and left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Any, Self, TypeVar

from oncall_agent.breaker import Breaker, BreakerState
from oncall_agent.contract import SCORECARD, ActionSpec, Executor, Prober, System
from oncall_agent.contract.secret import redact
from oncall_agent.errors import PluginError
from oncall_agent.models import JsonObject

T = TypeVar("T")

ACTION_GROUP = "oncall_agent.actions"
PROBER_GROUP = "oncall_agent.probers"
SYSTEM_GROUP = "oncall_agent.systems"


@dataclass(slots=True)
class Backend:
    """What is known of one system now."""

    system: str
    actions: list[str] = field(default_factory=list)
    breaker: Breaker = field(default_factory=Breaker)
    ok: bool | None = None
    reason: str = "not asked yet"
    checked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Plugins:
    """Classes found by entry point; `off` maps the name of each that can't be used to the reason."""

    actions: Mapping[str, type[Executor]]
    probers: Mapping[str, type[Prober]]
    off: Mapping[str, str]
    systems: Mapping[str, type[System]] = field(default_factory=dict)

    @property
    def specs(self) -> Mapping[str, ActionSpec]:
        """Action id -> its declaration."""
        return {name: kind.spec for name, kind in self.actions.items()}


def find(systems: Collection[str] | None = None) -> Plugins:
    """Import the plugin classes that are installed; nothing is opened, a broken one is only noted.

    Args:
        systems: only those of these systems, so that a daemon never pays for client libraries that its
            configuration does not lead to; None stands for all.
    """
    off: dict[str, str] = {}

    def classes(group: str, load: Callable[[EntryPoint], type[T]], prefix: str) -> dict[str, type[T]]:
        named = entry_points(group=group)
        points = [one for one in named if systems is None or one.name.partition(".")[0] in systems]
        return _classes(points, load, prefix, off)

    return Plugins(
        actions=classes(ACTION_GROUP, _action, ""),
        probers=classes(PROBER_GROUP, _prober, "probe:"),
        systems=classes(SYSTEM_GROUP, _system, "system:"),
        off=off,
    )


def _classes(
    points: Iterable[EntryPoint], load: Callable[[EntryPoint], type[T]], prefix: str, off: dict[str, str]
) -> dict[str, type[T]]:
    found: dict[str, type[T]] = {}
    for point in sorted(points, key=lambda point: point.name):
        try:
            found[point.name] = load(point)
        except PluginError as error:
            off[f"{prefix}{point.name}"] = error.message
    return found


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except ImportError as error:
        raise PluginError(f"its client library is not installed: {error.name or error}") from error
    except Exception as error:  # a plugin may raise anything at import: it is off, the rest works
        raise PluginError(f"{type(error).__name__}: {error}") from error


def _action(point: EntryPoint) -> type[Executor]:
    kind = _load(point)
    if not (isinstance(kind, type) and issubclass(kind, Executor)):
        raise PluginError("is not an Executor class")
    spec = getattr(kind, "spec", None)
    if not isinstance(spec, ActionSpec):
        raise PluginError("declares no spec")
    if spec.id != point.name:
        raise PluginError(f"its spec is named {spec.id!r}")
    if not spec.reversible and not spec.irreversible_reason:
        raise PluginError("is neither reversible nor says why not")
    unknown = set(spec.exemptions) - set(SCORECARD)
    if unknown:
        raise PluginError(f"is exempt from rules that do not exist: {sorted(unknown)}")
    return kind


def _prober(point: EntryPoint) -> type[Prober]:
    kind = _load(point)
    if not (isinstance(kind, type) and issubclass(kind, Prober)):
        raise PluginError("is not a Prober class")
    if getattr(kind, "kind", None) != point.name:
        raise PluginError(f"its kind is {getattr(kind, 'kind', None)!r}")
    return kind


def _system(point: EntryPoint) -> type[System]:
    kind = _load(point)
    if not (isinstance(kind, type) and issubclass(kind, System)):
        raise PluginError("is not a System class")
    if getattr(kind, "name", None) != point.name:
        raise PluginError(f"its name is {getattr(kind, 'name', None)!r}")
    return kind


class Registry:
    """Opened executors and probers, and the state of the backends behind them."""

    def __init__(self, plugins: Plugins, backends: Mapping[str, JsonObject]) -> None:
        self._plugins, self._settings = plugins, backends
        self._stack = AsyncExitStack()
        self.executors: dict[str, Executor] = {}
        self.probers: dict[str, Prober] = {}
        self.off: dict[str, str] = dict(plugins.off)
        self.backends: dict[str, Backend] = {}

    async def __aenter__(self) -> Self:
        for name, kind in self._plugins.actions.items():
            executor = await self._open(name, kind, kind.spec.system)
            if isinstance(executor, Executor):
                self.executors[name] = executor
                self.backend(kind.spec.system).actions.append(name)
        for name, prober_kind in self._plugins.probers.items():
            prober = await self._open(f"probe:{name}", prober_kind, name)
            if isinstance(prober, Prober):
                self.probers[name] = prober
        return self

    async def _open(self, name: str, kind: type[Executor | Prober], system: str) -> Executor | Prober | None:
        try:
            return await self._stack.enter_async_context(kind(self._settings.get(system, {})))
        except Exception as error:  # noqa: BLE001 - a broken plugin switches off itself only
            self.off[name] = redact(f"{type(error).__name__}: {error}")[:500]
            return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def specs(self) -> Mapping[str, ActionSpec]:
        """Action id -> declaration, of the executors that are open."""
        return {name: executor.spec for name, executor in self.executors.items()}

    def backend(self, system: str) -> Backend:
        """Give the state of a system, made at first use."""
        return self.backends.setdefault(system, Backend(system))

    def open_breakers(self, now: float) -> frozenset[str]:
        """Systems whose breaker is open."""
        return frozenset(
            name for name, backend in self.backends.items() if backend.breaker.state(now) is BreakerState.OPEN
        )
