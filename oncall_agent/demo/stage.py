"""What the demo runs: patients and a daemon as processes of their own, in a folder that goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import yaml

_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fall ill, and the alert that tells of it."""

    name: str
    alert: str
    summary: str


FAULTS: Mapping[str, Fault] = {
    "shop": Fault("db_timeouts", "DatabaseTimeouts", "queries of shop time out since the last deployment"),
    "search": Fault("memory_climb", "MemoryClimbing", "search uses nearly all of its memory"),
    "mail": Fault("crash", "AppDown", "mail does not answer"),
}
"""Service -> what breaks it."""

RUNBOOKS: list[dict[str, Any]] = [
    {
        "name": "database-timeouts",
        "class": "db_timeouts",
        "match": {"alertname": "DatabaseTimeouts"},
        "target_kind": "http_app",
        "candidates": [
            {"action": "app.rollback_deploy", "prior": 0.8},
            {"action": "app.restart", "prior": 0.1},
        ],
    },
    {
        "name": "memory-climbing",
        "class": "memory",
        "match": {"alertname": "MemoryClimbing"},
        "target_kind": "http_app",
        "candidates": [{"action": "app.restart", "prior": 0.8}, {"action": "app.scale_up", "prior": 0.1}],
    },
    {
        "name": "app-down",
        "class": "crash",
        "match": {"alertname": "AppDown"},
        "target_kind": "http_app",
        "candidates": [{"action": "app.restart", "prior": 0.8}],
    },
]


class Started:
    """A process of the demo: what it says line by line, and its end."""

    def __init__(self, command: list[str], log: Path, environ: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own modules with our own arguments
            command,
            stdout=subprocess.PIPE,
            stderr=log.open("ab"),
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
        self._lines: Queue[str] = Queue(1000)
        self._log = log
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        with self._log.open("ab") as log:
            for line in stream:
                log.write(line)
                log.flush()
                if not self._lines.full():
                    self._lines.put(line.decode(errors="replace"))

    def first(self, wanted: str) -> dict[str, Any]:
        """Wait for the first JSON line that holds this text.

        Raises:
            RuntimeError: the process ended or said nothing in time.
        """
        while True:
            try:
                line = self._lines.get(timeout=_START_SECONDS)
            except Empty:
                raise RuntimeError(f"nothing was said in time; see {self._log}") from None
            if wanted in line:
                found: dict[str, Any] = json.loads(line)
                return found

    def stop(self) -> None:
        """End it, and everything that it started, politely first."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def start_patient(name: str, folder: Path) -> tuple[Started, dict[str, Any]]:
    """Start one small app; gives it and its addresses."""
    command = [sys.executable, "-m", "oncall_agent.demo.patient", "--name", name]
    patient = Started(command, folder / f"{name}.log")
    return patient, patient.first('"url"')


def start_daemon(folder: Path, addresses: Mapping[str, Mapping[str, Any]]) -> tuple[Started, str]:
    """Start the daemon on SQLite with autonomy `auto` for these apps; gives it and its address."""
    (folder / "runbooks").mkdir()
    (folder / "runbooks" / "demo.yaml").write_text(yaml.safe_dump(RUNBOOKS))
    file = folder / "oncall-agent.yaml"
    file.write_text(yaml.safe_dump(configuration(folder, addresses)))
    command = [sys.executable, "-m", "oncall_agent", "run", "--config", str(file)]
    daemon = Started(command, folder / "daemon.log")
    started = daemon.first('"daemon.started"')
    return daemon, f"http://127.0.0.1:{started['port']}"


def configuration(folder: Path, addresses: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Make the demo's configuration: everything a real one has, with short times."""
    return {
        "server": {"port": 0},
        "store": {"url": f"sqlite:///{folder / 'oncall-agent.db'}"},
        "autonomy": {"default": "auto"},
        "workers": {"retry_delay_seconds": 1},
        "guard": {"cooldown_seconds": {"app.restart": 2, "app.rollback_deploy": 2, "app.scale_up": 2}},
        "backends": {"escalate": {"file": str(folder / "pages.jsonl")}},
        "targets": [
            {
                "name": name,
                "kind": "http_app",
                "service": name,
                "address": {"url": address["url"], "control_url": address["control_url"]},
                "settle_seconds": 3,
                "settle_interval_seconds": 1,
                "probes": [{"kind": "app"}],
            }
            for name, address in addresses.items()
        ],
    }
