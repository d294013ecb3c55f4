"""The mongodb actions on FerretDB: a real runaway query ended, and what it can't do refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actions.mongodb_compact import CompactOnSecondary
from actions.mongodb_drills import DATABASE, RunawayQuery
from actions.mongodb_ops import KillOp
from actions.mongodb_primary import StepDownPrimary
from actions.mongodb_probe import MongoProber
from actions.mongodb_settings import Profiling, SetParameter
from actions.mongodb_sharding import BalancerStart, BalancerStop, FlushRouterConfig
from actions.mongodb_system import MongoDBSystem
from actions.mongodb_transactions import KillOpenTransactions
from oncall_agent.contract import (
    ActionContext,
    ActionError,
    Executor,
    NoParams,
    PermanentError,
    Receipt,
    SystemClock,
    SystemContext,
    Target,
    TransientError,
    run_inline,
)
from oncall_agent.testing import (
    Fault,
    FaultyProxy,
    RecordingLog,
    Upstream,
    check_outages,
    context_for,
)
from oncall_agent.testing.outage import BREAKING

pytestmark = [pytest.mark.backend("mongodb")]
PARAMS: dict[type[Executor], dict[str, Any]] = {
    KillOp: {"namespace": "shop.orders", "min_seconds": 1},
    KillOpenTransactions: {},
    StepDownPrimary: {},
    CompactOnSecondary: {"database": "shop", "collection": "orders"},
    SetParameter: {"name": "cursorTimeoutMillis", "value": 120_000},
    Profiling: {"database": "shop"},
    BalancerStop: {},
    BalancerStart: {},
    FlushRouterConfig: {"namespace": "shop.orders"},
}
KINDS = pytest.mark.parametrize("kind", PARAMS, ids=lambda kind: kind.spec.id)
TARGET = Target("shop-db", "mongodb_deployment", address={"deployment": "shop"})


def settings(host: str | int, password: str, **deployment: Any) -> dict[str, Any]:
    hosts = [host if isinstance(host, str) else f"127.0.0.1:{host}"]
    one = {"hosts": hosts, "username": "responder", "password": password, "databases": ["shop"], **deployment}
    return {"deployments": {"shop": one}, "timeout_seconds": 3.0}


def attempt(
    kind: type[Executor],
    *,
    seconds: float = 15.0,
    target: Target = TARGET,
    dry_run: bool = False,
    key: str = "",
    **params: Any,
) -> ActionContext:
    given = kind.spec.params.model_validate({**PARAMS[kind], **params})
    return context_for(given, target, clock=SystemClock(), seconds=seconds, dry_run=dry_run, key=key)


def system_context(seconds: float = 20.0) -> SystemContext:
    clock = SystemClock()
    return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds)


# --- a runaway query -----------------------------------------------------------------------------------------


@pytest.fixture
async def runaway(mongodb_relay, mongodb_password) -> AsyncIterator[tuple[RunawayQuery, Any]]:
    """A query that would take hours, running."""
    drill = RunawayQuery(settings(mongodb_relay.port, mongodb_password), {})
    trial = await drill.prepare(system_context())
    assert (await drill.symptom(system_context(), trial)).ok
    await drill.inject(system_context(), trial)
    sick = await drill.symptom(system_context(), trial)
    assert not sick.ok, sick
    yield drill, trial
    for _ in range(2):
        await drill.clean_up(system_context())


async def test_a_runaway_query_is_ended_once(mongodb_relay, mongodb_password, runaway) -> None:
    drill, trial = runaway
    given = settings(mongodb_relay.port, mongodb_password)
    async with KillOp(given) as executor, KillOp(given) as other:
        ctx = attempt(KillOp, target=trial.target, **trial.params)
        listed = (await executor.diagnose(ctx))["operations"]
        assert f"{DATABASE}.{drill.collection}" in {one["namespace"] for one in listed}
        check = await executor.precheck(ctx)
        assert check.ok, check
        receipt = await executor.execute(ctx)
        assert 1 == len(receipt.facts["killed"])
        assert (await executor.execute(ctx)).facts["already"]
        verified = await executor.verify(ctx, receipt)
        assert verified.ok, verified
        assert [] == (await other.execute(ctx)).facts["killed"]
    assert (await drill.symptom(system_context(), trial)).ok
    assert 1 == mongodb_relay.kills


async def test_a_dry_run_and_refusals_let_it_run(mongodb_relay, mongodb_password, runaway) -> None:
    drill, trial = runaway
    given = settings(mongodb_relay.port, mongodb_password)
    async with KillOp(given) as executor:
        ctx = attempt(KillOp, target=trial.target, dry_run=True, seconds=2.0, **trial.params)
        receipt = await executor.execute(ctx)
        assert receipt.planned
        assert not (await executor.verify(ctx, receipt)).ok
        later = attempt(KillOp, target=trial.target, **{**trial.params, "min_seconds": 3_600})
        other = attempt(KillOp, target=trial.target, **{**trial.params, "namespace": "shop.*"})
        for refused in (later, other):
            check = await executor.precheck(refused)
            assert (False, "no such operation has run for so long") == (check.ok, check.reason)
    async with KillOp(settings(mongodb_relay.port, mongodb_password, protected=True)) as executor:
        check = await executor.precheck(attempt(KillOp, target=trial.target, **trial.params))
        assert (False, "MongoDB shop is protected") == (check.ok, check.reason)
    assert not (await drill.symptom(system_context(), trial)).ok
    assert 0 == mongodb_relay.kills


async def test_a_server_without_kill_op_says_so(mongodb_host, mongodb_password, runaway) -> None:
    drill, trial = runaway
    target = Target("shop-db", "mongodb_deployment", address={"deployment": "shop"})
    async with KillOp(settings(mongodb_host, mongodb_password)) as executor:
        with pytest.raises(PermanentError, match="does not know the command killOp"):
            await executor.execute(attempt(KillOp, target=target, **trial.params))
    assert not (await drill.symptom(system_context(), trial)).ok


# --- what FerretDB is not ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (KillOpenTransactions, "no such transaction"),
        (StepDownPrimary, "is no member of a replica set"),
        (CompactOnSecondary, "no secondary is among"),
        (SetParameter, "code 72"),
        (Profiling, "does not know the command profile"),
        (BalancerStop, "is no router of a sharded cluster"),
        (BalancerStart, "is no router of a sharded cluster"),
        (FlushRouterConfig, "is no router of a sharded cluster"),
    ],
)
async def test_what_it_can_not_do_is_refused_by_name(mongodb_host, mongodb_password, kind, reason) -> None:
    async with kind(settings(mongodb_host, mongodb_password)) as executor:
        try:
            said = (await executor.precheck(attempt(kind))).reason
        except PermanentError as error:
            said = error.message
    assert reason in said


async def test_inspect_says_what_really_answers(mongodb_host, mongodb_password) -> None:
    async with MongoDBSystem(settings(mongodb_host, mongodb_password)) as system:
        found = await system.inspect(system_context(), ["mongodb.kill_op"])
    assert ("MongoDB-compatible (FerretDB)", "2.7.0", "") == (found.product, found.version, found.unsupported)
    assert ("responder@shop", ()) == (found.identity, found.privileges)
    assert "does not say what a user may do" in found.privileges_unknown
    assert abs((found.server_time or 0) - SystemClock().now()) < 5


# --- the probe -----------------------------------------------------------------------------------------------


async def read(host: str, password: str) -> Any:
    prober = MongoProber(settings(host, password))
    try:
        return await prober.read(
            TARGET, NoParams(), timeout_seconds=2.0, clock=SystemClock(), run_blocking=run_inline
        )
    finally:
        await prober.__aexit__(None, None, None)


async def test_the_probe_reads_up_down_and_blind(mongodb_host, mongodb_password, monkeypatch) -> None:
    monkeypatch.setenv("TEST_MONGODB_WRONG", "wrong-Zx92")
    reading = await read(mongodb_host, mongodb_password)
    assert reading.signals.up
    assert 0 < (reading.signals.response_seconds or 9) < 2
    assert mongodb_host == reading.facts["member"]
    with pytest.raises(TransientError, match="refuses our user"):
        await read(mongodb_host, "env:TEST_MONGODB_WRONG")
    assert (await read("127.0.0.1:1", mongodb_password)).signals.up is False


# --- outages, wrong credentials, wrong product ---------------------------------------------------------------


@KINDS
async def test_outages_end_in_time_and_with_a_name(mongodb_host, mongodb_password, kind) -> None:
    async with FaultyProxy(Upstream(port=int(mongodb_host.rpartition(":")[2]))) as proxy:
        receipt = Receipt(kind.spec.id, 0.0, {"old": f"127.0.0.1:{proxy.port}", "before": {"value": 1}})
        async with kind(settings(proxy.port, mongodb_password)) as executor:
            ended = await check_outages(
                executor,
                proxy,
                lambda seconds: attempt(kind, seconds=seconds),
                receipt=receipt,
                faults=(*BREAKING, Fault.SLOW) if kind is KillOpenTransactions else BREAKING,
                deadline_seconds=0.25,
                secret="s3cr3t-Mongo-Zx91",
            )
    assert len(ended) >= 20


@KINDS
async def test_wrong_credentials_are_named_and_not_repeated(mongodb_host, monkeypatch, kind) -> None:
    monkeypatch.setenv("TEST_MONGODB_WRONG", "wrong-Zx92")
    async with kind(settings(mongodb_host, "env:TEST_MONGODB_WRONG")) as executor:
        assert "refuses our user" in (await executor.ping(attempt(kind))).reason
        for step in (executor.precheck, executor.execute):
            with pytest.raises(PermanentError, match="refuses our user") as caught:
                await step(attempt(kind))
            assert "wrong-Zx92" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"-ERR unknown command\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_what_is_no_mongodb_is_an_error_in_time(answer: bytes, monkeypatch) -> None:
    monkeypatch.setenv("TEST_MONGODB_WRONG", "wrong-Zx92")

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with KillOp(settings(port, "env:TEST_MONGODB_WRONG")) as executor:
        with pytest.raises(ActionError, match="MongoDB shop"):
            await executor.precheck(attempt(KillOp, seconds=1.0))
        assert not (await executor.ping(attempt(KillOp, seconds=1.0))).ok
    server.close()


async def test_a_password_that_is_not_there_is_named(mongodb_host) -> None:
    async with KillOp(settings(mongodb_host, "env:TEST_MONGODB_ABSENT")) as executor:
        with pytest.raises(PermanentError, match="TEST_MONGODB_ABSENT"):
            await executor.precheck(attempt(KillOp))
