"""`incidents list|show|explain`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from oncall_agent.cli.output import FAILED, out, render, table, told
from oncall_agent.client import DEFAULT_URL, Client, part

app = typer.Typer(no_args_is_help=True)

Url = Annotated[str, typer.Option("--url", envvar="ONCALL_AGENT_URL", help="Address of the daemon.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Id = Annotated[str, typer.Argument(help="Incident id.")]


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="open, final, or one state.")] = None,
    alert_class: Annotated[str | None, typer.Option("--class", help="Alert class.")] = None,
    target: Annotated[str | None, typer.Option(help="Target name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    cursor: Annotated[str | None, typer.Option(help="From the former page.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """List incidents, newest first."""
    with told():
        query = {"state": state, "class": alert_class, "target": target, "limit": limit, "cursor": cursor}
        render(Client(url).get("/api/v1/incidents", **query), as_json, _show_list)


def _show_list(page: dict[str, Any]) -> None:
    columns = ("id", "opened", "state", "class", "target", "severity", "title", "ended")
    rows = [
        (
            item["id"],
            when(item["opened_at"]),
            item["state"],
            item["alert_class"],
            item["target"],
            item["severity"],
            item["title"],
            item.get("end_reason") or "",
        )
        for item in page["items"]
    ]
    table("Incidents", columns, rows)
    if page.get("next_cursor"):
        out.print(f"more: --cursor {page['next_cursor']}", highlight=False)


@app.command()
def show(incident: Id, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show one incident with its story."""
    with told():
        render(Client(url).get(f"/api/v1/incidents/{part(incident)}"), as_json, _show_one)


def _show_one(detail: dict[str, Any]) -> None:
    head = detail["incident"]
    out.print(f"{head['title']}: {head['state']} on {head['target']}", markup=False)
    rows = [(when(entry["at"]), entry["name"], _fields(entry["fields"])) for entry in detail["timeline"]]
    table("Timeline", ("at", "what", "fields"), rows)


@app.command()
def explain(incident: Id, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Compute the stored decision again and say whether it is equal; exit code 1 if not."""
    with told():
        answer = Client(url).get(f"/api/v1/incidents/{part(incident)}/explain")
        render(answer, as_json, _show_explanation)
        if not answer["equal"]:
            raise typer.Exit(FAILED)


def _show_explanation(answer: dict[str, Any]) -> None:
    decision = answer["decision"]
    out.print(decision["explanation"], markup=False)
    rows = [
        (
            item["candidate"]["action"],
            item["candidate"]["target"],
            *(f"{item[k]:.3f}" for k in ("mean", "std", "propensity")),
        )
        for item in decision["scored"]
    ]
    table("Candidates", ("action", "target", "expected", "±", "probability"), rows)
    refused = [(item["candidate"]["action"], item["reason"], item["detail"]) for item in decision["refused"]]
    if refused:
        table("Refused", ("action", "reason", "detail"), refused)
    out.print(
        "recomputed: equal" if answer["equal"] else f"recomputed: not equal: {answer['differences']}",
        markup=False,
    )


def when(value: Any) -> str:
    """Give a time as people read it; text is passed through."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return str(value or "")


def _fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in fields.items())[:300]
