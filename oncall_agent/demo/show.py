"""The demo: break three apps for real, watch the daemon heal them, look for yourself that it did."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from oncall_agent.client import Client, RefusedError, UnreachableError
from oncall_agent.contract import SystemClock
from oncall_agent.demo.stage import FAULTS, start_daemon, start_patient

_SICK_SECONDS = 15.0
_POLL_SECONDS = 0.25
_STYLES = {"resolved": "green", "escalated": "yellow", "dead_lettered": "red"}


class EndedError(KeyboardInterrupt):
    """Somebody asked the demo to end."""


def play(*, once: bool, limit_seconds: float) -> int:
    """Run the demo; gives 0 only if all three apps were healed and are seen to be healthy."""
    console = Console()
    signal.signal(signal.SIGTERM, _end)
    folder = Path(tempfile.mkdtemp(prefix="oncall-agent-demo-"))
    try:
        with ExitStack() as stack:
            return _play(console, folder, stack, once=once, limit_seconds=limit_seconds)
    except KeyboardInterrupt:
        return 1 if once else 0
    except (RuntimeError, UnreachableError, RefusedError) as error:
        console.print(f"[red]the demo stopped:[/] {error}", highlight=False)
        console.print(
            "".join(log.read_text(errors="replace")[-2000:] for log in folder.glob("*.log")), markup=False
        )
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(*_: object) -> None:
    raise EndedError


def _play(console: Console, folder: Path, stack: ExitStack, *, once: bool, limit_seconds: float) -> int:
    console.print("Starting three small apps and the daemon (SQLite, autonomy [bold]auto[/]) ...")
    addresses: dict[str, dict[str, Any]] = {}
    for name in FAULTS:
        patient, addresses[name] = start_patient(name, folder)
        stack.callback(patient.stop)
    daemon, url = start_daemon(folder, addresses)
    stack.callback(daemon.stop)
    client = Client(url)
    console.print(f"Dashboard: [link={url}]{url}[/]\n", highlight=False)
    _break(console, addresses)
    began = monotonic()
    for name in FAULTS:
        client.post("/webhooks/alertmanager", alert_body(name, SystemClock().now()))
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            details = _details(client)
            live.update(_table(details))
            over = len(details) == len(FAULTS) and all(d["incident"]["closed_at"] for d in details)
            if over or monotonic() - began > limit_seconds:
                break
            sleep(_POLL_SECONDS)
    code = _summary(console, details, addresses)
    console.print(f"\nDashboard: [link={url}]{url}[/]", highlight=False)
    if not once:
        console.print("It runs until Ctrl-C.")
        with suppress(KeyboardInterrupt):
            signal.pause()
    return code


def _break(console: Console, addresses: Mapping[str, Mapping[str, Any]]) -> None:
    for name, fault in FAULTS.items():
        Client(addresses[name]["control_url"]).post("/break", {"fault": fault.name})
        console.print(f"Broke [bold]{name}[/]: {fault.summary}", highlight=False)
    end = monotonic() + _SICK_SECONDS
    while not all(is_sick(address["url"]) for address in addresses.values()):
        if monotonic() > end:
            raise RuntimeError("the apps did not fall ill in time")
        sleep(_POLL_SECONDS)
    console.print("All three are ill now. Posting their alerts as Alertmanager would.\n")


def is_sick(url: str) -> bool:
    """Look from outside: does the app not answer, time out, or nearly fill its memory?"""
    try:
        status = Client(url).get("/api/v1/status")
    except (UnreachableError, RefusedError):
        return True
    full = status["memory_bytes"] / status["memory_limit_bytes"]
    return bool(status["error_rate"] > 0.2 or full > 0.9)  # noqa: PLR2004 - far from healthy


def alert_body(service: str, now: float) -> dict[str, Any]:
    """Make the body that Alertmanager (webhook version 4) posts for one firing alert."""
    fault = FAULTS[service]
    labels = {"alertname": fault.alert, "service": service, "severity": "critical"}
    alert = {
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": fault.summary},
        "startsAt": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": blake2b(f"{service}/{fault.alert}".encode(), digest_size=8).hexdigest(),
    }
    return {
        "version": "4",
        "receiver": "demo",
        "status": "firing",
        "groupKey": f'{{}}:{{alertname="{fault.alert}"}}',
        "groupLabels": {"alertname": fault.alert},
        "commonLabels": labels,
        "commonAnnotations": alert["annotations"],
        "externalURL": "",
        "truncatedAlerts": 0,
        "alerts": [alert],
    }


def _details(client: Client) -> list[dict[str, Any]]:
    listed = client.get("/api/v1/incidents", limit=20)["items"]
    return [client.get(f"/api/v1/incidents/{item['id']}") for item in reversed(listed)]


def _table(details: list[dict[str, Any]]) -> Table:
    table = Table(title="Incidents", title_justify="left", expand=False)
    for column in ("service", "trouble", "state", "doing", "health", "seconds"):
        table.add_column(column, min_width=6, no_wrap=True)
    now = SystemClock().now()
    for detail in details:
        incident = detail["incident"]
        style = _STYLES.get(incident["state"], "cyan")
        phase = incident["phase"] if incident["state"] in ("parked", "running") else ""
        seconds = (_seconds(incident["closed_at"]) or now) - (_seconds(incident["opened_at"]) or now)
        table.add_row(
            incident["target"],
            incident["alert_class"],
            f"[{style}]{incident['state']}[/] {phase}",
            _doing(detail),
            _health(detail),
            f"{seconds:.1f}",
        )
    return table


def _doing(detail: Mapping[str, Any]) -> str:
    return detail["attempts"][-1]["attempt"]["action"] if detail["attempts"] else "looking"


def _health(detail: Mapping[str, Any]) -> str:
    if not detail["attempts"]:
        return ""
    last = detail["attempts"][-1]
    scores = [
        f"{one['score']:.0f}" if one and one["score"] is not None else "?"
        for one in (last["before"], last["after"])
    ]
    return " -> ".join(scores)


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        return datetime.fromisoformat(value).timestamp()
    return value if value is None else float(value)


def _summary(
    console: Console, details: list[dict[str, Any]], addresses: Mapping[str, Mapping[str, Any]]
) -> int:
    table = Table(title="\nSummary: health before and after, seconds to recovery", title_justify="left")
    for column in (
        "service",
        "action",
        "outcome",
        "before",
        "after",
        "reward",
        "seconds",
        "healthy",
    ):
        table.add_column(column, no_wrap=column in ("service", "action"))
    good = 0
    for detail in details:
        incident, attempts = detail["incident"], detail["attempts"]
        name = incident["target"]
        healthy = name in addresses and not is_sick(addresses[name]["url"])
        fixed = incident["state"] == "resolved" and incident["end_reason"] == "fixed"
        good += fixed and healthy
        seconds = (_seconds(incident["closed_at"]) or 0.0) - (_seconds(incident["opened_at"]) or 0.0)
        before, after = [*_health(detail).split(" -> "), "", ""][:2]
        worth = attempts[-1]["reward"] if attempts else None
        table.add_row(
            name,
            ", then ".join(one["attempt"]["action"] for one in attempts),
            incident["end_reason"] or incident["state"],
            before,
            after,
            f"{worth['value']:+.2f}" if worth else "",
            f"{seconds:.1f}" if seconds > 0 else "",
            "[green]yes[/]" if healthy else "[red]no[/]",
        )
    console.print(table)
    console.print(f"{good} of {len(FAULTS)} healed and verified.", highlight=False)
    return 0 if good == len(FAULTS) else 1
