"""The world behind `FakeAirflow`: DAGs, runs and pools that go on as its clock does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from oncall_agent.contract import Clock

ENDED = ("success", "failed")
TASK_ENDED = ("success", "failed", "upstream_failed", "skipped")
_TURN_SECONDS = 1.0


@dataclass
class FakeDag:
    """A DAG of two tasks, `load` and then `publish`."""

    id: str
    tags: tuple[str, ...] = ("oncall-agent", "oncall-agent.rerunnable")
    is_paused: bool = False
    max_active_runs: int = 2


@dataclass
class FakeTask:
    """One task of a run; `state` is None while it waits."""

    state: str | None = None
    tries: int = 0


@dataclass
class FakeRun:
    """One run; times in epoch seconds."""

    dag: str
    id: str
    state: str = "queued"
    made_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    note: str | None = None
    conf: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, FakeTask] = field(default_factory=lambda: {"load": FakeTask(), "publish": FakeTask()})


@dataclass
class FakePool:
    """A pool; what waits gets its turn as soon as there are slots."""

    name: str
    slots: int = 0
    waiting: int = 2


class FakeWorld:
    """What is there and what was done to it.

    Attributes:
        heals: whether a task that runs succeeds.
        has_scheduler: nothing goes on without one.
        changes: what was changed, in order; notes are not among it.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.dags: dict[str, FakeDag] = {}
        self.runs: dict[tuple[str, str], FakeRun] = {}
        self.pools: dict[str, FakePool] = {}
        self.heals = self.has_scheduler = True
        self.changes: list[tuple[str, str]] = []

    def go_on(self) -> None:
        """Let every active run whose turn has come end, and every pool with slots take in what waits."""
        if not self.has_scheduler:
            return
        for run in self.runs.values():
            if run.state == "queued" and self.clock.now() - run.made_at >= _TURN_SECONDS:
                self._carry_out(run)
        for pool in self.pools.values():
            if pool.slots > 0:
                pool.waiting = 0

    def fail(self, dag: str, run: str, *, ended_at: float) -> FakeRun:
        """Put a run there whose first task has failed."""
        made = FakeRun(dag, run, "failed", ended_at - 10.0, ended_at - 9.0, ended_at)
        made.tasks = {"load": FakeTask("failed", 1), "publish": FakeTask("upstream_failed", 0)}
        self.runs[dag, run] = made
        return made

    def hang(self, dag: str, run: str, *, since: float) -> FakeRun:
        """Put a run there whose first task does not end."""
        made = FakeRun(dag, run, "running", since, since)
        made.tasks = {"load": FakeTask("running", 1), "publish": FakeTask()}
        self.runs[dag, run] = made
        return made

    def cleared(self, run: FakeRun, names: list[str], *, only_failed: bool) -> list[str]:
        """Give the tasks that clearing would touch."""
        wanted = names or list(run.tasks)
        bad = ("failed", "upstream_failed")
        return [name for name in wanted if name in run.tasks and self._fits(run, name, bad, only_failed)]

    def clear(self, run: FakeRun, names: list[str]) -> None:
        """Let these tasks run again."""
        self.changes.append(("clear", run.id))
        for name in names:
            run.tasks[name].state = None
        run.state, run.made_at, run.started_at, run.ended_at = "queued", self.clock.now(), None, None

    def end(self, run: FakeRun, state: str) -> None:
        """Declare a run ended."""
        self.changes.append(("state", run.id))
        for task in run.tasks.values():
            if task.state == "running":
                task.state = state
            elif task.state not in TASK_ENDED:
                task.state = "skipped"
        run.state, run.ended_at = state, self.clock.now()

    def end_task(self, run: FakeRun, name: str, state: str) -> None:
        """Declare a task ended; the run goes on."""
        self.changes.append(("state", f"{run.id} {name}"))
        run.tasks[name].state = state
        run.state, run.made_at = "queued", self.clock.now()

    def _carry_out(self, run: FakeRun) -> None:
        failed = False
        for task in run.tasks.values():
            if task.state in TASK_ENDED:
                failed = failed or task.state == "failed"
                continue
            if failed:
                task.state = "upstream_failed"
                continue
            task.tries += 1
            task.state = "success" if self.heals else "failed"
            failed = not self.heals
        run.started_at, run.ended_at = run.made_at, self.clock.now()
        run.state = "failed" if failed else "success"

    @staticmethod
    def _fits(run: FakeRun, name: str, bad: tuple[str, ...], only_failed: bool) -> bool:
        return not only_failed or run.tasks[name].state in bad


def date_of(seconds: float | None) -> str | None:
    """Give a time as Airflow writes it."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
