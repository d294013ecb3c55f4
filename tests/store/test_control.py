"""The switches outlive a restart, and the audit log shows every hand that touched it."""

import asyncio

import pytest
import sqlalchemy
from store.building import open_one
from store.conftest import empty

from oncall_agent.models import Autonomy, Control, Silence
from oncall_agent.store import ControlChange, Store

SILENCE = Silence("s1", {"service": "shop"}, 1_000.0, 5_000.0, "ann", "deploy")


async def test_fresh_store_has_no_switch_set(store: Store):
    assert Control() == store.control


async def test_switches_outlive_a_restart(durable_url, open_store):
    store = await open_store(durable_url)
    change = ControlChange(
        paused=True,
        reason="deploy",
        frozen_until=9_000.0,
        overrides={"errors/*/*": Autonomy.AUTO},
        add_silences=(SILENCE,),
    )
    set_now = await store.set_control(change, "ann", 1_000.0)
    assert set_now == store.control
    await store.close()
    store = await open_store(durable_url)
    assert Control(
        paused=True,
        paused_by="ann",
        paused_reason="deploy",
        frozen_until=9_000.0,
        freeze_reason="deploy",
        overrides={"errors/*/*": Autonomy.AUTO},
        silences=(SILENCE,),
    ) == (store.control)


async def test_none_leaves_a_switch_as_it_is_and_each_can_be_taken_back(store: Store):
    first = ControlChange(paused=True, frozen_until=9_000.0, overrides={"a/b/c": Autonomy.SHADOW})
    await store.set_control(first, "ann", 1_000.0)
    await store.set_control(ControlChange(draining=True, add_silences=(SILENCE,)), "bob", 1_001.0)
    assert (True, True, 9_000.0) == (store.control.paused, store.control.draining, store.control.frozen_until)
    undone = ControlChange(
        paused=False,
        draining=False,
        frozen_until=0.0,
        overrides={"a/b/c": None},
        remove_silences=("s1",),
    )
    assert Control() == await store.set_control(undone, "ann", 1_002.0)


async def test_silences_that_are_over_are_dropped(store: Store):
    await store.set_control(ControlChange(add_silences=(SILENCE,)), "ann", 1_000.0)
    await store.set_control(ControlChange(paused=True), "ann", 5_001.0)
    assert () == store.control.silences


async def test_concurrent_changes_are_all_kept(store: Store):
    names = [f"c{n}/x/y" for n in range(20)]
    changes = (ControlChange(overrides={name: Autonomy.AUTO}) for name in names)
    await asyncio.gather(*(store.set_control(change, "ann", 1_000.0) for change in changes))
    assert set(names) == set(store.control.overrides)
    assert (True, 20) == ((await store.verify_audit()).ok, (await store.verify_audit()).rows)


async def _audited(store: Store) -> None:
    for number in range(5):
        await store.set_control(ControlChange(paused=True, reason=f"{number}"), "ann", 1_000.0 + number)


async def test_audit_rows_are_newest_first_and_say_what_was_changed(store: Store):
    await _audited(store)
    newest = (await store.audit(2))[0]
    assert (5, "ann", "control.changed", {"paused": True, "reason": "4"}, 2) == (
        newest.number,
        newest.identity,
        newest.verb,
        newest.detail,
        len(await store.audit(2)),
    )


@pytest.mark.parametrize(
    ("forgery", "first_bad"),
    [
        pytest.param("UPDATE audit SET identity = 'bob' WHERE number = 3", 3, id="another name"),
        pytest.param("UPDATE audit SET at = at + 1 WHERE number = 2", 2, id="another time"),
        pytest.param("DELETE FROM audit WHERE number = 2", 2, id="a row taken out"),
        pytest.param("DELETE FROM audit WHERE number = 5", 5, id="the last row taken away"),
        pytest.param("UPDATE audit SET number = number + 10 WHERE number > 3", 4, id="rows moved"),
    ],
)
async def test_forged_audit_log_is_found_out(durable_url, open_store, forgery, first_bad):
    store = await open_store(durable_url)
    await _audited(store)
    assert (True, None) == ((await store.verify_audit()).ok, (await store.verify_audit()).first_bad)
    engine = sqlalchemy.create_engine(durable_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(forgery))
    report = await store.verify_audit()
    assert (False, first_bad) == (report.ok, report.first_bad)


async def test_another_process_sees_the_switches_with_its_next_claim(postgres_url, open_store):
    url = empty(postgres_url)
    one, two = await open_store(url), await open_store(url)
    await one.set_control(ControlChange(paused=True), "ann", 1_000.0)
    await open_one(two, "a")
    assert two.control.paused
