"""The Spark actions on a real standalone cluster: once per attempt, every refusal, dry runs, undo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from actions.spark_executor import Cluster, SparkExecutor
from actions.spark_kill import KillApplication
from actions.spark_settings import APPLICATION, WORKER
from actions.spark_stages import KillJobOrStage
from actions.spark_streaming import RestartStreaming
from actions.spark_submit import Resubmit, RetryWithResources
from actions.spark_workers import DecommissionExecutorOrWorker
from oncall_agent.contract import ActionContext, PermanentError, SystemClock, Target, TransientError
from oncall_agent.testing import context_for
from oncall_agent.testing.harness import run_in_thread

pytestmark = [pytest.mark.backend("spark"), pytest.mark.slow, pytest.mark.timeout(300)]

SMALLEST = {"spark.executor.memory": "450m", "spark.executor.cores": "1", "spark.cores.max": "2"}


class Sandbox:
    """One submission of the cluster, and everything of its name."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.cluster = settings, Cluster(settings)
        self.what = self.cluster.settings.submissions["sandbox"]
        self.target = Target(
            "sandbox", APPLICATION, address={"application": self.what.app_name, "submission": "sandbox"}
        )
        self._sent: list[str] = []

    async def start(self, is_up: Callable[[], Awaitable[bool]]) -> None:
        sent = await self.cluster.master.submit(30, self.what, f"test-{self.what.app_name}", {})
        self._sent.append(sent)
        await until(is_up)

    async def active(self) -> list[Any]:
        found = await self.cluster.master.applications(30, self.what.app_name)
        return [one for one in found if not one.is_over]

    async def stages(self) -> tuple[Any, ...]:
        active = await self.active()
        if not active:
            return ()
        base = await self.cluster.master.ui_of(30, active[0])
        return await self.cluster.pages.running(30, base, active[0].id, "stage")

    async def has_stage(self) -> bool:
        return bool(await self.stages())

    async def is_gone(self) -> bool:
        return not await self.active()

    async def end(self) -> None:
        for sent in self._sent:
            await self.cluster.master.withdraw(30, sent)
        for one in await self.active():
            await self.cluster.master.kill(30, one)
        await until(self.is_gone)

    def attempt(
        self, kind: type[SparkExecutor], *, key: str = "", dry_run: bool = False, **params: Any
    ) -> ActionContext:
        return attempt(kind, self.target, key=key, dry_run=dry_run, **params)


def attempt(kind: type[SparkExecutor], target: Target, **more: Any) -> ActionContext:
    key, dry_run = more.pop("key", ""), more.pop("dry_run", False)
    return context_for(
        kind.spec.params.model_validate(more),
        target,
        clock=SystemClock(),
        seconds=90.0,
        key=key,
        dry_run=dry_run,
        run_blocking=run_in_thread,
    )


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(100):
        while True:
            try:
                if await is_so():
                    return
            except TransientError:
                pass
            await asyncio.sleep(0.01)


@pytest.fixture
async def sandbox(
    spark_settings: dict[str, Any], spark_submission: Callable[..., dict[str, Any]]
) -> AsyncIterator[Callable[..., Awaitable[Sandbox]]]:
    made: list[Sandbox] = []

    async def make(*arguments: str, **more: Any) -> Sandbox:
        settings = {**spark_settings, "submissions": {"sandbox": spark_submission(*arguments, **more)}}
        made.append(Sandbox(settings))
        await made[-1].cluster.http.session.__aenter__()
        return made[-1]

    yield make
    for one in made:
        await one.end()
        await one.cluster.http.session.__aexit__(None, None, None)


async def test_stage_and_application_are_ended_once_and_every_refusal_holds(sandbox) -> None:
    app = await sandbox("stuck")
    await app.start(app.has_stage)
    refusals = [
        (KillApplication, {}, "s of its|has run for"),
        (KillApplication, {"application_id": "app-0"}, "no application of that name and id"),
        (KillJobOrStage, {}, "less than 600 s"),
        (KillJobOrStage, {"number": 7}, "no such stage runs"),
        (Resubmit, {}, "of that name is RUNNING"),
        (RetryWithResources, {}, "does not know a former run"),
        (RestartStreaming, {}, "names no checkpoint"),
    ]
    for kind, params, reason in refusals:
        async with kind(app.settings) as executor:
            check = await executor.precheck(app.attempt(kind, **params))
        assert not check.ok, (kind, check)
        assert any(part in check.reason for part in reason.split("|")), (kind, check)
    (stuck,) = await app.stages()
    (application,) = await app.active()

    async with KillJobOrStage(app.settings) as first, KillJobOrStage(app.settings) as second:
        params: dict[str, Any] = {"min_seconds": 0, "stable_seconds": 0.5}
        planned = await first.execute(app.attempt(KillJobOrStage, dry_run=True, **params))
        assert (planned.planned, planned.facts["number"]) == (True, stuck.id)
        ctx = app.attempt(KillJobOrStage, number=stuck.id, **params)
        assert (await first.precheck(ctx)).ok
        receipt = await first.execute(ctx)
        assert (await first.verify(ctx, receipt)).ok
        for executor in (first, second):
            assert (await executor.execute(ctx)).facts["already"]
    assert [one.id for one in await app.active()] == [application.id]

    async with KillApplication(app.settings) as first, KillApplication(app.settings) as second:
        params = {"sla_seconds": 0, "stable_seconds": 0.5}
        assert (await first.execute(app.attempt(KillApplication, dry_run=True, **params))).planned
        assert await app.active()
        ctx = app.attempt(KillApplication, **params)
        assert (await first.precheck(ctx)).ok
        receipt = await first.execute(ctx)
        assert (await first.verify(ctx, receipt)).ok
        for executor in (first, second):
            assert (await executor.execute(ctx)).facts["already"]
    (ended,) = await app.cluster.master.applications(30, app.what.app_name)
    assert (ended.id, ended.state) == (application.id, "KILLED")


async def test_an_attempt_submits_once_also_from_another_process_and_is_taken_back(sandbox) -> None:
    app = await sandbox()
    async with Resubmit(app.settings) as first, Resubmit(app.settings) as second:
        planned = await first.execute(app.attempt(Resubmit, dry_run=True))
        assert planned.planned
        ctx = app.attempt(Resubmit, key=f"once-{app.what.app_name}", stable_seconds=0.5)
        assert (await first.precheck(ctx)).ok
        receipt = await first.execute(ctx)
        assert (await first.verify(ctx, receipt)).ok
        found = await second.execute(ctx)
        assert (found.facts["submission"], found.facts["already"]) == (receipt.facts["submission"], True)
        for _ in range(2):
            assert (await second.rollback(ctx, receipt)).ok
    assert await app.active() == []


async def test_a_worker_is_taken_out_and_its_executor_comes_back_elsewhere(
    spark_small_worker: str, sandbox
) -> None:
    app = await sandbox(conf=SMALLEST)
    sick = Target("worker", WORKER, address={"host": spark_small_worker})
    kind = DecommissionExecutorOrWorker

    async def is_spread() -> bool:
        workers = await app.cluster.master.workers(30)
        active = await app.active()
        has_one = any(one.host == spark_small_worker and one.cores_used == 1 for one in workers)
        return has_one and bool(active) and active[0].cores == 2

    await app.start(is_spread)
    async with kind(app.settings) as executor:
        refusals = [
            (Target("x", WORKER, address={"host": "127.0.0.9"}), "no worker in service"),
            # This run's other worker: its drivers would die, and the small one has no room.
            (Target("x", WORKER, address={"host": "127.0.0.1"}), "no room"),
            (Target("x", WORKER, address=sick.address, protected=True), "protected"),
        ]
        for target, reason in refusals:
            check = await executor.precheck(attempt(kind, target))
            assert (check.ok, reason in check.reason) == (False, True), check
        with pytest.raises(PermanentError, match="protected"):
            await executor.execute(attempt(kind, refusals[-1][0]))
        params = {"application": app.what.app_name, "stable_seconds": 0.5}
        assert (await executor.execute(attempt(kind, sick, dry_run=True, **params))).planned
        assert await is_spread()
        ctx = attempt(kind, sick, **params)
        check = await executor.precheck(ctx)
        assert (check.ok, check.facts["cores_used_before"]) == (True, 2), check
        receipt = await executor.execute(ctx)
        assert (await executor.execute(ctx)).facts["already"]
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
    async with kind(app.settings) as other:
        assert (await other.execute(ctx)).facts["already"]
    assert len(await app.active()) == 1
