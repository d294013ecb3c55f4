"""The validation suite: what is asked, what is broken, what each answer counts as."""

from __future__ import annotations

import asyncio

import pytest
from scenes import lamp, validated

from oncall_agent.contract import Inspection, PermanentError, Privilege, TransientError
from oncall_agent.errors import ConfigError
from oncall_agent.testing import FakeClock
from oncall_agent.validation.compose import Options, validate
from oncall_agent.validation.plan import ProductionDrill
from oncall_agent.validation.results import Verdict, worst

DRILL = "lamp.put_out"
ALWAYS = {"name": "always", "starts_at": 0, "ends_at": 4_000_000_000}


@pytest.fixture(autouse=True)
def story(monkeypatch):
    fresh = validated.Story()
    monkeypatch.setattr(validated, "STORY", fresh)
    monkeypatch.setattr(lamp, "WORLD", lamp.World())
    return fresh


def verdicts(report):
    return {found.name: found.verdict.value for found in report.findings}


async def test_a_sound_system_passes_and_the_sandbox_that_is_not_named_is_skipped(tmp_path, story):
    report, _, shown = await validated.run(tmp_path)
    assert verdicts(report) == {
        "reachability": "passed",
        "version": "passed",
        "credentials": "passed",
        "privileges": "passed",
        "clock": "passed",
        "latency": "passed",
        DRILL: "passed",
        "lamp.put_out_named": "skipped",
    }
    assert (report.verdict, report.exit_code, story.cleaned) == (Verdict.PASSED, 0, 1)
    assert len(shown) == len(report.findings)


async def test_a_named_sandbox_is_drilled(tmp_path):
    report, _, _ = await validated.run(tmp_path, sandboxes={"lamp": {"lamp": "hall"}})
    assert verdicts(report)["lamp.put_out_named"] == "passed"


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "reason", "exit_code"),
    [
        pytest.param({"error": TransientError("no answer")}, "reachability", "missing", "no answer", 3, id="away"),
        pytest.param({"error": PermanentError("wrong password")}, "credentials", "failed", "wrong password", 1, id="refused"),
        pytest.param({"error": RuntimeError("odd")}, "reachability", "failed", "RuntimeError: odd", 1, id="broken"),
        pytest.param({"inspection": Inspection("Lamp", "1.0", unsupported="older than 2")}, "version", "failed", "older than 2", 1, id="old"),
        pytest.param({"clock_off": 60.0}, "clock", "failed", "60.00 s off", 1, id="clock"),
        pytest.param(
            {"inspection": Inspection("Lamp", "3", privileges=(Privilege("light", held=False, needed_by=("lamp.light",)),))},
            "privileges", "failed", "light (for lamp.light)", 1, id="too little",
        ),
        pytest.param(
            {"inspection": Inspection("Lamp", "3", privileges=(Privilege("burn", held=True),))},
            "privileges", "finding", "too much: burn", 4, id="too much",
        ),
        pytest.param({"inspection": Inspection("Lamp", "3", privileges_unknown="it has no roles")}, "privileges", "skipped", "it has no roles", 0, id="no roles"),
    ],
)  # fmt: skip
async def test_each_answer_counts_as_what_it_is(tmp_path, story, changes, check, verdict, reason, exit_code):
    for name, value in changes.items():
        setattr(story, name, value)
    report, _, _ = await validated.run(tmp_path)
    found = next(found for found in report.findings if found.name == check)
    assert (found.verdict.value, report.exit_code) == (verdict, exit_code)
    assert reason in found.reason


async def test_a_drill_fails_when_the_action_does_not_heal_and_the_sandbox_is_removed(tmp_path, story):
    lamp.WORLD.works.clear()
    report, _, _ = await validated.run(tmp_path)
    found = next(found for found in report.findings if found.name == DRILL)
    assert (found.verdict, story.cleaned) == (Verdict.FAILED, 1)
    assert "verify_failed" in found.reason


async def test_a_drill_whose_fault_can_not_be_made_fails_and_is_removed(tmp_path, story):
    story.inject_fails = True
    report, _, _ = await validated.run(tmp_path)
    found = next(found for found in report.findings if found.name == DRILL)
    assert (found.verdict, found.reason, story.cleaned) == (Verdict.FAILED, "the switch is stuck", 1)


async def test_a_drill_that_leaves_its_sandbox_behind_fails(tmp_path, story):
    story.clean_up_fails = True
    report, _, _ = await validated.run(tmp_path)
    found = next(found for found in report.findings if found.name == DRILL)
    assert (found.verdict, found.reason) == (Verdict.FAILED, "cleaning up: RuntimeError: the ladder is gone")


async def test_every_finding_can_be_traced_to_log_lines_by_its_id(tmp_path):
    report, log, _ = await validated.run(tmp_path)
    logged = {fields.get("check_id") for _, _, fields in log.lines}
    assert {found.id for found in report.findings} <= logged
    assert {fields["validation_id"] for _, _, fields in log.lines} == {report.id}
    drill = next(found for found in report.findings if found.name == DRILL)
    steps = [
        fields["step"]
        for _, name, fields in log.lines
        if name == "drill.stepped" and fields["check_id"] == drill.id
    ]
    assert steps == ["prepared", "injected", "cleaned"]


async def test_an_interrupted_run_removes_its_sandbox_and_is_no_pass(tmp_path, story):
    lamp.WORLD.hold = asyncio.Event()
    stopping = asyncio.Event()
    running = asyncio.create_task(
        validate(
            validated.loaded(tmp_path), validated.plugins(), Options(),
            clock=FakeClock(), log=validated.BoundLog(), stopping=stopping,
        )
    )  # fmt: skip
    await asyncio.wait_for(lamp.WORLD.reached.wait(), 5)
    stopping.set()
    report = await asyncio.wait_for(running, 5)
    assert (report.interrupted, report.exit_code, story.cleaned) == (True, 1, 1)


def person(**changes):
    base = {"drill": DRILL, "target": "lamp", "confirmed_by": "ada", "passed_on_staging": frozenset({DRILL})}
    return ProductionDrill(**{**base, **changes})


@pytest.mark.parametrize(
    ("word", "windows", "refusal"),
    [
        pytest.param(None, [ALWAYS], "drills are refused on production", id="no flag"),
        pytest.param(person(drill="lamp.other"), [ALWAYS], "drills are refused on production", id="another drill"),
        pytest.param(person(passed_on_staging=frozenset()), [ALWAYS], "staging first", id="not on staging"),
        pytest.param(person(confirmed_by=""), [ALWAYS], "no person confirmed it", id="nobody"),
        pytest.param(person(target="stairs"), [ALWAYS], "confirmed for 'stairs'", id="another target"),
        pytest.param(person(), [], "outside every window", id="no window"),
        pytest.param(person(), [{**ALWAYS, "ends_at": 1}], "outside every window", id="window over"),
        pytest.param(person(), [ALWAYS], "", id="all of it"),
    ],
)  # fmt: skip
async def test_a_drill_on_production_needs_flag_staging_person_target_and_window(
    tmp_path, word, windows, refusal
):
    report, _, _ = await validated.run(
        tmp_path, options=Options(production=word), environment="production", change_windows=windows
    )
    found = next(found for found in report.findings if found.name == DRILL)
    assert found.verdict is (Verdict.SKIPPED if refusal else Verdict.PASSED)
    assert refusal in found.reason


async def test_production_is_assumed_when_nothing_is_said(tmp_path):
    loaded = validated.load(lamp.write(tmp_path, backends={"lamp": {}}), {})
    report = await validate(
        loaded, validated.plugins(), Options(), clock=FakeClock(), log=validated.BoundLog()
    )
    assert report.environment == "production"
    assert verdicts(report)[DRILL] == "skipped"


async def test_drills_that_are_not_allowed_are_skipped(tmp_path):
    report, _, _ = await validated.run(tmp_path, drills=["other.*"])
    found = next(found for found in report.findings if found.name == DRILL)
    assert (found.verdict, found.reason) == (Verdict.SKIPPED, "not allowed by validation.drills")


@pytest.mark.parametrize("systems", [("castle",), ("lamp", "castle")])
async def test_a_system_that_is_not_configured_is_an_error_that_names_those_that_are(tmp_path, systems):
    with pytest.raises(ConfigError, match=r"no castle; this configuration leads to these systems: lamp"):
        await validated.run(tmp_path, options=Options(systems=systems))


@pytest.mark.parametrize(
    ("met", "verdict"),
    [
        ((), Verdict.FAILED),
        ((Verdict.SKIPPED,), Verdict.FAILED),
        ((Verdict.PASSED, Verdict.SKIPPED), Verdict.PASSED),
        ((Verdict.PASSED, Verdict.FINDING), Verdict.FINDING),
        ((Verdict.FINDING, Verdict.MISSING), Verdict.MISSING),
        ((Verdict.MISSING, Verdict.FAILED, Verdict.PASSED), Verdict.FAILED),
    ],
)
def test_the_worst_finding_is_the_verdict_and_nothing_asked_is_no_pass(met, verdict):
    assert worst(met) is verdict
