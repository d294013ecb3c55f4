"""Verbs that need no daemon: configuration, actions, synthetic alerts, the log."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from oncall_agent.cli.output import BAD_USAGE, err, out, render, show_json, stop, table
from oncall_agent.contract import SystemClock
from oncall_agent.errors import ConfigError
from oncall_agent.registry import Plugins, find
from oncall_agent.settings.load import Checked, ConfigErrors, Loaded, check_actions, load

actions = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def loaded_or_stop(file: Path, *, host: str | None = None, port: int | None = None) -> Loaded:
    """Load and check a configuration; every error on a line of its own and exit code 2."""
    try:
        loaded = load(file, {**os.environ, **_overrides(host, port)})
    except ConfigErrors as errors:
        _stop_with(errors.errors)
    checked = _checked(loaded, find(loaded.systems))
    if checked.errors:
        # Only now is everything imported: a name that does not exist gets the nearest that does.
        checked = _checked(loaded, find())
    for warning in checked.warnings:
        err.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    if checked.errors:
        _stop_with(checked.errors)
    return loaded


def _checked(loaded: Loaded, plugins: Plugins) -> Checked:
    return check_actions(loaded, plugins.specs, plugins.probers, plugins.off)


def _stop_with(errors: Iterable[ConfigError]) -> NoReturn:
    for error in errors:
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(BAD_USAGE)


def _overrides(host: str | None, port: int | None) -> dict[str, str]:
    given = {"HOST": host, "PORT": port}
    return {f"ONCALL_AGENT__SERVER__{key}": str(value) for key, value in given.items() if value is not None}


def check(file: Path, *, as_json: bool) -> None:
    """Check a configuration and say what it would do."""
    loaded = loaded_or_stop(file)
    summary = {
        "file": str(file),
        "autonomy": loaded.settings.autonomy.default.value,
        "sources": sorted(loaded.settings.sources),
        "targets": len(loaded.targets),
        "runbooks": len(loaded.runbooks),
        "actions": sorted({candidate.action for book in loaded.runbooks for candidate in book.candidates}),
    }
    render(summary, as_json, lambda _: out.print(_sentence(summary), highlight=False, markup=False))


def _sentence(summary: dict[str, Any]) -> str:
    return (
        f"{summary['file']}: ok. Autonomy {summary['autonomy']}, {summary['targets']} targets, "
        f"{summary['runbooks']} runbooks, sources {', '.join(summary['sources'])}."
    )


@actions.command("list")
def list_(as_json: Json = False) -> None:
    """List every action with its risk and its contract score."""
    from oncall_agent.daemon import describe  # noqa: PLC0415 - only here

    plugins = find()
    rows = [describe(kind.spec) for _, kind in sorted(plugins.actions.items())]
    if as_json:
        show_json({"actions": rows, "off": dict(plugins.off)})
        return
    table(
        "Actions",
        ("id", "target", "risk", "undo", "contract", "summary"),
        [
            (
                r["id"],
                r["target_kind"],
                r["risk"],
                "yes" if r["reversible"] else "no",
                _score(r),
                r["summary"],
            )
            for r in rows
        ],
    )
    for name, reason in plugins.off.items():
        out.print(f"off: {name}: {reason}", markup=False)


def _score(row: dict[str, Any]) -> str:
    done = sum(value == "done" for value in row["scorecard"].values())
    exempt = len(row["scorecard"]) - done
    lack = ", not proven on a real server" if row["unproven"] else ""
    return f"{done} done" + (f", {exempt} exempt" if exempt else "") + lack


@actions.command()
def show(action: Annotated[str, typer.Argument(help="Action id.")], as_json: Json = False) -> None:
    """Show one action: parameters, limits, what it is exempt from and why."""
    from oncall_agent.daemon import describe  # noqa: PLC0415 - only here

    plugins = find()
    if action not in plugins.actions:
        known = plugins.off.get(action)
        stop(BAD_USAGE, f"{action} is off: {known}" if known else f"there is no action {action!r}")
    told = describe(plugins.actions[action].spec)
    render(
        told,
        as_json,
        lambda row: table(row["id"], ("key", "value"), [(k, _plain(v)) for k, v in row.items()]),
    )


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def storm(count: int) -> dict[str, Any]:
    """Make an Alertmanager body with that many different alerts."""
    now = datetime.fromtimestamp(SystemClock().now(), UTC).isoformat()
    alerts = [
        {
            "status": "firing",
            "labels": {"alertname": "SimulatedStorm", "service": f"storm-{number}", "severity": "warning"},
            "annotations": {"summary": f"simulated alert {number} of {count}"},
            "startsAt": now,
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "",
            "fingerprint": f"{number:016x}",
        }
        for number in range(count)
    ]
    return {"version": "4", "status": "firing", "receiver": "simulate", "groupKey": "{}:{}", "alerts": alerts}


def show_report(found: dict[str, Any]) -> None:
    """Print the conservation equation and the state of the audit log."""
    terms = found["conservation"]
    rows = [(key, value) for key, value in terms.items() if key != "suppressed"]
    rows += [(f"suppressed: {reason}", count) for reason, count in terms["suppressed"].items()]
    table("Accepted alerts", ("term", "alerts"), rows)
    if "audit" in found:
        audit = found["audit"]
        out.print(
            f"audit: {audit['rows']} rows, " + ("whole" if audit["ok"] else f"broken at {audit['first_bad']}")
        )


def show_log(lines: Iterable[str]) -> None:
    """Print JSON log lines for people; what is no JSON passes through."""
    for line in lines:
        try:
            entry = json.loads(line)
            at, level, event = (str(entry.pop(key, "")) for key in ("timestamp", "level", "event"))
        except (ValueError, AttributeError, TypeError):
            out.print(line.rstrip(), markup=False, highlight=False)
            continue
        fields = " ".join(f"{key}={value}" for key, value in entry.items())
        out.print(f"{at[:19]} {level:<7} {event:<22} {fields}", markup=False, highlight=False, soft_wrap=True)
