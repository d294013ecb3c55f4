"""`validate` against real systems: an engine and patients that really fall ill, healed, undone and cleaned up."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

PATIENT = ("-m", "oncall_agent.demo.patient", "--name", "sandbox")
COMMAND = Path(sys.executable).parent / "oncall-agent"


@dataclass
class Ran:
    code: int
    output: str
    folder: Path

    @property
    def report(self) -> Any:
        return json.loads((self.folder / "report.json").read_text())

    def verdicts(self, kind: str) -> dict[str, str]:
        return {found["name"]: found["verdict"] for found in self.report["findings"] if found["kind"] == kind}

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "validate.log").read_text().splitlines()]


@pytest.fixture
async def patient() -> AsyncIterator[dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *PATIENT, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    told = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
    yield {"url": told["url"], "control_url": told["control_url"]}
    process.terminate()
    await process.wait()


async def validate(folder: Path, *arguments: str, **groups: Any) -> Ran:
    (folder / "runbooks").mkdir()
    file = folder / "oncall-agent.yaml"
    file.write_text(yaml.safe_dump(groups))
    process = await asyncio.create_subprocess_exec(
        str(COMMAND), "validate", "--config", str(file), "--out", str(folder / "out"), *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    return Ran(process.returncode or 0, output.decode(), folder / "out")


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_failure_scenarios_of_an_app_are_healed_for_real(tmp_path, patient):
    ran = await validate(
        tmp_path, backends={"app": {}}, validation={"environment": "staging", "sandboxes": {"app": patient}}
    )
    assert ran.verdicts("drill") == {
        "app.bad_release": "passed",
        "app.crash": "passed",
        "app.database_timeouts": "passed",
        "app.memory_climb": "passed",
        "app.overload": "passed",
    }, ran.output
    assert (ran.code, ran.report["verdict"]) == (0, "passed")
    assert {found["scenario"] for found in ran.report["findings"] if found["scenario"]} == {
        "bad_release",
        "database_timeout_recovery",
        "high_memory_response",
        "saturation",
        "service_crash_handling",
    }
    assert {found["id"] for found in ran.report["findings"]} <= {line.get("check_id") for line in ran.log}
    rows = list(csv.DictReader((ran.folder / "real_test_report.csv").read_text().splitlines()))
    assert all(float(row["recovery_seconds"]) > 0 for row in rows if row["kind"] == "drill")


async def test_nothing_is_broken_on_production_without_a_word(tmp_path, patient):
    ran = await validate(tmp_path, backends={"app": {}}, validation={"sandboxes": {"app": patient}})
    assert set(ran.verdicts("drill").values()) == {"skipped"}
    assert "drills are refused on production" in ran.output


async def test_a_drill_on_production_is_not_confirmed_by_a_pipe(tmp_path):
    report = tmp_path / "staging.json"
    report.write_text('{"environment": "staging", "findings": []}')
    ran = await validate(
        tmp_path, "--production-drill", "app.crash", "--staging-report", str(report), backends={"app": {}}
    )
    assert ran.code == 2
    assert "by a person at a terminal" in ran.output


async def test_a_sandbox_that_can_not_fall_ill_fails_and_says_what_to_name(tmp_path, patient):
    sandbox = {"url": patient["url"]}
    ran = await validate(
        tmp_path, backends={"app": {}}, validation={"environment": "staging", "sandboxes": {"app": sandbox}}
    )
    assert ran.code == 1
    assert set(ran.verdicts("drill").values()) == {"failed"}


async def test_an_engine_that_is_away_is_missing(tmp_path):
    ran = await validate(
        tmp_path,
        backends={"docker": {"host": f"unix://{tmp_path}/none.sock"}},
        validation={"environment": "staging"},
    )
    assert (ran.code, ran.verdicts("reachability")) == (3, {"reachability": "missing"})


@pytest.mark.backend("docker")
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_real_engine_is_inspected_and_drilled_and_nothing_stays_behind(
    tmp_path, docker_host: str, docker_image: str, docker_client: docker.DockerClient
):
    ran = await validate(
        tmp_path,
        backends={"docker": {"host": docker_host}},
        # The others are healed in test_docker_system.py, each behind its own rules.
        validation={
            "environment": "staging",
            "sandboxes": {"docker": {"image": docker_image}},
            "drills": ["docker.crashed", "docker.hung_health_check", "docker.paused"],
        },
    )
    assert ran.verdicts("drill") == {
        "docker.crash_loop": "skipped",
        "docker.crashed": "passed",
        "docker.full_disk": "skipped",
        "docker.hung_health_check": "passed",
        "docker.out_of_memory": "skipped",
        "docker.paused": "passed",
        "docker.sick_replica": "skipped",
    }, ran.output
    assert (ran.verdicts("version"), ran.verdicts("clock")) == ({"version": "passed"}, {"clock": "passed"})
    # A bare socket lets everything through: that is a finding, and the verdict says so.
    assert (ran.code, ran.verdicts("privileges")) == (4, {"privileges": "finding"})
    assert docker_client.containers.list(all=True, filters={"label": "oncall-agent.drill"}) == []
