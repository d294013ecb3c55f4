"""What is asked of Airflow and told to it, the same for both of its APIs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import quote

from actions.airflow_client import AirflowClient, Timed
from actions.airflow_words import Dag, Health, Pool, Run, Work, line_of, run_of, seconds_of, work_of
from oncall_agent.contract import PermanentError
from oncall_agent.models import JsonObject

_PAGE = 100
_MAX_PAGES = 10
_MAX_NOTE = 1_000


class AirflowApi:
    """The calls; every one takes what is left of the caller's deadline."""

    def __init__(self, client: AirflowClient) -> None:
        self.client = client

    async def health(self, timed: Timed) -> Health:
        """Read the health of the parts; needs no sign-in."""
        server = await self.client.server(timed)
        path = f"{server.base}/health" if server.is_v1 else f"{server.base}/monitor/health"
        answer = (await self.client.open(timed, path)).check((200,)).json()
        found = answer if isinstance(answer, dict) else {}
        scheduler = found.get("scheduler") or {}
        return Health(
            database=str((found.get("metadatabase") or {}).get("status") or "unknown"),
            scheduler=str(scheduler.get("status") or "unknown"),
            scheduler_beat_at=seconds_of(scheduler.get("latest_scheduler_heartbeat")),
        )

    async def dag(self, timed: Timed, dag: str) -> Dag:
        """Read a DAG."""
        found = await self.client.call(timed, "GET", f"/dags/{_part(dag)}")
        is_gone = bool(found.get("is_stale", not found.get("is_active", True)))
        return Dag(
            id=dag,
            is_paused=bool(found.get("is_paused")),
            is_gone=is_gone,
            has_import_errors=bool(found.get("has_import_errors")),
            max_active_runs=found.get("max_active_runs"),
            tags=frozenset(str(tag.get("name")) for tag in found.get("tags") or []),
        )

    async def dags(self, timed: Timed, *, tag: str = "", limit: int = 1) -> list[str]:
        """Give the ids of some DAGs that we may see."""
        query: dict[str, str | int | list[str]] = {"limit": limit, **({"tags": tag} if tag else {})}
        found = await self.client.call(timed, "GET", "/dags", query=query)
        return [str(dag["dag_id"]) for dag in found.get("dags") or []]

    async def run(self, timed: Timed, dag: str, run: str) -> Run:
        """Read one run."""
        return run_of(await self.client.call(timed, "GET", _runs(dag, run)))

    async def runs(
        self, timed: Timed, dag: str, *, states: Sequence[str] = (), limit: int = _PAGE, oldest: bool = False
    ) -> list[Run]:
        """Read runs, newest first unless asked otherwise."""
        server = await self.client.server(timed)
        order = "execution_date" if server.is_v1 else "run_after"
        query: dict[str, str | int | list[str]] = {
            "limit": limit,
            "order_by": order if oldest else f"-{order}",
        }
        if states:
            query["state"] = list(states)
        found = await self.client.call(timed, "GET", _runs(dag), query=query)
        return [run_of(one) for one in found.get("dag_runs") or []]

    async def count_active(self, timed: Timed, dag: str) -> int:
        """Count the runs that are queued or running."""
        query: dict[str, str | int | list[str]] = {"limit": 1, "state": ["queued", "running"]}
        found = await self.client.call(timed, "GET", _runs(dag), query=query)
        return int(found.get("total_entries") or 0)

    async def work(self, timed: Timed, dag: str, run: str) -> list[Work]:
        """Read every task instance of a run.

        Raises:
            PermanentError: there are more than a thousand.
        """
        found: list[Work] = []
        for page in range(_MAX_PAGES):
            query: dict[str, str | int | list[str]] = {"limit": _PAGE, "offset": page * _PAGE}
            answer = await self.client.call(timed, "GET", f"{_runs(dag, run)}/taskInstances", query=query)
            listed = answer.get("task_instances") or []
            found += [work_of(one) for one in listed]
            if len(listed) < _PAGE:
                return found
        raise PermanentError(f"run {run} has more than {_PAGE * _MAX_PAGES} task instances")

    async def successors(self, timed: Timed, dag: str, task: str) -> list[str]:
        """Give the tasks that depend on one directly."""
        found = await self.client.call(timed, "GET", f"/dags/{_part(dag)}/tasks/{_part(task)}")
        return [str(one) for one in found.get("downstream_task_ids") or []]

    async def clear(
        self,
        timed: Timed,
        dag: str,
        run: str,
        *,
        tasks: Collection[str] = (),
        only_failed: bool,
        downstream: bool = False,
        dry_run: bool,
    ) -> list[str]:
        """Clear task instances of a run, or say which would be; gives their tasks, one entry each."""
        body: dict[str, Any] = {
            "dag_run_id": run,
            "dry_run": dry_run,
            "only_failed": only_failed,
            "only_running": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        if tasks:
            body["task_ids"] = list(tasks)
        path = f"/dags/{_part(dag)}/clearTaskInstances"
        found = await self.client.call(timed, "POST", path, body=body)
        return [str(one["task_id"]) for one in found.get("task_instances") or []]

    async def clear_run(self, timed: Timed, dag: str, run: str) -> None:
        """Run everything of a run again."""
        await self.client.call(timed, "POST", f"{_runs(dag, run)}/clear", body={"dry_run": False})

    async def annotate(self, timed: Timed, dag: str, run: Run, line: str) -> None:
        """Add a line to the note of a run; what people wrote there stays, unless it is too long."""
        room = _MAX_NOTE - len(line) - 1
        note = f"{run.note[-room:]}\n{line}" if run.note else line
        if (await self.client.server(timed)).is_v1:
            await self.client.call(timed, "PATCH", f"{_runs(dag, run.id)}/setNote", body={"note": note})
            return
        query = {"update_mask": "note"}
        await self.client.call(timed, "PATCH", _runs(dag, run.id), query=query, body={"note": note})

    async def trigger(self, timed: Timed, dag: str, run: str, conf: JsonObject, note: str) -> None:
        """Make a run under an id of ours.

        Raises:
            TakenError: there is one with that id.
        """
        body: dict[str, Any] = {"dag_run_id": run, "conf": dict(conf), "note": note}
        if not (await self.client.server(timed)).is_v1:
            body["logical_date"] = None
        await self.client.call(timed, "POST", _runs(dag), body=body)

    async def set_run_state(self, timed: Timed, dag: str, run: str, state: str) -> None:
        """Declare a run ended; what still runs of it is ended by Airflow."""
        await self.client.call(timed, "PATCH", _runs(dag, run), body={"state": state})

    async def set_task_state(self, timed: Timed, dag: str, run: str, work: Work, state: str) -> None:
        """Declare a task instance ended.

        Raises:
            TakenError: it is in that state already.
        """
        body: dict[str, Any] = {"new_state": state}
        if (await self.client.server(timed)).is_v1:
            body["dry_run"] = False
        index = f"/{work.map_index}" if work.map_index >= 0 else ""
        path = f"{_runs(dag, run)}/taskInstances/{_part(work.task)}{index}"
        await self.client.call(timed, "PATCH", path, body=body)

    async def set_paused(self, timed: Timed, dag: str, *, is_paused: bool) -> None:
        """Pause or unpause a DAG."""
        query, body = {"update_mask": "is_paused"}, {"is_paused": is_paused}
        await self.client.call(timed, "PATCH", f"/dags/{_part(dag)}", query=query, body=body)

    async def pool(self, timed: Timed, pool: str) -> Pool:
        """Read a pool; what waits is what is queued or would be if there were slots."""
        found = await self.client.call(timed, "GET", f"/pools/{_part(pool)}")
        return Pool(
            name=pool,
            slots=int(found["slots"]),
            open=int(found.get("open_slots") or 0),
            running=int(found.get("running_slots") or 0),
            waiting=int(found.get("queued_slots") or 0) + int(found.get("scheduled_slots") or 0),
            include_deferred=bool(found.get("include_deferred")),
        )

    async def set_pool_slots(self, timed: Timed, pool: Pool, slots: int) -> None:
        """Give a pool that many slots; Airflow 3 wants what is not changed in the body, too."""
        body: dict[str, Any] = {"slots": slots}
        if not (await self.client.server(timed)).is_v1:
            body |= {"pool": pool.name, "include_deferred": pool.include_deferred}
        query = {"update_mask": "slots"}
        await self.client.call(timed, "PATCH", f"/pools/{_part(pool.name)}", query=query, body=body)

    async def log(self, timed: Timed, dag: str, run: str, work: Work) -> list[str]:
        """Give the last lines of a task instance's log, with what it raised."""
        path = f"{_runs(dag, run)}/taskInstances/{_part(work.task)}/logs/{max(1, work.tries)}"
        query: dict[str, str | int | list[str]] = {"map_index": work.map_index}
        found = (await self.client.call(timed, "GET", path, query=query)).get("content")
        lines = found.splitlines() if isinstance(found, str) else [line_of(one) for one in found or []]
        return [line[:500] for line in lines[-20:]]


def _part(text: str) -> str:
    return quote(text, safe="")


def _runs(dag: str, run: str = "") -> str:
    return f"/dags/{_part(dag)}/dagRuns{f'/{_part(run)}' if run else ''}"
