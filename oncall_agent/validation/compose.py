"""Puts one run together: the configuration's systems and actions, opened for its length."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from oncall_agent.contract import Clock, System
from oncall_agent.errors import ConfigError
from oncall_agent.pools import Pools
from oncall_agent.registry import Plugins, Registry
from oncall_agent.settings.load import Loaded
from oncall_agent.store import new_id
from oncall_agent.validation.inspecting import said
from oncall_agent.validation.plan import ProductionDrill, SystemPlan, configured_systems, plan
from oncall_agent.validation.results import Finding, Report
from oncall_agent.validation.suite import Suite, World


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator asked for.

    Attributes:
        systems: only these; all that are configured when empty.
        drills: whether drills are run at all.
        production: a person's word for one drill on production.
    """

    systems: tuple[str, ...] = ()
    drills: bool = True
    production: ProductionDrill | None = None


def plans_of(loaded: Loaded, plugins: Plugins, options: Options, now: float) -> tuple[SystemPlan, ...]:
    """Decide what is asked and broken.

    Raises:
        ConfigError: a system was asked for that this configuration does not lead to, or it leads to none.
    """
    configured = configured_systems(loaded.settings, loaded.runbooks)
    acting = {action.partition(".")[0] for action in plugins.actions}
    off = {name for name in configured if f"system:{name}" in plugins.off}
    known = [name for name in configured if name in acting or name in plugins.systems or name in off]
    unknown = [name for name in options.systems if name not in known]
    if unknown or not known:
        there = ", ".join(known) or "none"
        reason = f"this configuration leads to these systems: {there}"
        raise ConfigError(
            f"no {', '.join(unknown)}; {reason}" if unknown else reason, file=str(loaded.path), key="backends"
        )
    wanted = [name for name in known if not options.systems or name in options.systems]
    only = options.production.drill.partition(".")[0] if options.production else None
    wanted = [name for name in wanted if only in (None, name)]
    found = plan(
        loaded.settings,
        plugins.systems,
        plugins.actions,
        wanted=wanted,
        production=options.production,
        now=now,
    )
    if options.drills:
        return found
    return tuple(SystemPlan(one.name, one.actions, ()) for one in found)


async def validate(
    loaded: Loaded,
    plugins: Plugins,
    options: Options,
    *,
    clock: Clock,
    log: Any,
    show: Callable[[Finding], None] = lambda _: None,
    stopping: asyncio.Event | None = None,
) -> Report:
    """Run the suite against this configuration; give its report, also when it was interrupted."""
    plans = plans_of(loaded, plugins, options, clock.now())
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry(plugins, loaded.settings.backends))
        systems, off = await _opened(stack, loaded, plugins, plans)
        world = World(
            settings=loaded.settings,
            config=loaded.path.name,
            systems=systems,
            executors=registry.executors,
            off={**registry.off, **off},
            pools=Pools(loaded.settings.workers.blocking_threads),
            clock=clock,
            log=log,
            new_id=new_id,
            show=show,
        )
        return await Suite(world, plans).run(stopping)


async def _opened(
    stack: AsyncExitStack, loaded: Loaded, plugins: Plugins, plans: tuple[SystemPlan, ...]
) -> tuple[Mapping[str, System], Mapping[str, str]]:
    systems: dict[str, System] = {}
    off: dict[str, str] = {
        name.removeprefix("system:"): reason
        for name, reason in plugins.off.items()
        if name.startswith("system:")
    }
    for one in plans:
        kind = plugins.systems.get(one.name)
        if kind is None:
            continue
        try:
            settings = loaded.settings.backends.get(one.name, {})
            systems[one.name] = await stack.enter_async_context(kind(settings))
        except Exception as error:  # noqa: BLE001 - foreign code: a system that can't be opened is a finding
            off[one.name] = said(f"{type(error).__name__}: {error}")
    return systems, off
