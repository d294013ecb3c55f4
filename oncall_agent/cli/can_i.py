"""`actions can-i`: what our credentials may do, and the role with which exactly the wanted actions work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from oncall_agent.cli.offline import loaded_or_stop
from oncall_agent.cli.output import BAD_USAGE, FAILED, out, show_json, stop, table, told
from oncall_agent.contract import Inspection, System, SystemClock, SystemContext
from oncall_agent.errors import ActionError
from oncall_agent.pools import Pools
from oncall_agent.registry import Plugins, find
from oncall_agent.settings.load import Loaded
from oncall_agent.telemetry import log as logging
from oncall_agent.validation.plan import configured_systems

_SECONDS = 30.0
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def command(
    actions: Annotated[
        list[str] | None, typer.Argument(help="Action ids or systems; all configured.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration file.", envvar="ONCALL_AGENT_CONFIG")
    ] = None,
    grants: Annotated[bool, typer.Option("--grants", help="Print the least-privilege role.")] = False,
    as_json: Json = False,
) -> None:
    """Compare what our credentials may do with what the actions need; exit code 1 when something lacks."""
    plugins = find()
    with told():
        wanted = _wanted(actions or (), plugins, config)
        if grants:
            _show_grants(wanted, plugins, as_json=as_json)
            return
        if config is None:
            stop(BAD_USAGE, "which credentials? actions can-i --config FILE")
        loaded = loaded_or_stop(config)
        answers = asyncio.run(_inspected(wanted, plugins, loaded))
    _show(answers, as_json=as_json)


def _wanted(named: Sequence[str], plugins: Plugins, config: Path | None) -> dict[str, list[str]]:
    """Give system -> actions; a system's name stands for all of its actions."""
    if not named and config is None:
        stop(BAD_USAGE, "which actions? name some, or give --config FILE")
    if not named and config is not None:
        loaded = loaded_or_stop(config)
        named = _configured(loaded, plugins)
    found: dict[str, list[str]] = {}
    for name in named:
        system = name.partition(".")[0]
        if system not in plugins.systems:
            reason = plugins.off.get(f"system:{system}", "no such system")
            stop(BAD_USAGE, f"{name}: {reason}; known: {', '.join(sorted(plugins.systems))}")
        meant = [
            one for one in plugins.actions if one == name or (one.startswith(f"{system}.") and name == system)
        ]
        if not meant:
            stop(BAD_USAGE, f"there is no action {name!r}")
        found.setdefault(system, []).extend(one for one in meant if one not in found.get(system, ()))
    return found


def _configured(loaded: Loaded, plugins: Plugins) -> list[str]:
    """Give the actions that runbooks name; of a system that none names, all of its actions."""
    named = {candidate.action for book in loaded.runbooks for candidate in book.candidates}
    wanted = []
    for system in configured_systems(loaded.settings, loaded.runbooks):
        if system in plugins.systems:
            own = sorted(action for action in named if action.startswith(f"{system}."))
            wanted += own or [system]
    return wanted


def _show_grants(wanted: Mapping[str, Sequence[str]], plugins: Plugins, *, as_json: bool) -> None:
    told_: dict[str, Any] = {}
    for system, actions in wanted.items():
        given = plugins.systems[system]({}).grants(actions)
        told_[system] = {
            "actions": list(actions),
            "language": given.language,
            "text": given.text,
            "how_to_apply": given.how_to_apply,
        }
        if not as_json:
            mark = "--" if given.language == "sql" else "#"
            typer.echo(f"{mark} {system}: {', '.join(actions)}\n{mark} {given.how_to_apply}\n{given.text}")
    if as_json:
        show_json(told_)


async def _inspected(
    wanted: Mapping[str, Sequence[str]], plugins: Plugins, loaded: Loaded
) -> dict[str, Inspection | str | None]:
    clock, pools = SystemClock(), Pools(loaded.settings.workers.blocking_threads)

    async def one(name: str, actions: Sequence[str]) -> Inspection | str | None:
        ctx = SystemContext(clock, logging.logger(), clock.monotonic() + _SECONDS, pools.of(name).run)
        try:
            system: System = plugins.systems[name](loaded.settings.backends.get(name, {}))
            async with asyncio.timeout(_SECONDS), system:
                return await system.inspect(ctx, actions)
        except (ActionError, TimeoutError, ValueError) as error:
            return str(error) or "no answer in time"

    names = list(wanted)
    found = await asyncio.gather(*(one(name, wanted[name]) for name in names))
    return dict(zip(names, found, strict=True))


def _show(answers: Mapping[str, Inspection | str | None], *, as_json: bool) -> None:
    rows: list[tuple[str, str, str, str]] = []
    for system, answer in answers.items():
        rows += _rows(system, answer)
    if as_json:
        keys = ("system", "privilege", "state", "needed_by")
        show_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        table("Privileges", ("system", "privilege", "state", "needed by"), rows)
    if any(row[2] in ("lacking", "unreachable") for row in rows):
        out.print("" if as_json else "something lacks: see actions can-i --grants", highlight=False, end="")
        raise typer.Exit(FAILED)


def _rows(system: str, answer: Inspection | str | None) -> list[tuple[str, str, str, str]]:
    if isinstance(answer, str):
        return [(system, answer, "unreachable", "")]
    if answer is None:
        return [(system, "each target answers for itself", "unknown", "")]
    if answer.privileges_unknown:
        return [(system, answer.privileges_unknown, "unknown", "")]
    rows = []
    for one in answer.privileges:
        if one.needed_by:
            state = "held" if one.held else "lacking"
        elif one.held:
            state = "too much"
        else:
            continue
        rows.append((system, one.name, state, ", ".join(one.needed_by)))
    return rows
