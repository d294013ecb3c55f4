"""What a real Spark cluster says when it is inspected, and what the actions say when it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from backends.spark_server import token

from actions.spark_executor import SparkExecutor
from actions.spark_grants import ANYBODY, NOT_NEEDED
from actions.spark_kill import KillApplication
from actions.spark_settings import APPLICATION, WORKER
from actions.spark_stages import KillJobOrStage
from actions.spark_streaming import RestartStreaming
from actions.spark_submit import Resubmit, RetryWithResources
from actions.spark_system import SparkSystem
from actions.spark_workers import DecommissionExecutorOrWorker
from oncall_agent.contract import Inspection, PermanentError, SystemClock, SystemContext, Target
from oncall_agent.testing import FaultyProxy, check_outages, context_for
from oncall_agent.testing.harness import run_in_thread
from oncall_agent.testing.log import RecordingLog
from oncall_agent.testing.proxy import Upstream

pytestmark = [pytest.mark.backend("spark"), pytest.mark.slow]

KINDS: tuple[type[SparkExecutor], ...] = (
    KillApplication,
    KillJobOrStage,
    Resubmit,
    RetryWithResources,
    RestartStreaming,
    DecommissionExecutorOrWorker,
)
ACTIONS = [kind.spec.id for kind in KINDS]
Submission = Callable[..., dict[str, Any]]


async def inspected(settings: dict[str, Any]) -> Inspection:
    clock = SystemClock()
    async with SparkSystem(settings) as system:
        ctx = SystemContext(clock, RecordingLog(), clock.monotonic() + 30)
        return await system.inspect(ctx, ACTIONS)


def attempt(kind: type[SparkExecutor], name: str, seconds: float) -> Any:
    address = {"application": name, "submission": "sandbox", "host": "127.0.0.1"}
    return context_for(
        kind.spec.params(),
        Target("sandbox", WORKER if kind is DecommissionExecutorOrWorker else APPLICATION, address=address),
        clock=SystemClock(),
        seconds=seconds,
        run_blocking=run_in_thread,
    )


async def test_a_bare_cluster_is_told_and_lets_too_much_through(spark_settings: dict[str, Any]) -> None:
    found = await inspected(spark_settings)
    assert (found.product, found.version, found.unsupported) == ("Apache Spark (standalone)", "4.1.4", "")
    assert abs((found.server_time or 0.0) - SystemClock().now()) < 30
    held = {one.name: one.held for one in found.privileges}
    too_much = {one.name for one in found.privileges if one.held and not one.needed_by}
    assert too_much == {what for _, what in NOT_NEEDED}
    # The submission server of this run asks for a token.
    assert held.pop(ANYBODY) is False
    assert set(held.values()) == {True}


async def test_the_generated_role_holds_what_is_needed_and_no_more(
    spark_settings: dict[str, Any], spark_behind_nginx: Callable[[str], dict[str, str]]
) -> None:
    rules = SparkSystem(spark_settings).grants(ACTIONS).text
    settings = {**spark_settings, **spark_behind_nginx(rules)}
    found = await inspected(settings)
    assert {one.name for one in found.privileges if one.held is not bool(one.needed_by)} == set()
    async with KillApplication(settings) as executor:
        http, (master, submit) = executor.cluster.http, (settings["master_url"], settings["submit_url"])
        for method, url in (
            ("POST", f"{master}/driver/kill/"),
            ("GET", f"{master}/environment/"),
            ("POST", f"{submit}/v1/submissions/killall"),
            ("POST", f"{master}/json/"),
        ):
            assert (await http.ask(method, 10, url)).status == 403, url


async def test_wrong_credentials_and_a_wrong_product_are_named(
    spark_settings: dict[str, Any], spark_submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = spark_submission()
    settings = {**spark_settings, "submissions": {"sandbox": what}}
    async with Resubmit({**settings, "master_url": settings["history_url"]}) as executor:
        with pytest.raises(PermanentError, match="answer"):
            await executor.precheck(attempt(Resubmit, what["app_name"], 10.0))
    monkeypatch.setenv("TEST_SPARK_TOKEN", "no-such-token")
    held = {one.name: one.held for one in (await inspected(settings)).privileges}
    assert (held["POST /v1/submissions/create"], held["GET /json/"]) == (False, True)
    async with Resubmit(settings) as executor:
        with pytest.raises(PermanentError, match="refuses our credentials") as refused:
            await executor.execute(attempt(Resubmit, what["app_name"], 10.0))
    assert "no-such-token" not in str(refused.value)


async def test_every_action_bears_the_loss_of_its_master(
    spark_settings: dict[str, Any], spark_submission: Submission
) -> None:
    what = spark_submission(checkpoint="/nowhere")
    upstream = Upstream(port=int(spark_settings["master_url"].rpartition(":")[2]))

    async def outage(kind: type[SparkExecutor]) -> int:
        async with FaultyProxy(upstream) as proxy:
            settings = {
                **spark_settings,
                "master_url": f"http://127.0.0.1:{proxy.port}",
                "submissions": {"sandbox": what},
            }
            async with kind(settings) as executor:
                ended = await check_outages(
                    executor, proxy, lambda seconds: attempt(kind, what["app_name"], seconds), secret=token()
                )
        return len(ended)

    # Side by side: what takes long is waiting for deadlines.
    counts = await asyncio.gather(*(outage(kind) for kind in KINDS))
    assert counts == [24 if kind.spec.reversible else 20 for kind in KINDS]
