"""The forms of a report: the same findings as JSON, CSV, JUnit XML and one HTML page."""

from __future__ import annotations

import csv
import json
from xml.etree import ElementTree as ET

import pytest

from oncall_agent.validation.reports import CSV_COLUMNS, read_passed_drills, write
from oncall_agent.validation.results import (
    ActionStanding,
    Finding,
    Kind,
    Report,
    SystemAnswer,
    Verdict,
)

NASTY = "=cmd|' /C calc'!A0 <script>alert(1)</script> \x1b[31m"
FINDINGS = (
    Finding("c1", "lamp", Kind.REACHABILITY, "reachability", Verdict.PASSED, "Lamp answers", seconds=0.1),
    Finding("c2", "lamp", Kind.PRIVILEGES, "privileges", Verdict.FINDING, NASTY),
    Finding("c3", "mill", Kind.REACHABILITY, "reachability", Verdict.MISSING, "no answer"),
    Finding(
        "c4", "lamp", Kind.DRILL, "lamp.put_out", Verdict.PASSED, "healed", "service_crash_handling",
        "lamp.light", 1_000.0, 2.5, 1.25, unproven="only a fake lamp was to be had",
    ),
    Finding("c5", "lamp", Kind.DRILL, "lamp.smash", Verdict.FAILED, "still dark", "lamp", "lamp.light"),
)  # fmt: skip
REPORT = Report(
    id="v1",
    config="oncall-agent.yaml",
    environment="staging",
    started_at=1_000.0,
    ended_at=1_010.0,
    findings=FINDINGS,
    systems=(SystemAnswer("lamp", "Lamp", "3.1", "keeper"),),
    actions=(
        ActionStanding("lamp.light", Verdict.PASSED, "only a fake lamp was to be had", {"dry_run": "done"}),
    ),
)


@pytest.fixture
def folder(tmp_path):
    write(REPORT, tmp_path / "out")
    return tmp_path / "out"


def test_json_holds_everything_and_the_exit_code(folder):
    told = json.loads((folder / "report.json").read_text())
    assert (told["verdict"], told["exit_code"], len(told["findings"])) == ("failed", 1, 5)
    assert told["counts"] == {"passed": 2, "finding": 1, "missing": 1, "failed": 1, "skipped": 0}


def test_csv_has_one_row_per_finding_in_the_documented_columns(folder):
    rows = list(csv.DictReader((folder / "real_test_report.csv").read_text().splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["check_id"] for row in rows] == ["c1", "c2", "c3", "c4", "c5"]
    assert rows[3]["recovery_seconds"] == "1.250"


def test_csv_never_counts_as_proven_what_no_real_server_has_proven(folder):
    rows = list(csv.DictReader((folder / "real_test_report.csv").read_text().splitlines()))
    assert [row["proven"] for row in rows] == [
        "yes",
        "no",
        "no",
        "not proven on a real server: only a fake lamp was to be had",
        "no",
    ]


def test_csv_holds_no_formula(folder):
    rows = list(csv.DictReader((folder / "real_test_report.csv").read_text().splitlines()))
    assert rows[1]["reason"].startswith("'=")


def test_junit_counts_findings_as_failures_and_missing_backends_as_skips(folder):
    suites = {suite.get("name"): suite for suite in ET.parse(folder / "junit.xml").getroot()}
    assert (suites["lamp"].get("failures"), suites["lamp"].get("skipped")) == ("2", "0")
    assert (suites["mill"].get("failures"), suites["mill"].get("skipped")) == ("0", "1")


def test_html_stands_alone_and_shows_what_backends_said_as_text(folder):
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "&lt;script&gt;" in page
    assert all(found.id in page for found in FINDINGS)
    assert "not proven on a real server" in page


def test_only_drills_that_passed_on_staging_open_the_way_to_production(folder):
    assert read_passed_drills(folder / "report.json") == {"lamp.put_out"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a JSON report"),
        ("[]", "not a JSON report"),
        ('{"environment": "production", "findings": []}', "a report of production"),
    ],
)
def test_another_file_is_no_staging_report(tmp_path, text, reason):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_passed_drills(file)
