"""Every mongodb action goes through the contract test, on a fake that speaks the wire protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actions.mongodb_compact import CompactOnSecondary
from actions.mongodb_drills import OpenTransaction
from actions.mongodb_ops import KillOp
from actions.mongodb_primary import StepDownPrimary
from actions.mongodb_settings import Profiling, SetParameter
from actions.mongodb_sharding import BalancerStart, BalancerStop, FlushRouterConfig
from actions.mongodb_system import MongoDBSystem
from actions.mongodb_transactions import KillOpenTransactions
from oncall_agent.contract import (
    ActionContext,
    Executor,
    PermanentError,
    SystemContext,
    Target,
    TransientError,
)
from oncall_agent.testing import (
    FakeClock,
    Harness,
    RecordingLog,
    check_executor,
    context_for,
)
from oncall_agent.testing.mongodb import FakeMongo

PASSWORD = "s3cr3t-Mongo-Zx91"
MIB = 1_048_576


class World:
    """One fake deployment and the ways in which it is sick."""

    def __init__(self, fake: FakeMongo) -> None:
        self.fake, self.numbers = fake, iter(range(1, 100))

    def slow(self) -> None:
        self.fake.operations.clear()
        self.fake.add_operation(next(self.numbers), 300)

    def forgotten(self) -> None:
        self.fake.transactions.clear()
        self.fake.open_transaction(300)

    def unhealthy_primary(self) -> None:
        self.fake.primary, self.fake.elected_at = 0, self.fake.clock.now() - 86_400
        self.fake.frozen.clear()

    def bloated(self) -> None:
        self.fake.files[1] = {"storageSize": 500 * MIB, "freeStorageSize": 400 * MIB}

    def wrong_parameter(self) -> None:
        self.fake.parameters["cursorTimeoutMillis"] = 600_000

    def not_profiled(self) -> None:
        self.fake.profile = {"was": 0, "slowms": 100}

    def balanced(self) -> None:
        self.fake.balancer = "full"

    def not_balanced(self) -> None:
        self.fake.balancer = "off"

    def stale(self) -> None:
        self.fake.is_stale = True


CASES: dict[type[Executor], tuple[Callable[[World], None], dict[str, Any]]] = {
    KillOp: (World.slow, {"namespace": "shop.orders"}),
    KillOpenTransactions: (World.forgotten, {}),
    StepDownPrimary: (World.unhealthy_primary, {}),
    CompactOnSecondary: (World.bloated, {"database": "shop", "collection": "orders"}),
    SetParameter: (World.wrong_parameter, {"name": "cursorTimeoutMillis", "value": 120_000}),
    Profiling: (World.not_profiled, {"database": "shop", "slow_milliseconds": 50}),
    BalancerStop: (World.balanced, {}),
    BalancerStart: (World.not_balanced, {}),
    FlushRouterConfig: (World.stale, {"namespace": "shop.orders"}),
}
ROUTED = (BalancerStop, BalancerStart, FlushRouterConfig)
KINDS = pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.spec.id)


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """Starts fakes and closes them, and the executors opened on them, after the test."""
    opened: list[Any] = []

    async def start_one(kind: type[Executor], **options: Any) -> FakeMongo:
        shape = {"is_router": True} if kind in ROUTED else {"members": 3}
        opened.append(await FakeMongo(FakeClock(), **{**shape, **options}).__aenter__())
        return opened[-1]

    yield start_one
    for one in opened:
        await one.__aexit__(None, None, None)


def settings(fake: FakeMongo, **deployment: Any) -> dict[str, Any]:
    one = {"hosts": list(fake.hosts), "databases": ["shop"], **deployment}
    return {"deployments": {"shop": one}, "timeout_seconds": 2.0}


def target(**address: Any) -> Target:
    return Target("shop-db", "mongodb_deployment", address={"deployment": "shop", **address})


def attempt(
    kind: type[Executor], fake: FakeMongo, *, address: dict[str, Any] | None = None, **params: Any
) -> ActionContext:
    given = kind.spec.params.model_validate({**CASES[kind][1], **params})
    return context_for(given, target(**(address or {})), clock=fake.clock)


@KINDS
async def test_contract(start, kind: type[Executor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_MONGO_PASSWORD", PASSWORD)
    fake = await start(kind, password=PASSWORD)
    known = {"username": "responder", "password": "env:TEST_MONGO_PASSWORD", "auth_mechanism": "PLAIN"}
    sick, params = CASES[kind]
    world = World(fake)

    async def make_sick() -> None:
        sick(world)

    async def count_effects() -> int:
        return fake.effects

    async def snapshot() -> object:
        return (fake.primary, dict(fake.parameters), dict(fake.profile), fake.balancer)

    async def hang() -> None:
        fake.hang()

    async def release() -> None:
        fake.release()

    harness = Harness(
        factory=lambda: kind(settings(fake, **known)),
        target=target(),
        make_sick=make_sick,
        count_effects=count_effects,
        snapshot=snapshot,
        hang=hang,
        release=release,
        secret=PASSWORD,
        params=params,
        clock=fake.clock,
    )
    scorecard = await check_executor(harness)
    assert scorecard.ok, scorecard.failures


# --- refusals ----------------------------------------------------------------------------------------------


@KINDS
async def test_what_is_protected_is_never_touched(start, kind: type[Executor]) -> None:
    fake = await start(kind)
    CASES[kind][0](World(fake))
    async with kind(settings(fake, protected=True)) as executor:
        check = await executor.precheck(attempt(kind, fake))
    assert (False, "MongoDB shop is protected") == (check.ok, check.reason)
    assert 0 == fake.effects


def _lagging(fake: FakeMongo) -> None:
    fake.lags = [0.0, 60.0, 90.0]


def _no_majority(fake: FakeMongo) -> None:
    fake.away = {1, 2}


def _none_electable(fake: FakeMongo) -> None:
    fake.priorities = [1.0, 0.0, 0.0]


def _busy(fake: FakeMongo) -> None:
    World(fake).bloated()
    fake.clients = 100


def _disk_full(fake: FakeMongo) -> None:
    World(fake).bloated()
    fake.disk_free_bytes = MIB


def _only_one(fake: FakeMongo) -> None:
    World(fake).bloated()
    fake.away = {2}


def _migrating(fake: FakeMongo) -> None:
    fake.is_stale = True
    fake.add_operation(7, 3, command={"moveRange": "shop.orders"}, desc="MoveChunk")


def _internal(fake: FakeMongo) -> None:
    fake.add_operation(1, 900, desc="ReplBatcher")
    fake.add_operation(2, 900, ns="local.oplog.rs")
    fake.add_operation(3, 900, command={"createIndexes": "orders"})
    fake.add_operation(4, 900, effectiveUsers=[{"user": "__system", "db": "local"}])
    fake.add_operation(5, 900, msg="Index Build: scanning collection")
    fake.add_operation(6, 30)


def _prepared(fake: FakeMongo) -> None:
    fake.prepared.add(fake.open_transaction(900))
    fake.open_transaction(5)


def _well(fake: FakeMongo) -> None:
    return


@pytest.mark.parametrize(
    ("kind", "change", "params", "reason"),
    [
        (KillOp, _internal, {}, "no such operation"),
        (KillOp, lambda fake: World(fake).slow(), {"namespace": "other.*"}, "no such operation"),
        (KillOpenTransactions, _prepared, {}, "no such transaction"),
        (StepDownPrimary, _lagging, {}, "the closest secondary lags 60 s"),
        (StepDownPrimary, _no_majority, {}, "only 1 of 3 voting members are up"),
        (StepDownPrimary, _none_electable, {}, "no secondary can be elected"),
        (CompactOnSecondary, _well, {}, "only 0 bytes of its file are free space"),
        (CompactOnSecondary, _busy, {}, "the member serves 100 clients"),
        (CompactOnSecondary, _disk_full, {}, "are free on the disk"),
        (CompactOnSecondary, _only_one, {}, "it is the only secondary"),
        (CompactOnSecondary, _well, {"database": "other"}, "not among the databases"),
        (SetParameter, _well, {"value": 10}, "10 is not 60000 to 3600000"),
        (SetParameter, _well, {"value": 600_000}, "it is set so already"),
        (Profiling, _well, {"database": "other"}, "not among the databases"),
        (BalancerStop, lambda fake: World(fake).not_balanced(), {}, "it is set so already"),
        (BalancerStop, _migrating, {}, "a chunk is being moved"),
        (FlushRouterConfig, _migrating, {}, "a chunk is being moved"),
        (FlushRouterConfig, _well, {}, "the router reaches the collection"),
    ],
)
async def test_the_precheck_refuses(start, kind, change, params, reason: str) -> None:
    fake = await start(kind)
    change(fake)
    async with kind(settings(fake)) as executor:
        check = await executor.precheck(attempt(kind, fake, **params))
    assert not check.ok
    assert reason in check.reason
    assert 0 == fake.effects


@pytest.mark.parametrize("kind", ROUTED, ids=lambda kind: kind.spec.id)
async def test_a_member_of_a_replica_set_is_no_router(start, kind: type[Executor]) -> None:
    fake = await start(kind, is_router=False, members=1)
    async with kind(settings(fake)) as executor:
        check = await executor.precheck(attempt(kind, fake))
    assert not check.ok
    assert "is no router of a sharded cluster" in check.reason


async def test_a_router_has_no_profiler_and_no_primary(start) -> None:
    fake = await start(BalancerStop)
    async with Profiling(settings(fake)) as profiling, StepDownPrimary(settings(fake)) as stepping:
        check = await profiling.precheck(attempt(Profiling, fake))
        assert "a router has no profiler" in check.reason
        with pytest.raises(PermanentError, match="no member of a replica set"):
            await stepping.precheck(attempt(StepDownPrimary, fake))


async def test_the_primary_is_never_compacted(start) -> None:
    fake = await start(CompactOnSecondary)
    fake.files[0] = {"storageSize": 500 * MIB, "freeStorageSize": 400 * MIB}
    async with CompactOnSecondary(settings(fake)) as executor:
        ctx = attempt(CompactOnSecondary, fake, address={"member": fake.hosts[0]})
        assert "no secondary" in (await executor.precheck(ctx)).reason
        with pytest.raises(PermanentError, match="no secondary"):
            await executor.execute(ctx)


# --- what is left alone, and what is found again -------------------------------------------------------------


async def test_only_the_longest_operations_of_clients_are_ended(start) -> None:
    fake = await start(KillOp)
    _internal(fake)
    for number, seconds in ((11, 100), (12, 300), (13, 200)):
        fake.add_operation(number, seconds)
    async with KillOp(settings(fake)) as executor:
        receipt = await executor.execute(attempt(KillOp, fake, max_n=2))
    assert ["12", "13"] == receipt.facts["killed"]
    assert {1, 2, 3, 4, 5, 6, 11} == {one["opid"] for one in fake.operations}


async def test_an_operation_that_began_after_the_attempt_stays(start) -> None:
    fake = await start(KillOp)
    fake.add_operation(1, 300)
    ctx = attempt(KillOp, fake, min_seconds=1)
    fake.clock.advance(30)
    fake.add_operation(2, 5)
    async with KillOp(settings(fake)) as executor:
        receipt = await executor.execute(ctx)
    assert ["1"] == receipt.facts["killed"]


async def test_an_id_that_stands_for_something_else_by_now_is_not_ended(start) -> None:
    fake = await start(KillOp)
    fake.add_operation(1, 300)
    async with KillOp(settings(fake)) as executor:
        ctx = attempt(KillOp, fake)
        place = await executor.place(ctx)
        chosen = (await executor._look(ctx, place))[0]
        fake.operations.clear()
        fake.add_operation(1, 90, ns="shop.carts")
        assert not await executor._kill(ctx, place, chosen)
    assert 0 == fake.effects


async def test_the_role_goes_back_to_the_member_that_had_it(start) -> None:
    fake = await start(StepDownPrimary)
    async with StepDownPrimary(settings(fake)) as executor:
        ctx = attempt(StepDownPrimary, fake, hold_seconds=0)
        receipt = await executor.execute(ctx)
        assert 1 == fake.primary
        fake.lags = [60.0, 0.0, 0.0]
        undone = await executor.rollback(ctx, receipt)
        assert (False, "the old primary lags 60 s") == (undone.ok, undone.reason)
        fake.lags = [0.0, 0.0, 0.0]
        assert (await executor.rollback(ctx, receipt)).ok
    assert (0, set()) == (fake.primary, fake.frozen - {1})


async def test_a_step_down_without_a_secondary_that_catches_up_is_an_error(start) -> None:
    fake = await start(StepDownPrimary)
    fake.frozen = {1, 2}
    async with StepDownPrimary(settings(fake)) as executor:
        with pytest.raises(PermanentError, match="No electable secondaries"):
            await executor.execute(attempt(StepDownPrimary, fake))


async def test_a_member_that_is_away_is_passed_over(start) -> None:
    fake = await start(KillOp)
    fake.primary, fake.away = 2, {0}
    async with KillOp({**settings(fake), "timeout_seconds": 0.3}) as executor:
        ctx = attempt(KillOp, fake)
        assert fake.hosts[2] == (await executor.place(ctx)).host
        fake.away = {2}
        with pytest.raises(TransientError, match="MongoDB shop"):
            await executor.place(ctx)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ({"deployment": "other"}, "must name a deployment"),
        ({"member": "10.0.0.1:27017"}, "not among the hosts"),
    ],
)
async def test_an_address_that_is_not_configured_is_refused(start, address, reason: str) -> None:
    fake = await start(KillOp)
    async with KillOp(settings(fake)) as executor:
        with pytest.raises(PermanentError, match=reason):
            await executor.precheck(attempt(KillOp, fake, address=address))


# --- the system ----------------------------------------------------------------------------------------------


async def test_inspect_compares_what_is_held_with_what_is_needed(start) -> None:
    fake = await start(KillOp)
    ctx = SystemContext(fake.clock, RecordingLog(), fake.clock.monotonic() + 10)
    async with MongoDBSystem(settings(fake)) as system:
        found = await system.inspect(ctx, ["mongodb.kill_op", "mongodb.set_parameter"])
    assert ("MongoDB", "8.0.4", "", "responder@shop") == (
        found.product,
        found.version,
        found.unsupported,
        found.identity,
    )
    assert {"getParameter on cluster", "setParameter on cluster"} == {
        one.name for one in found.privileges if one.needed_by and not one.held
    }
    assert {"shutdown on cluster", "dropDatabase on shop"} == {
        one.name for one in found.privileges if one.held and not one.needed_by
    }


def test_grants_hold_what_the_chosen_actions_need_and_no_more() -> None:
    system = MongoDBSystem({"deployments": {"shop": {"databases": ["shop"]}}})
    text = system.grants(["mongodb.kill_op", "mongodb.profiling"]).text
    assert {"inprog", "serverStatus", "killop", "enableProfiler"} == _granted(text)
    assert {"inprog", "serverStatus"} == _granted(system.grants([]).text)
    assert "PASSWORD" in text


def _granted(text: str) -> set[str]:
    role, _ = json.JSONDecoder().raw_decode(text.removeprefix("db.createRole("))
    return {action for one in role["privileges"] for action in one["actions"]}


async def test_the_drill_of_a_forgotten_transaction_is_healed(start) -> None:
    fake = await start(KillOpenTransactions)
    ctx = SystemContext(fake.clock, RecordingLog(), fake.clock.monotonic() + 60)
    drill = OpenTransaction(settings(fake), {})
    trial = await drill.prepare(ctx)
    assert (await drill.symptom(ctx, trial)).ok
    await drill.inject(ctx, trial)
    assert not (await drill.symptom(ctx, trial)).ok
    async with KillOpenTransactions(settings(fake)) as executor:
        action = context_for(
            KillOpenTransactions.spec.params.model_validate(trial.params), trial.target, clock=fake.clock
        )
        assert (await executor.precheck(action)).ok
        receipt = await executor.execute(action)
        assert (await executor.verify(action, receipt)).ok
    assert (await drill.symptom(ctx, trial)).ok
    for _ in range(2):
        await drill.clean_up(ctx)
