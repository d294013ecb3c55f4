"""What an application says of itself: its own pages while it runs, the history server afterwards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from actions.spark_http import SparkHttp, rows_of
from oncall_agent.contract import TransientError

Part = Literal["stage", "job"]
_LOST = re.compile(
    r"OutOfMemoryError|ExecutorLostFailure|Container killed|exit code (?:52|137)|code 52 |Command exited with code (?:52|137)",
    re.IGNORECASE,
)
_MAX_REASONS = 10
_MAX_TEXT = 300
_MAX_HISTORY = "500"


@dataclass(frozen=True, slots=True)
class Running:
    """A stage or a job that runs now; `name` is what the program calls it."""

    id: int
    name: str
    began_at: float
    tasks: int
    tasks_done: int

    def as_facts(self) -> dict[str, Any]:
        """Give it as JSON-safe evidence."""
        return {**asdict(self), "name": self.name[:_MAX_TEXT]}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an application has come: anything that grows is progress."""

    tasks_done: int
    stages_done: int
    tasks_active: int
    stages_failed: int

    @property
    def steps(self) -> int:
        """One number that only grows."""
        return self.tasks_done + self.stages_done


class Pages:
    """The REST API of one application, by the base URL of its pages or of the history server."""

    def __init__(self, http: SparkHttp) -> None:
        self._http = http

    async def running(self, seconds: float, base: str, application: str, part: Part) -> tuple[Running, ...]:
        """Give the stages or jobs that run, oldest first."""
        status = "active" if part == "stage" else "running"
        rows = await self._rows(seconds, base, application, f"{part}s", status=status)
        found = (_running(row, part) for row in rows)
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.began_at))

    async def durations(self, seconds: float, base: str, application: str, name: str) -> tuple[float, ...]:
        """Give how long the completed stages of that name took."""
        rows = await self._rows(seconds, base, application, "stages", status="complete")
        spans = (
            (_at(row, "submissionTime"), _at(row, "completionTime"))
            for row in rows
            if row.get("name") == name
        )
        return tuple(end - start for start, end in spans if start is not None and end is not None)

    async def status(self, seconds: float, base: str, application: str, part: Part, number: int) -> str:
        """Give the state of a stage or job, empty when it is not known (any more)."""
        answer = await self._http.get(seconds, f"{base}/api/v1/applications/{application}/{part}s/{number}")
        if answer.status == 404:  # noqa: PLR2004 - not known
            return ""
        found = answer.check((200,)).json()
        newest = found[-1] if isinstance(found, list) and found else found
        return str(newest.get("status", "")) if isinstance(newest, dict) else ""

    async def kill(self, seconds: float, base: str, part: Part, number: int) -> None:
        """Press the button of the page that lists it."""
        url = f"{base}/{part}s/{part}/kill/"
        await self._http.press(seconds, f"{base}/{part}s/", url, id=str(number), terminate="true")

    async def progress(self, seconds: float, base: str, application: str) -> Progress:
        """Sum up the stages."""
        rows = await self._rows(seconds, base, application, "stages")
        return Progress(
            tasks_done=sum(int(row.get("numCompleteTasks") or 0) for row in rows),
            stages_done=sum(row.get("status") == "COMPLETE" for row in rows),
            tasks_active=sum(int(row.get("numActiveTasks") or 0) for row in rows),
            stages_failed=sum(row.get("status") == "FAILED" for row in rows),
        )

    async def last_step(self, seconds: float, base: str, application: str) -> float | None:
        """Give when the newest stage was begun or ended; None when there was none."""
        rows = await self._rows(seconds, base, application, "stages")
        times = [_at(row, key) for row in rows for key in ("submissionTime", "completionTime")]
        return max((at for at in times if at is not None), default=None)

    async def losses(self, seconds: float, base: str, application: str) -> tuple[str, ...]:
        """Give what speaks of lost executors and exhausted memory, shortened."""
        stages = await self._rows(seconds, base, application, "stages", status="failed")
        executors = await self._rows(seconds, base, application, "allexecutors")
        texts = [str(row.get("failureReason", "")) for row in stages]
        texts += [str(row.get("removeReason", "")) for row in executors]
        return losses_in(texts)

    async def properties(self, seconds: float, base: str, application: str) -> dict[str, str]:
        """Give Spark's properties as the application runs with them."""
        url = f"{base}/api/v1/applications/{application}/environment"
        found = await self._http.json(seconds, url)
        pairs = found.get("sparkProperties", []) if isinstance(found, dict) else []
        return {str(key): str(value) for key, value in pairs}

    async def ended(self, seconds: float, history: str, name: str) -> str | None:
        """Give the id of the last ended application of that name in the history server."""
        url = f"{history}/api/v1/applications"
        rows = rows_of(await self._http.json(seconds, url, status="completed", limit=_MAX_HISTORY))
        named = [row for row in rows if row.get("name") == name]
        newest = max(named, key=_ended_at, default=None)
        return None if newest is None else str(newest["id"])

    async def _rows(
        self, seconds: float, base: str, application: str, what: str, **query: str
    ) -> list[dict[str, Any]]:
        url = f"{base}/api/v1/applications/{application}/{what}"
        answer = await self._http.get(seconds, url, **query)
        if answer.status == 404:  # noqa: PLR2004 - what its pages say
            raise TransientError("the application's pages do not know it (yet)")
        if not answer.body.lstrip().startswith(b"["):
            # While the application starts, its pages say so in HTML, whatever is asked.
            raise TransientError("the application's pages are not up yet")
        return rows_of(answer.check((200,)).json(), limit=5_000)


def losses_in(texts: Sequence[str]) -> tuple[str, ...]:
    """Give the texts that speak of lost executors or exhausted memory, each once, shortened."""
    found = [text.strip()[:_MAX_TEXT] for text in texts if _LOST.search(text)]
    return tuple(dict.fromkeys(found))[:_MAX_REASONS]


def percentile_99(durations: Sequence[float]) -> float | None:
    """Give the 99th percentile; None of nothing."""
    ordered = sorted(durations)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else None


def _running(row: Mapping[str, Any], part: Part) -> Running | None:
    began_at = _at(row, "submissionTime")
    if began_at is None:
        return None
    return Running(
        id=int(row["stageId" if part == "stage" else "jobId"]),
        name=str(row.get("name", "")),
        began_at=began_at,
        tasks=int(row.get("numTasks") or 0),
        tasks_done=int(row.get("numCompleteTasks" if part == "stage" else "numCompletedTasks") or 0),
    )


def _ended_at(row: Mapping[str, Any]) -> float:
    attempts = rows_of(row.get("attempts", []))
    return max((float(one.get("endTimeEpoch") or 0) for one in attempts), default=0.0)


def _at(row: Mapping[str, Any], key: str) -> float | None:
    """Give a time such as `2026-11-21T12:45:40.596GMT` as epoch seconds."""
    text = row.get(key)
    if not isinstance(text, str) or not text.endswith("GMT"):
        return None
    at = datetime.fromisoformat(text.removesuffix("GMT")).replace(tzinfo=UTC).timestamp()
    return at if at >= 0 else None
