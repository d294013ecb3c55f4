"""What becomes of the Airflow actions when Airflow goes away, refuses us, or is something else."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from backends.airflow_server import AirflowProcesses, password_of
from scenes.airflow import SOON, attempt

from actions.airflow_api import AirflowApi
from actions.airflow_client import AirflowClient
from actions.airflow_control import PauseDag, SetPoolSlots, UnpauseDag
from actions.airflow_mark import MarkState
from actions.airflow_probe import AirflowProbeParams, AirflowProber
from actions.airflow_runs import RerunDagRun, TriggerDag
from actions.airflow_settings import DAG_KIND, POOL_KIND
from actions.airflow_tasks import ClearTasks
from oncall_agent.contract import PermanentError, Receipt, Secret, SystemClock, Target, TransientError
from oncall_agent.contract.executor import run_inline
from oncall_agent.testing import FakePatient, Fault, FaultyProxy, Upstream, check_outages

pytestmark = [pytest.mark.backend("airflow"), pytest.mark.slow]

ACTIONS: dict[type[Any], dict[str, Any]] = {
    ClearTasks: {"dag": "oncall_outage"},
    MarkState: {"dag": "oncall_outage"},
    PauseDag: {"dag": "oncall_outage"},
    RerunDagRun: {"dag": "oncall_outage"},
    SetPoolSlots: {"pool": "default_pool", "slots": 2},
    TriggerDag: {"dag": "oncall_outage"},
    UnpauseDag: {"dag": "oncall_outage"},
}
FACTS = {"run": "nothing", "tasks": {"load": 1}, "slots_before": 1, "before": {"load": "running"}}


@pytest.fixture
async def proxy(airflow_url: str) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(Upstream(port=urlsplit(airflow_url).port or 0)) as relay:
        yield relay


@pytest.mark.parametrize("kind", ACTIONS, ids=lambda kind: kind.spec.id)
async def test_every_method_bears_the_loss_of_airflow(
    kind: Any, proxy: FaultyProxy, airflow_settings
) -> None:
    settings = {**airflow_settings("op"), "url": f"http://127.0.0.1:{proxy.port}"}
    async with kind(settings) as executor:
        ended = await check_outages(
            executor,
            proxy,
            lambda seconds: attempt(kind, seconds=seconds, **ACTIONS[kind]),
            receipt=Receipt(kind.spec.id, 0.0, FACTS),
            deadline_seconds=0.5,
            secret=password_of("op"),
        )
    assert {one.fault for one in ended} == {Fault.CUT, Fault.CUT_MIDWAY, Fault.BLACK_HOLE, Fault.REFUSED}


async def test_a_slow_way_ends_at_the_deadline(proxy: FaultyProxy, airflow_settings) -> None:
    settings = {**airflow_settings("op"), "url": f"http://127.0.0.1:{proxy.port}"}
    async with ClearTasks(settings) as executor:
        ended = await check_outages(
            executor,
            proxy,
            lambda seconds: attempt(ClearTasks, "oncall_outage", seconds=seconds),
            receipt=Receipt("airflow.clear_tasks", 0.0, FACTS),
            faults=(Fault.SLOW,),
            deadline_seconds=1.0,
        )
    assert max(one.seconds for one in ended) < 2.0


async def test_wrong_credentials_are_named_and_never_shown(airflow_settings, monkeypatch) -> None:
    monkeypatch.setenv("TEST_WRONG", "s3cr3t-Zx81")
    for more, said in (
        ({"password": "env:TEST_WRONG"}, "Airflow refuses the password of user"),
        ({"password": "env:TEST_NOT_SET"}, "the secret env:TEST_NOT_SET is empty or not set"),
        ({"password": None}, "backends.airflow has neither a password nor a token"),
        ({"token": "env:TEST_WRONG"}, "Airflow refuses the credentials of user"),
    ):
        async with PauseDag({**airflow_settings("user"), **more}) as executor:
            ctx = attempt(PauseDag, "oncall_outage")
            check = await executor.ping(ctx)
            assert (check.ok, check.reason) == (False, said)
            with pytest.raises(PermanentError, match=said) as refused:
                await executor.precheck(ctx)
            assert "s3cr3t" not in f"{refused.value!r} {refused.value.__cause__!r}"


async def test_a_token_is_renewed_when_airflow_no_longer_takes_it(airflow_settings) -> None:
    async with PauseDag(airflow_settings("user")) as executor:
        executor.client._token = Secret("Bearer from-before-the-restart")
        assert (await executor.ping(attempt(PauseDag, "oncall_outage"))).ok
        assert executor.client._token.reveal() != "Bearer from-before-the-restart"


async def test_a_token_by_reference_works_without_a_password(airflow_settings, monkeypatch) -> None:
    async with AirflowClient(airflow_settings("user")) as client:
        await client.call(SOON, "GET", "/dags")
        monkeypatch.setenv("TEST_TOKEN", (client._token or Secret()).reveal().removeprefix("Bearer "))
    own = {**airflow_settings("user"), "password": None, "token": "env:TEST_TOKEN"}
    async with PauseDag(own) as executor:
        assert (await executor.ping(attempt(PauseDag, "oncall_outage"))).ok


async def test_a_role_that_is_too_small_is_named_and_changes_nothing(airflow_settings) -> None:
    async with PauseDag(airflow_settings("viewer")) as executor:
        ctx = attempt(PauseDag, "oncall_outage")
        assert (await executor.precheck(ctx)).ok
        with pytest.raises(PermanentError, match="the role of viewer is too small"):
            await executor.execute(ctx)
        assert not (await executor.api.dag(SOON, "oncall_outage")).is_paused


async def test_something_else_than_airflow_is_told(airflow_settings) -> None:
    async with (
        FakePatient() as patient,
        PauseDag({**airflow_settings("user"), "url": patient.url}) as executor,
    ):
        with pytest.raises(PermanentError, match="no Airflow"):
            await executor.precheck(attempt(PauseDag, "oncall_outage"))


async def read(settings: dict[str, Any], target: Target) -> Any:
    async with AirflowProber(settings) as prober:
        return await prober.read(
            target,
            AirflowProbeParams(),
            timeout_seconds=10.0,
            clock=SystemClock(),
            run_blocking=run_inline,
        )


async def test_a_killed_scheduler_refuses_what_would_not_run_and_a_killed_api_server_is_an_outage(
    mortal_airflow: AirflowProcesses, airflow_settings
) -> None:
    settings = {**airflow_settings("op"), "url": mortal_airflow.url}
    dag = Target("outage", DAG_KIND, address={"dag": "oncall_outage"})
    pool = Target("pool", POOL_KIND, address={"pool": "default_pool"})
    async with TriggerDag(settings) as trigger, PauseDag(settings) as pause:
        ctx, pausing = attempt(TriggerDag, "oncall_outage"), attempt(PauseDag, "oncall_outage")
        check = await trigger.precheck(ctx)
        assert (check.ok, check.reason) == (False, "Airflow's scheduler is unhealthy")
        with pytest.raises(PermanentError, match="scheduler is unhealthy"):
            await trigger.execute(ctx)
        assert (await pause.verify(pausing, await pause.execute(pausing))).ok
        for target in (dag, pool):
            reading = await read(settings, target)
            assert (reading.signals.up, reading.facts["reason"]) == (
                False,
                "Airflow's scheduler is unhealthy",
            )
        os.killpg(mortal_airflow.pid_of("api-server"), signal.SIGKILL)
        assert not (await trigger.ping(ctx)).ok
        for step in (pause.precheck, pause.execute):
            with pytest.raises(TransientError, match="can't connect"):
                await step(pausing)
        with pytest.raises(TransientError):
            await read(settings, dag)


async def test_the_prober_reads_the_last_run_that_ended(airflow_settings) -> None:
    target = Target("prober", DAG_KIND, address={"dag": "oncall_prober"})
    settings = airflow_settings("op")
    async with AirflowClient(settings) as client:
        api = AirflowApi(client)
        run = f"test-{os.urandom(6).hex()}"
        await api.set_paused(SOON, "oncall_prober", is_paused=False)
        await api.trigger(SOON, "oncall_prober", run, {"hang": "never"}, "")
        await api.set_run_state(SOON, "oncall_prober", run, "failed")
        reading = await read(settings, target)
        assert (reading.signals.up, reading.facts["reason"]) == (False, f"run {run} failed")
        await api.set_run_state(SOON, "oncall_prober", run, "success")
        reading = await read(settings, target)
        assert (reading.signals.up, reading.facts["scheduler"]) == (True, "healthy"), reading
        await api.set_paused(SOON, "oncall_prober", is_paused=True)
        reading = await read(settings, target)
        assert (reading.signals.up, reading.facts["reason"]) == (False, "the DAG is paused")
    gone = await read(settings, Target("gone", DAG_KIND, address={"dag": "no_such_dag"}))
    assert gone.signals.up is False
    assert (await read(settings, Target("p", POOL_KIND, address={"pool": "default_pool"}))).signals.up
