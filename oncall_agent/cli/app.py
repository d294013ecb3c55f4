"""Every verb of `oncall-agent`. Exit codes: 0 ok, 1 the thing checked failed, 2 bad usage or configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from oncall_agent import __version__
from oncall_agent.cli import can_i, incidents, offline, validate
from oncall_agent.cli.output import BAD_USAGE, FAILED, out, render, show_json, stop, told
from oncall_agent.client import DEFAULT_URL, Client, part

app = typer.Typer(
    name="oncall-agent",
    help="An on-call engineer's first responder: takes alerts, heals what it may, pages people with the rest.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
app.add_typer(incidents.app, name="incidents", help="What is going on, and why it was decided so.")
app.add_typer(offline.actions, name="actions", help="What could be done.")
offline.actions.command("can-i")(can_i.command)
app.command("validate")(validate.command)

Url = Annotated[str, typer.Option("--url", envvar="ONCALL_AGENT_URL", help="Address of the daemon.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Config = Annotated[
    Path, typer.Option("--config", "-c", help="Configuration file.", envvar="ONCALL_AGENT_CONFIG")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"oncall-agent {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Take alerts, heal what may be healed, page people with the rest."""


@app.command()
def run(
    config: Config = Path("oncall-agent.yaml"),
    host: Annotated[str | None, typer.Option(help="Overrides server.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Overrides server.port; 0 lets the system choose.")] = None,
) -> None:
    """Run the daemon until SIGTERM."""
    # No matrix here is large enough for threads of the linear algebra library, which cost memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with told():
        loaded = offline.loaded_or_stop(config, host=host, port=port)
        from oncall_agent.daemon import run as run_daemon  # noqa: PLC0415 - the other verbs start without it

        run_daemon(loaded)


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End when all are healed; exit code 1 if not.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Give up after that long.")] = 90.0,
) -> None:
    """Break three small apps and watch them being healed, for real."""
    from oncall_agent.demo.show import play  # noqa: PLC0415 - as in run

    with told():
        raise typer.Exit(play(once=once, limit_seconds=seconds))


@app.command("check-config")
def check_config(
    file: Annotated[Path | None, typer.Argument(help="Configuration file.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema and end.")] = False,
    as_json: Json = False,
) -> None:
    """Check a configuration and its runbooks; every error names file, line and key."""
    if schema:
        from oncall_agent.settings.schema import json_schema  # noqa: PLC0415 - as in run

        show_json(json_schema())
        return
    if file is None:
        stop(BAD_USAGE, "which file? oncall-agent check-config FILE")
    offline.check(file, as_json=as_json)


@app.command()
def approve(
    incident: Annotated[str, typer.Argument(help="Incident id.")],
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Approve what an incident waits for; R3 needs a second person."""
    _verdict("approve", incident, url, as_json)


@app.command()
def deny(
    incident: Annotated[str, typer.Argument(help="Incident id.")],
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Deny what an incident waits for: people are paged instead."""
    _verdict("deny", incident, url, as_json)


def _verdict(verb: str, incident: str, url: str, as_json: bool) -> None:
    with told():
        answer = Client(url).post(f"/api/v1/incidents/{part(incident)}/{verb}", {})
        render(answer, as_json, lambda told_: out.print(f"{verb}: {_word(told_)}"))


def _word(answer: Any) -> str:
    approval = answer.get("approval", answer) if isinstance(answer, dict) else {}
    voters = ", ".join(approval.get("voters", []))
    return f"{approval.get('verdict', 'noted')}" + (f" (by {voters})" if voters else "")


@app.command()
def pause(
    reason: Annotated[str, typer.Option("--reason", "-r", help="Written to the audit log.")] = "",
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Kill switch: nothing is touched any more, people are paged; survives restarts."""
    _control({"paused": True, "reason": reason}, url, as_json)


@app.command()
def resume(url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Take the kill switch and a drain back."""
    _control({"paused": False, "draining": False}, url, as_json)


@app.command()
def drain(url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Stop claiming incidents; what runs is finished, alerts are still taken."""
    _control({"draining": True}, url, as_json)


def _control(body: dict[str, Any], url: str, as_json: bool) -> None:
    with told():
        answer = Client(url).post("/api/v1/control", body)
        render(answer, as_json, lambda now: out.print(_state(now)))


def _state(control: dict[str, Any]) -> str:
    control = control.get("control", control)
    words = [word for word in ("paused", "draining") if control.get(word)]
    return f"now: {', '.join(words) or 'running'}"


@app.command()
def simulate(
    alert: Annotated[str, typer.Argument(help="A file with an Alertmanager body, or `storm`.")],
    url: Url = DEFAULT_URL,
    count: Annotated[int, typer.Option(help="Alerts of a storm.", min=1, max=10_000)] = 100,
    source: Annotated[str, typer.Option(help="Which source it is posted as.")] = "alertmanager",
) -> None:
    """Post synthetic alerts to a running daemon."""
    with told():
        body = offline.storm(count) if alert == "storm" else _body(Path(alert))
        answer = Client(url).post(f"/webhooks/{part(source)}", body)
        out.print(f"accepted {answer['accepted']}")


def _body(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        stop(BAD_USAGE, f"{file}: {error}")


@app.command()
def policy(
    verb: Annotated[str, typer.Argument(help="show")] = "show", url: Url = DEFAULT_URL, as_json: Json = False
) -> None:
    """Show the running policy."""
    if verb != "show":
        stop(BAD_USAGE, f"there is no verb {verb!r}: policy show")
    with told():
        answer = Client(url).get("/api/v1/policy")
        render(answer, as_json, lambda told_: out.print(f"{told_['name']}, {told_['version']} lessons"))


@app.command()
def report(
    verify_audit: Annotated[
        bool, typer.Option("--verify-audit", help="Check the hash chain of the audit log.")
    ] = False,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Say whether every accepted alert is accounted for and the audit log is whole."""
    with told():
        client = Client(url)
        found: dict[str, Any] = {"conservation": client.get("/api/v1/conservation")}
        if verify_audit:
            found["audit"] = client.get("/api/v1/audit/verify")
        render(found, as_json, offline.show_report)
        good = found["conservation"]["balanced"] and found.get("audit", {}).get("ok", True)
        if not good:
            raise typer.Exit(FAILED)


@app.command()
def logs(
    file: Annotated[typer.FileText, typer.Argument(help="JSON log, `-` for standard input.")],
) -> None:
    """Show the JSON log for people, one line each."""
    offline.show_log(file)


def main() -> None:
    """Entry point of the command."""
    app()
