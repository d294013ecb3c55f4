"""Airflow's own things as values: a DAG, its runs and task instances, a pool, the health of the parts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oncall_agent.models import JsonObject

NAME = r"^[A-Za-z0-9_.~:+-]{1,250}$"
ENDED = frozenset({"success", "failed"})
TASK_ENDED = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})
TASK_FAILED = frozenset({"failed", "upstream_failed"})


@dataclass(frozen=True, slots=True)
class Dag:
    """What a DAG says of itself."""

    id: str
    is_paused: bool
    is_gone: bool
    has_import_errors: bool
    max_active_runs: int | None
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a DAG; times in epoch seconds, None when it has not come to that."""

    id: str
    state: str
    due_at: float | None
    started_at: float | None
    ended_at: float | None
    note: str

    @property
    def since(self) -> float | None:
        """Since when it is what it is: started, else due."""
        return self.started_at if self.started_at is not None else self.due_at

    def as_facts(self) -> dict[str, Any]:
        """Give it as JSON-safe evidence."""
        return {"run": self.id, "state": self.state, "started_at": self.started_at, "ended_at": self.ended_at}


@dataclass(frozen=True, slots=True)
class Work:
    """One task instance; `state` is empty while it waits for its turn."""

    task: str
    map_index: int
    state: str
    tries: int
    since: float | None
    ended_at: float | None
    trigger_beat_at: float | None

    @property
    def name(self) -> str:
        """The task with its index, when it is one of several."""
        return self.task if self.map_index < 0 else f"{self.task}[{self.map_index}]"


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool; `slots` below zero means no limit."""

    name: str
    slots: int
    open: int
    running: int
    waiting: int
    include_deferred: bool = False

    def as_facts(self) -> dict[str, Any]:
        """Give it as JSON-safe evidence."""
        return {"slots": self.slots, "open": self.open, "running": self.running, "waiting": self.waiting}


@dataclass(frozen=True, slots=True)
class Health:
    """What Airflow says of its parts."""

    database: str
    scheduler: str
    scheduler_beat_at: float | None

    @property
    def complaint(self) -> str:
        """Why nothing would run now; empty when all is well."""
        if self.database != "healthy":
            return f"Airflow's database is {self.database}"
        return "" if self.scheduler == "healthy" else f"Airflow's scheduler is {self.scheduler}"


def seconds_of(text: Any) -> float | None:
    """Give epoch seconds of Airflow's date, None when it is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def run_of(found: JsonObject) -> Run:
    """Give a run from Airflow's answer."""
    return Run(
        id=str(found["dag_run_id"]),
        state=str(found.get("state") or ""),
        due_at=seconds_of(found.get("run_after") or found.get("logical_date") or found.get("execution_date")),
        started_at=seconds_of(found.get("start_date")),
        ended_at=seconds_of(found.get("end_date")),
        note=str(found.get("note") or ""),
    )


def work_of(found: JsonObject) -> Work:
    """Give a task instance from Airflow's answer."""
    beat = (found.get("triggerer_job") or {}).get("latest_heartbeat")
    since = found.get("start_date") or found.get("queued_when") or found.get("scheduled_when")
    return Work(
        task=str(found["task_id"]),
        map_index=int(found.get("map_index", -1)),
        state=str(found.get("state") or ""),
        tries=int(found.get("try_number") or 0),
        since=seconds_of(since),
        ended_at=seconds_of(found.get("end_date")),
        trigger_beat_at=seconds_of(beat),
    )


def line_of(found: Any) -> str:
    """Give a structured log line as text, with what was raised."""
    if not isinstance(found, dict):
        return str(found)
    raised = found.get("error_detail") or []
    last = raised[-1] if isinstance(raised, list) and raised and isinstance(raised[-1], dict) else {}
    error = f" {last.get('exc_type')}: {last.get('exc_value')}" if last else ""
    return f"{found.get('level', '')} {found.get('event', '')}{error}".strip()
