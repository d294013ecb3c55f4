"""A harmless DAG for the drills of oncall-agent: put it into the folder of DAGs and unpause it.

Nothing runs by itself: it has no schedule. A drill makes runs with `{"fault": "fail_first"}`, which fail at
the first try only, or `{"fault": "hang"}`, which run until they are ended, ten minutes at most.
"""

# ruff: noqa: INP001 - Airflow reads the file from its folder of DAGs
# mypy: ignore-errors
from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

TAGS = ["oncall-agent", "oncall-agent.rerunnable"]
HANG_SECONDS = 600.0


@task(execution_timeout=timedelta(seconds=HANG_SECONDS + 60.0))
def work(dag_run: Any = None, ti: Any = None) -> None:
    """Do nothing, or what the run's `fault` says."""
    fault = (dag_run.conf or {}).get("fault")
    if fault == "fail_first" and ti.try_number == 1:
        raise RuntimeError("a drill of oncall-agent: this try fails on purpose")
    if fault == "hang":
        time.sleep(HANG_SECONDS)


@task
def after() -> None:
    """Depend on work."""


def make_sandbox(dag_id: str) -> Any:
    """Make a DAG: work, then something that depends on it."""

    @dag(
        dag_id,
        schedule=None,
        tags=TAGS,
        max_active_runs=4,
        default_args={"retries": 0},
        is_paused_upon_creation=False,
    )
    def sandbox() -> None:
        work() >> after()

    return sandbox()


@dag(
    "oncall_sandbox_pool",
    schedule=None,
    tags=TAGS,
    default_args={"retries": 0, "pool": "oncall_sandbox"},
    is_paused_upon_creation=False,
)
def pooled_sandbox() -> None:
    """Work in a pool of its own, which a drill starves: make it by `airflow pools set oncall_sandbox 0 ""`."""
    work()


make_sandbox("oncall_sandbox")
pooled_sandbox()
