"""`validate`: proof on the operator's own systems, streamed live, written down as a report."""

from __future__ import annotations

import asyncio
import getpass
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from oncall_agent.cli.offline import loaded_or_stop
from oncall_agent.cli.output import BAD_USAGE, err, out, stop, told
from oncall_agent.contract import SystemClock
from oncall_agent.registry import Plugins, find
from oncall_agent.settings.load import Loaded
from oncall_agent.telemetry import log as logging
from oncall_agent.validation.compose import Options, validate
from oncall_agent.validation.plan import ProductionDrill, sandbox_name
from oncall_agent.validation.reports import as_json, read_passed_drills, write
from oncall_agent.validation.results import Finding, Report, Verdict

_STYLES = {
    Verdict.PASSED: "green",
    Verdict.FINDING: "yellow",
    Verdict.MISSING: "magenta",
    Verdict.FAILED: "bold red",
    Verdict.SKIPPED: "dim",
}
_LAST_LINES = 12

Config = Annotated[
    Path, typer.Option("--config", "-c", help="Configuration file.", envvar="ONCALL_AGENT_CONFIG")
]


def command(
    config: Config = Path("oncall-agent.yaml"),
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("validation"),
    systems: Annotated[
        list[str] | None, typer.Option("--system", "-s", help="Only this one; repeat.")
    ] = None,
    drills: Annotated[bool, typer.Option(help="Also break sandboxes and have them healed.")] = True,
    production_drill: Annotated[
        str | None, typer.Option(help="Run this one drill on production; asks a person.")
    ] = None,
    staging_report: Annotated[
        Path | None, typer.Option(help="report.json of a staging run in which that drill passed.")
    ] = None,
    as_document: Annotated[bool, typer.Option("--json", help="Print the report as JSON at the end.")] = False,
) -> None:
    """Prove on your own systems what this program can and may do there.

    Exit codes: 0 passed, 1 failed, 2 bad usage or configuration, 3 something is missing, 4 findings only.
    """
    loaded = loaded_or_stop(config)
    plugins = find(loaded.systems)
    with told():
        production = _asked_for(production_drill, staging_report, loaded, plugins)
        options = Options(tuple(systems or ()), drills, production)
        report = _run(loaded, plugins, options, folder, quiet=as_document)
    if as_document:
        typer.echo(as_json(report))
    raise typer.Exit(report.exit_code)


def _asked_for(
    drill: str | None, staging_report: Path | None, loaded: Loaded, plugins: Plugins
) -> ProductionDrill | None:
    """Ask a person, at a terminal, to type what is going to be broken."""
    if drill is None:
        return None
    known = {kind.spec.id: kind for system in plugins.systems.values() for kind in system.drills}
    if drill not in known:
        stop(BAD_USAGE, f"there is no drill {drill!r}; known: {', '.join(sorted(known))}")
    if staging_report is None:
        stop(BAD_USAGE, "staging first: --staging-report FILE of a run in which this drill passed")
    try:
        passed = read_passed_drills(staging_report)
    except ValueError as error:
        stop(BAD_USAGE, str(error))
    if not sys.stdin.isatty():
        stop(BAD_USAGE, "a drill on production is confirmed by a person at a terminal")
    target = sandbox_name(known[drill], loaded.settings.validation)
    err.print(f"[bold red]PRODUCTION[/]: {escape(known[drill].spec.summary)}", highlight=False)
    typed = typer.prompt(f"Type {target} to break it and have it healed", default="", err=True)
    return ProductionDrill(drill, typed.strip(), getpass.getuser(), passed)


def _run(loaded: Loaded, plugins: Plugins, options: Options, folder: Path, *, quiet: bool) -> Report:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log_file = (folder / "validate.log").open("wb")
    except OSError as error:
        stop(BAD_USAGE, f"{folder}: {error.strerror}")
    with log_file:
        sink = logging.configure("info", log_file)
        try:
            with _display(quiet=quiet) as show:
                report = asyncio.run(_validated(loaded, plugins, options, show))
        finally:
            sink.close()
    written = write(report, folder)
    if not quiet:
        style = _STYLES[report.verdict]
        out.print(f"verdict: [{style}]{report.verdict.value}[/]", highlight=False)
        out.print(f"written: {', '.join(map(str, written))}", highlight=False, markup=False, soft_wrap=True)
    return report


async def _validated(loaded: Loaded, plugins: Plugins, options: Options, show: _Shown) -> Report:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    return await validate(
        loaded,
        plugins,
        options,
        clock=SystemClock(),
        log=logging.logger(),
        show=show,
        stopping=stopping,
    )


class _Shown:
    """The live display: one row per system, and the last findings."""

    def __init__(self) -> None:
        self.live: Live | None = None
        self._findings: list[Finding] = []

    def __call__(self, found: Finding) -> None:
        self._findings.append(found)
        if self.live is not None:
            self.live.update(self.drawn())
        else:
            out.print(_line(found), highlight=False, soft_wrap=True)

    def drawn(self) -> RenderableType:
        grid = Table(
            "system", *(verdict.value for verdict in _STYLES), title="validate", title_justify="left"
        )
        for system in sorted({found.system for found in self._findings}):
            counts = [
                sum(found.system == system and found.verdict is verdict for found in self._findings)
                for verdict in _STYLES
            ]
            grid.add_row(
                system,
                *(f"[{style}]{n}[/]" if n else "" for n, style in zip(counts, _STYLES.values(), strict=True)),
            )
        return Group(grid, *(_line(found) for found in self._findings[-_LAST_LINES:]))


def _line(found: Finding) -> str:
    style = _STYLES[found.verdict]
    words = f"{found.system:<12} {found.name:<32} {escape(found.reason)}"
    return f"[{style}]{found.verdict.value:<8}[/] {words}"


@contextmanager
def _display(*, quiet: bool) -> Iterator[_Shown]:
    shown = _Shown()
    if quiet:
        yield _Silent()
    elif not out.is_terminal:
        yield shown
    else:
        with Live(console=out, refresh_per_second=8, transient=False) as live:
            shown.live = live
            yield shown


class _Silent(_Shown):
    def __call__(self, found: Finding) -> None:
        return
