"""From webhook to ending, through the whole daemon, over HTTP: each test is one promise to the operator."""

from __future__ import annotations

import asyncio
import json

import pytest
from scenes.lamp import RUNBOOK, body, house

from oncall_agent.pipeline import bundling

TOKENS = [
    {"name": name, "role": "operator", "secret": f"env:LAMP_TOKEN_{name.upper()}"} for name in ("ann", "bob")
]


@pytest.fixture
def tokens(monkeypatch):
    for name in ("ann", "bob"):
        monkeypatch.setenv(f"LAMP_TOKEN_{name.upper()}", f"token-of-{name}")
    return {"server": {"port": 0, "tokens": TOKENS}}


async def test_a_fault_is_healed_verified_and_explained(tmp_path, world):
    async with house(tmp_path) as agent:
        told = await agent.fire("hall")
        detail = await agent.ended(told["incident_id"], "resolved")
        assert (told["disposition"], detail["incident"]["end_reason"]) == ("opened", "fixed")
        (one,) = detail["attempts"]
        assert (one["attempt"]["outcome"]["status"], one["before"]["score"], one["after"]["score"]) == (
            "succeeded",
            0.0,
            100.0,
        )
        assert one["reward"]["value"] > 0.5
        explained = await agent.get(f"/api/v1/incidents/{told['incident_id']}/explain")
        assert (explained["equal"], explained["differences"]) == (True, [])
        assert [effect[:2] for effect in world.effects] == [("lamp.light", "hall")]
        assert (await agent.get("/api/v1/conservation"))["balanced"]


async def test_a_fresh_install_decides_records_and_touches_nothing(tmp_path, world):
    async with house(tmp_path, autonomy={}) as agent:
        told = await agent.fire("hall")
        detail = await agent.ended(told["incident_id"], "escalated")
        assert detail["incident"]["end_reason"] == "autonomy_shadow"
        assert detail["decisions"][0]["decision"]["chosen"]["candidate"]["action"] == "lamp.light"
        assert (world.effects, detail["attempts"], agent.pages()) == ([], [], "")


async def test_suggest_pages_people_with_the_suggestion_and_touches_nothing(tmp_path, world):
    async with house(tmp_path, autonomy={"default": "suggest"}) as agent:
        told = await agent.fire("hall")
        await agent.ended(told["incident_id"], "escalated")
        assert world.effects == []
        assert "lamp.light" in agent.pages()


async def test_observe_decides_nothing(tmp_path, world):
    async with house(tmp_path, autonomy={"default": "observe"}) as agent:
        told = await agent.fire("hall")
        detail = await agent.ended(told["incident_id"], "escalated")
        assert (detail["incident"]["end_reason"], world.effects, agent.pages()) == (
            "autonomy_observe",
            [],
            "",
        )


async def test_an_approved_action_is_carried_out_and_the_approver_recorded(tmp_path, world, tokens):
    async with house(tmp_path, autonomy={"default": "approve"}, **tokens) as agent:
        told = await agent.fire("hall")
        await agent.ended(told["incident_id"], "awaiting_approval", "token-of-ann")
        assert world.effects == []
        status, _ = await agent.post(f"/api/v1/incidents/{told['incident_id']}/approve", {}, "token-of-ann")
        detail = await agent.ended(told["incident_id"], "resolved", "token-of-ann")
        assert (status, detail["approvals"][0]["voters"]) == (200, ["ann"])
        assert len(world.effects) == 1


async def test_a_denied_action_is_never_carried_out_and_people_are_paged(tmp_path, world):
    async with house(tmp_path, autonomy={"default": "approve"}) as agent:
        told = await agent.fire("hall")
        await agent.ended(told["incident_id"], "awaiting_approval")
        await agent.post(f"/api/v1/incidents/{told['incident_id']}/deny", {})
        detail = await agent.ended(told["incident_id"], "escalated")
        assert (detail["incident"]["end_reason"], world.effects) == ("approval_denied", [])
        assert "hall" in agent.pages()


async def test_an_approval_that_nobody_gives_expires_to_no(tmp_path, world):
    async with house(tmp_path, autonomy={"default": "approve"}, approvals={"ttl_seconds": 0.05}) as agent:
        told = await agent.fire("hall")
        detail = await agent.ended(told["incident_id"], "escalated")
        assert (detail["incident"]["end_reason"], world.effects) == ("approval_expired", [])


async def test_an_irreversible_action_needs_two_different_people(tmp_path, world, tokens):
    runbook = {**RUNBOOK, "candidates": [{"action": "lamp.replace", "prior": 1.0}]}
    async with house(tmp_path, [runbook], **tokens) as agent:
        told = await agent.fire("hall")
        await agent.ended(told["incident_id"], "awaiting_approval", "token-of-ann")
        path = f"/api/v1/incidents/{told['incident_id']}/approve"
        first = await agent.post(path, {}, "token-of-ann")
        again = await agent.post(path, {}, "token-of-ann")
        assert (first[0], first[1]["verdict"], again[0]) == (200, "pending", 409)
        assert world.effects == []
        await agent.post(path, {}, "token-of-bob")
        await agent.ended(told["incident_id"], "resolved", "token-of-ann")
        assert len(world.effects) == 1


async def test_an_irreversible_action_can_not_be_approved_by_people_without_a_name(tmp_path, world):
    runbook = {**RUNBOOK, "candidates": [{"action": "lamp.replace", "prior": 1.0}]}
    async with house(tmp_path, [runbook]) as agent:
        told = await agent.fire("hall")
        await agent.ended(told["incident_id"], "awaiting_approval")
        status, answer = await agent.post(f"/api/v1/incidents/{told['incident_id']}/approve", {})
        assert (status, answer["error"]["code"], world.effects) == (403, "identity_required", [])


async def test_the_kill_switch_hands_everything_to_people(tmp_path, world):
    async with house(tmp_path) as agent:
        await agent.post("/api/v1/control", {"paused": True, "reason": "looks wrong"})
        told = await agent.fire("hall")
        detail = await agent.ended(told["incident_id"], "escalated")
        refused = detail["decisions"][0]["decision"]["refused"]
        assert ("kill_switch", world.effects) == (refused[0]["reason"], [])
        assert "hall" in agent.pages()


async def test_the_kill_switch_survives_a_restart(tmp_path, world):
    async with house(tmp_path) as agent:
        await agent.post("/api/v1/control", {"paused": True, "reason": "looks wrong"})
    async with house(tmp_path) as agent:
        assert (await agent.get("/api/v1/control"))["paused"]
        told = await agent.fire("hall")
        await agent.ended(told["incident_id"], "escalated")
        assert world.effects == []


async def test_the_kill_switch_between_execute_and_verify_undoes_nothing_and_verifies_later(tmp_path, world):
    world.hold = asyncio.Event()
    async with house(tmp_path) as agent:
        told = await agent.fire("hall")
        await world.reached.wait()
        await agent.post("/api/v1/control", {"paused": True})
        world.hold.set()
        detail = await agent.ended(told["incident_id"], "resolved")
        assert detail["attempts"][0]["attempt"]["outcome"]["reason"] == "crash_recovered"
        assert [effect[0] for effect in world.effects] == ["lamp.light"]


async def test_a_fix_that_does_not_help_is_undone_and_people_are_paged(tmp_path, world):
    world.works.clear()
    async with house(tmp_path) as agent:
        told = await agent.fire("hall")
        detail = await agent.ended(told["incident_id"], "escalated")
        first = detail["attempts"][0]["attempt"]["outcome"]
        assert (first["reason"], first["rollback"]) == ("verify_failed", "done")
        assert [effect[0] for effect in world.effects] == ["lamp.light", "undo"]
        assert "LampOut" in agent.pages()


async def test_the_next_candidate_is_tried_after_one_that_did_not_help(tmp_path, world):
    world.works.discard("lamp.light")
    candidates = [{"action": "lamp.light", "prior": 1.0}, {"action": "lamp.replace", "prior": 0.5}]
    autonomy = {"default": "auto"}
    async with house(tmp_path, [{**RUNBOOK, "candidates": candidates}], autonomy=autonomy) as agent:
        told = await agent.fire("hall")
        detail = await agent.ended(told["incident_id"], "awaiting_approval")  # lamp.replace is R3
        assert [one["attempt"]["action"] for one in detail["attempts"]] == ["lamp.light"]
        assert detail["approvals"][0]["action"] == "lamp.replace"


async def test_a_target_that_is_not_on_the_list_is_never_touched(tmp_path, world):
    async with house(tmp_path) as agent:
        told = await agent.fire("attic")
        detail = await agent.ended(told["incident_id"], "escalated")
        assert (detail["incident"]["target"], world.effects) == ("unknown", [])
        assert "attic" in agent.pages()


async def test_an_alert_that_no_runbook_knows_is_paged(tmp_path, world):
    async with house(tmp_path) as agent:
        told = await agent.fire("hall", name="SomethingElse")
        detail = await agent.ended(told["incident_id"], "escalated")
        assert (detail["incident"]["end_reason"], world.effects) == ("nothing_permitted", [])


async def test_a_blind_daemon_does_not_act(tmp_path, world):
    world.blind = True
    async with house(tmp_path) as agent:
        told = await agent.fire("hall")
        detail = await agent.ended(told["incident_id"], "escalated")
        assert detail["decisions"][0]["decision"]["refused"][0]["reason"] == "blind"
        assert world.effects == []


async def test_trouble_that_went_away_by_itself_is_resolved_with_evidence(tmp_path, world):
    async with house(tmp_path) as agent:
        await agent.post("/api/v1/control", {"draining": True})
        told = await agent.fire("hall")
        world.lit["hall"] = True
        await agent.fire("hall", status="resolved")
        await agent.post("/api/v1/control", {"draining": False})
        detail = await agent.ended(told["incident_id"], "resolved")
        assert (detail["incident"]["end_reason"], world.effects) == ("self_healed", [])


async def test_incidents_wait_on_disk_for_the_next_start(tmp_path, world):
    async with house(tmp_path) as agent:
        await agent.post("/api/v1/control", {"draining": True})
        told = await agent.fire("hall")
    async with house(tmp_path) as agent:
        await agent.post("/api/v1/control", {"draining": False})
        await agent.ended(told["incident_id"], "resolved")
        assert len(world.effects) == 1


async def test_an_attempt_that_a_dead_process_began_is_verified_and_never_repeated(tmp_path, world):
    world.hold = asyncio.Event()
    agent_alive = house(tmp_path, workers={"drain_seconds": 0})
    async with agent_alive as agent:
        told = await agent.fire("hall")
        await world.reached.wait()
    world.lit["hall"], world.hold = True, None  # the effect took place, nobody wrote it down
    async with house(tmp_path) as agent:
        detail = await agent.ended(told["incident_id"], "resolved")
        assert detail["attempts"][0]["attempt"]["outcome"]["reason"] == "crash_recovered"
        assert [effect[0] for effect in world.effects] == ["lamp.light"]


async def test_an_attempt_whose_effect_is_not_seen_goes_to_people(tmp_path, world):
    world.hold = asyncio.Event()
    async with house(tmp_path, workers={"drain_seconds": 0}) as agent:
        told = await agent.fire("hall")
        await world.reached.wait()
    world.hold = None
    async with house(tmp_path) as agent:
        detail = await agent.ended(told["incident_id"], "escalated")
        assert detail["attempts"][0]["attempt"]["outcome"]["reason"] == "crash_unverified"
        assert [effect[0] for effect in world.effects].count("lamp.light") == 1


async def test_repeats_of_an_alert_lead_to_one_incident_and_one_action(tmp_path, world):
    async with house(tmp_path) as agent:
        told = await agent.fire("hall")
        await agent.ended(told["incident_id"], "resolved")
        again = [await agent.fire("hall") for _ in range(5)]
        assert {one["disposition"] for one in again} == {"suppressed"}
        assert len(world.effects) == 1


async def test_one_target_is_never_worked_on_twice_at_once_and_others_go_on(tmp_path, world):
    world.hold = asyncio.Event()
    runbook = {**RUNBOOK, "match": {"alertname": "~Lamp.*"}}
    async with house(tmp_path, [runbook], grouping={"labels": ["alertname"]}) as agent:
        first = await agent.fire("hall")
        await world.reached.wait()
        second = await agent.fire("hall", name="LampFlickers")
        third = await agent.fire("cellar")
        for _ in range(400):
            if len(world.effects) == 2:
                break
            await asyncio.sleep(0.005)
        assert [effect[1] for effect in world.effects] == ["hall", "cellar"]
        world.hold.set()
        for told in (first, third):
            await agent.ended(told["incident_id"], "resolved")
        assert (await agent.ended(second["incident_id"], "resolved"))["incident"]["target"] == "hall"


async def test_a_storm_is_left_to_people(tmp_path, world):
    guard = {"storm": {"reversible_only_at": 1, "stop_at": 1}}
    async with house(tmp_path, guard=guard) as agent:
        told = await agent.fire("hall")
        detail = await agent.ended(told["incident_id"], "escalated")
        assert detail["decisions"][0]["decision"]["refused"][0]["reason"] == "storm"
        assert world.effects == []


async def test_pages_beyond_the_rate_travel_in_the_next_one(tmp_path, world, monkeypatch):
    monkeypatch.setattr(bundling, "WINDOW_SECONDS", 0.5)
    async with house(tmp_path, paging={"per_minute": 1}) as agent:
        told = [await agent.fire(f"attic-{number}") for number in range(6)]
        for one in told:
            await agent.ended(one["incident_id"], "escalated")
        sent = [json.loads(line) for line in agent.pages().splitlines()]
        pages = [line for line in sent if "body" in line]
        assert len(pages) < len(told)
        assert all(any(f"attic-{number} is dark" in page["body"] for page in pages) for number in range(6))


async def test_a_database_that_is_gone_shows_in_readiness_without_any_traffic(tmp_path, world):
    async with house(tmp_path) as agent:
        (tmp_path / "lamp.db").unlink()
        for _ in range(1500):
            ready = await agent.get("/readyz")
            if not ready["ok"]:
                break
            await asyncio.sleep(0.005)
        assert (ready["ok"], ready["parts"]["store"] != "ok") == (False, True)
        status, told = await agent.post("/webhooks/alertmanager", body("hall"))
        assert (status, "error" in told) == (503, True)


async def test_readiness_and_backends_say_what_works(tmp_path):
    async with house(tmp_path) as agent:
        ready = await agent.get("/readyz")
        assert ready["ok"] is True
        assert {backend["system"] for backend in (await agent.get("/api/v1/backends"))["items"]} == {
            "escalate",
            "lamp",
            "watch",
        }
        async with agent.session.get(agent.daemon.address + "/metrics") as answer:
            assert "oncall_agent_conservation_balanced" in await answer.text()
