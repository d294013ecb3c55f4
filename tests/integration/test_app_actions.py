"""The app actions against real patients: processes of their own that really fall ill."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from actions.app import Restart, RollbackDeploy, ScaleUp
from actions.app_deploy import Deploy
from actions.app_prober import AppProber
from oncall_agent.contract import (
    ActionContext,
    Executor,
    Receipt,
    Signals,
    SystemClock,
    Target,
    TransientError,
    run_inline,
)
from oncall_agent.testing import context_for

clock = SystemClock()


@dataclass
class Patient:
    url: str
    control_url: str
    session: aiohttp.ClientSession

    @property
    def target(self) -> Target:
        return Target("checkout", "http_app", address={"url": self.url, "control_url": self.control_url})

    async def post(self, path: str, **body: Any) -> Any:
        async with self.session.post(self.control_url + path, json=body) as answer:
            return await answer.json()

    async def get(self, path: str) -> Any:
        async with self.session.get(self.control_url + path) as answer:
            return await answer.json()

    async def read(self) -> Signals:
        async with AppProber({}) as prober:
            reading = await prober.read(
                self.target, prober.params(), timeout_seconds=2.0, clock=clock, run_blocking=run_inline
            )
        return reading.signals

    async def until(self, condition: Any) -> Signals:
        async with asyncio.timeout(15):
            while True:
                signals = await self.read()
                if condition(signals):
                    return signals
                await asyncio.sleep(0.01)


@pytest.fixture
async def patient() -> AsyncIterator[Patient]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "oncall_agent.demo.patient",
        "--name",
        "checkout",
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            ready = json.loads(await process.stdout.readline())
            yield Patient(ready["url"], ready["control_url"], session)
    finally:
        process.terminate()
        await process.communicate()


def attempt(
    kind: type[Executor], patient: Patient, *, seconds: float = 20.0, key: str = "", **params: Any
) -> ActionContext:
    return context_for(
        kind.spec.params.model_validate({"hold_seconds": 0.5, **params}),
        patient.target,
        clock=clock,
        seconds=seconds,
        key=key,
    )


async def test_restart_heals_a_crash(patient: Patient) -> None:
    assert (await patient.read()).up is True
    await patient.post("/break", fault="crash")
    assert (await patient.read()).up is False
    ctx = attempt(Restart, patient)
    async with Restart({}) as executor:
        check = await executor.precheck(ctx)
        assert (check.ok, check.facts["up"]) == (True, False)
        receipt = await executor.execute(ctx)
        await executor.execute(ctx)
        assert (await executor.verify(ctx, receipt)).ok
    assert (await patient.get("/effects"))["by_key"] == {ctx.idempotency_key: {"requests": 2, "effects": 1}}


async def test_restart_heals_climbing_memory(patient: Patient) -> None:
    await patient.post("/break", fault="memory_climb")
    await patient.until(lambda signals: (signals.memory or 0) > 0.9)
    ctx = attempt(Restart, patient)
    async with Restart({}) as executor:
        assert not (
            await executor.verify(attempt(Restart, patient, seconds=0.5), Receipt("app.restart", 0.0, {}))
        ).ok
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    assert ((await patient.read()).memory or 1) < 0.9


async def test_only_the_rollback_heals_a_bad_version(patient: Patient) -> None:
    await patient.post("/break", fault="db_timeouts")
    await patient.until(lambda signals: (signals.error_rate or 0) > 0.5)
    restart, rollback = attempt(Restart, patient, seconds=4.0), attempt(RollbackDeploy, patient)
    async with Restart({}) as executor:
        assert not (await executor.verify(restart, await executor.execute(restart))).ok
    async with RollbackDeploy({}) as executor:
        assert (await executor.precheck(rollback)).ok
        receipt = await executor.execute(rollback)
        verified = await executor.verify(rollback, receipt)
        assert verified.ok, verified
    assert (await patient.get("/deploy"))["version"] == "1.0.0"
    assert ((await patient.read()).error_rate or 0) < 0.05


async def test_rollback_deploy_twice_in_another_process_does_not_flip_back_and_can_be_undone(
    patient: Patient,
) -> None:
    await patient.post("/break", fault="db_timeouts")
    ctx = attempt(RollbackDeploy, patient)
    for _ in range(2):
        async with RollbackDeploy({}) as executor:
            receipt = await executor.execute(ctx)
    assert (receipt.facts["version"], (await patient.get("/deploy"))["version"]) == ("1.1.0", "1.0.0")
    for _ in range(2):
        async with RollbackDeploy({}) as executor:
            assert (await executor.rollback(ctx, receipt)).ok
    assert (await patient.get("/deploy"))["version"] == "1.1.0"


async def test_rollback_deploy_refuses_without_a_former_version(patient: Patient) -> None:
    async with RollbackDeploy({}) as executor:
        check = await executor.precheck(attempt(RollbackDeploy, patient))
    assert (check.ok, check.reason) == (False, "there is no other version to go back to")


async def test_rollback_deploy_refuses_an_old_deployment(patient: Patient) -> None:
    await patient.post("/deploy", version="1.0.1")
    async with RollbackDeploy({}) as executor:
        check = await executor.precheck(attempt(RollbackDeploy, patient, window_seconds=0.001))
    assert not check.ok
    assert "the last deployment is" in check.reason


async def test_scale_up_heals_overload_and_is_undone(patient: Patient) -> None:
    await patient.post("/break", fault="overload")
    await patient.until(lambda signals: (signals.error_rate or 0) > 0.1)
    ctx = attempt(ScaleUp, patient)
    async with ScaleUp({}) as executor:
        assert not (
            await executor.verify(
                attempt(ScaleUp, patient, seconds=0.5), Receipt("app.scale_up", 0.0, {"wanted": 2})
            )
        ).ok
        receipt = await executor.execute(ctx)
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
        for _ in range(2):
            assert (await executor.rollback(ctx, receipt)).ok
    assert (await patient.get("/deploy"))["replicas"] == 1


async def test_scale_up_refuses_at_the_bound(patient: Patient) -> None:
    async with ScaleUp({}) as executor:
        check = await executor.precheck(attempt(ScaleUp, patient, max_replicas=1))
    assert (check.ok, check.reason) == (False, "1 replicas are the bound")


async def test_restart_is_seen_after_a_crash_from_the_precheck_facts_alone(patient: Patient) -> None:
    ctx = attempt(Restart, patient)
    async with Restart({}) as executor:
        facts = (await executor.precheck(ctx)).facts
        partial = Receipt("app.restart", 0.0, facts, partial=True)
        assert not (await executor.verify(attempt(Restart, patient, seconds=0.5), partial)).ok
        await executor.execute(ctx)
        assert (await executor.verify(ctx, partial)).ok


async def test_diagnose_brings_the_apps_log(patient: Patient) -> None:
    await patient.post("/break", fault="crash")
    async with Restart({}) as executor:
        found = await executor.diagnose(attempt(Restart, patient))
    assert any("segmentation fault" in line for line in found["logs"])


async def test_deploying_the_good_version_heals_and_is_undone(patient: Patient) -> None:
    await patient.post("/break", fault="db_timeouts")
    params = {"version": "1.0.0", "quiet_seconds": 0.0}
    ctx = attempt(Deploy, patient, **params)
    async with Deploy({}) as executor, Deploy({}) as other:
        busy = await executor.precheck(attempt(Deploy, patient, version="1.0.0"))
        assert (busy.ok, "somebody has deployed" in busy.reason) == (False, True), busy
        assert (await executor.precheck(ctx)).ok
        receipt = await executor.execute(ctx)
        repeated = await other.execute(ctx)
        assert (receipt.facts["version"], repeated.facts["version"]) == ("1.1.0", "1.1.0")
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
        done = await executor.precheck(ctx)
        assert (done.ok, done.reason) == (False, "that version is deployed")
        for _ in range(2):
            assert (await other.rollback(ctx, receipt)).ok
    assert (await patient.get("/deploy"))["version"] == "1.1.0"


@pytest.mark.parametrize("kind", [Deploy, Restart, RollbackDeploy, ScaleUp])
async def test_a_protected_app_is_left_alone(kind: type[Executor]) -> None:
    target = Target("checkout", "http_app", address={"url": "http://127.0.0.1:1"}, protected=True)
    params = kind.spec.params.model_validate({"version": "1.0.0"} if kind is Deploy else {})
    async with kind({}) as executor:
        check = await executor.precheck(context_for(params, target, clock=clock))
    assert (check.ok, check.reason) == (False, "the target is protected")


async def test_prober_is_blind_when_the_host_name_is_unknown() -> None:
    target = Target("checkout", "http_app", address={"url": "http://no-such-host.invalid:1"})
    async with AppProber({}) as prober:
        with pytest.raises(TransientError):
            await prober.read(
                target, prober.params(), timeout_seconds=2.0, clock=clock, run_blocking=run_inline
            )


async def test_patient_refuses_an_unknown_fault_and_a_body_that_is_no_object(patient: Patient) -> None:
    async with patient.session.post(patient.control_url + "/break", json={"fault": "rm -rf"}) as answer:
        assert answer.status == 400
    async with patient.session.post(patient.control_url + "/deploy", data=b"[1]") as answer:
        assert answer.status == 400
