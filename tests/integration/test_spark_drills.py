"""Faults of real applications on a real standalone cluster, each healed with exactly the generated role."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actions.spark_drills import CrashedApplication, RunawayApplication, SparkDrill, StuckStage
from actions.spark_drills_runs import DeadStream, OutOfMemory
from actions.spark_executor import SparkExecutor
from actions.spark_kill import KillApplication
from actions.spark_stages import KillJobOrStage
from actions.spark_streaming import RestartStreaming
from actions.spark_submit import Resubmit, RetryWithResources
from actions.spark_system import SparkSystem
from oncall_agent.contract import SystemClock, SystemContext
from oncall_agent.testing.harness import run_in_thread
from oncall_agent.testing.log import RecordingLog
from oncall_agent.validation.drilling import carry_out
from oncall_agent.validation.results import Verdict

pytestmark = [pytest.mark.backend("spark"), pytest.mark.slow, pytest.mark.timeout(300)]

Submission = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("kind", "action", "arguments", "told"),
    [
        (StuckStage, KillJobOrStage, (), "a stage is stuck"),
        (RunawayApplication, KillApplication, (), "is RUNNING"),
        (CrashedApplication, Resubmit, (), "no application of the name runs"),
        # A little more than the heap of 512 MiB; twice the heap holds it.
        (OutOfMemory, RetryWithResources, ("oom", "70000000"), "Java heap space"),
        (DeadStream, RestartStreaming, ("stream",), "no batch has begun for"),
    ],
    ids=lambda value: value.spec.id if hasattr(value, "spec") else "",
)
async def test_drill_is_healed_with_the_generated_role_and_no_more(
    kind: type[SparkDrill],
    action: type[SparkExecutor],
    arguments: tuple[str, ...],
    told: str,
    spark_settings: dict[str, Any],
    spark_submission: Submission,
    spark_behind_nginx: Callable[[str], dict[str, str]],
    tmp_path: Path,
) -> None:
    checkpoint = str(tmp_path / "checkpoint")
    more = {"checkpoint": checkpoint, "version": "7"} if arguments == ("stream",) else {}
    added = (checkpoint,) if more else ()
    settings = {
        **spark_settings,
        "submissions": {"sandbox": spark_submission(*arguments, *added, **more)},
    }
    role = SparkSystem(settings).grants([action.spec.id])
    assert role.language == "nginx"
    drill = kind(settings, {kind.key: "sandbox"})
    log, clock = RecordingLog(), SystemClock()
    ctx = SystemContext(clock, log, clock.monotonic() + 180, run_in_thread)
    async with action({**settings, **spark_behind_nginx(role.text)}) as executor:
        drilled = await carry_out(drill, executor, ctx, check_id=drill.number)
    assert drilled.verdict is Verdict.PASSED, (drilled, log.lines)
    assert told in drilled.facts["symptom"]
    if action.spec.reversible:
        assert drilled.facts["undo"] == "done"
