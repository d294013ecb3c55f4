"""DAGs of the tests, one per purpose, all of one shape: `load`, whose behaviour a run chooses, then `publish`.

A run is made with `{"gate": NAME}` to fail until that file stands in the folder of gates, with `{"hang": NAME}`
to run until it stands there; every run ends by itself.
"""

# mypy: ignore-errors
# Airflow is in an environment of its own.
from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import dag, task
from oncall_sandbox import make_sandbox

PURPOSES = {
    "clear": ["oncall-agent"],
    "clear_many": ["oncall-agent"],
    "clear_undo": ["oncall-agent"],
    "contract": ["oncall-agent", "oncall-agent.rerunnable"],
    "mark_run": [],
    "mark_task": [],
    "outage": ["oncall-agent", "oncall-agent.rerunnable"],
    "pause": [],
    "paused": ["oncall-agent", "oncall-agent.rerunnable"],
    "pool": [],
    "prober": [],
    "protected": ["oncall-agent", "oncall-agent.rerunnable", "oncall-agent.protected"],
    "rerun": ["oncall-agent.rerunnable"],
    "rerun_undo": ["oncall-agent.rerunnable"],
    "roles": ["oncall-agent", "oncall-agent.rerunnable"],
    "trigger": [],
    "trigger_undo": [],
    "unpause": [],
    "untagged": [],
}
SANDBOXES = ("everything", "failed_task", "failed_run", "missed_run", "stuck_run", "paused_dag")
"""Drills, each with a sandbox of its own, so that they can be tested side by side."""
LONGEST_SECONDS = 90.0


def is_open(name: str) -> bool:
    """Whether the gate stands open."""
    return (Path(os.environ["ONCALL_TEST_AIRFLOW_GATES"]) / name).exists()


@task(execution_timeout=timedelta(seconds=LONGEST_SECONDS))
def load(dag_run=None):
    """Fail, hang, or be done, as the run says."""
    conf = dag_run.conf or {}
    if "gate" in conf and not is_open(conf["gate"]):
        raise RuntimeError("the source does not answer")
    while "hang" in conf and not is_open(conf["hang"]):
        time.sleep(0.1)


@task
def publish():
    """Depend on load."""


for purpose, tags in PURPOSES.items():
    pool = "oncall_pool" if purpose == "pool" else "default_pool"

    @dag(
        f"oncall_{purpose}",
        schedule=None,
        tags=tags,
        max_active_runs=2,
        default_args={"retries": 0, "pool": pool},
        is_paused_upon_creation=False,
    )
    def made():
        """Load, then publish."""
        load() >> publish()

    made()

for drill in SANDBOXES:
    make_sandbox(f"oncall_sandbox_{drill}")
