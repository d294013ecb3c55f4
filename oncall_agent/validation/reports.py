"""A report as files: JSON, CSV, JUnit XML, and one HTML page that needs nothing else."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import orjson

from oncall_agent.validation.page import html
from oncall_agent.validation.results import Finding, Report, Verdict

CSV_COLUMNS = (
    "validation_id",
    "check_id",
    "environment",
    "system",
    "product",
    "version",
    "kind",
    "name",
    "scenario",
    "action",
    "verdict",
    "proven",
    "reason",
    "started_at",
    "seconds",
    "recovery_seconds",
)
"""Columns of `real_test_report.csv`, in order; described in docs/validation.md."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write all forms into the folder, which is made if need be; give the files.

    Raises:
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, form in _FORMS.items():
        partial = folder / f".{name}.partial"
        partial.write_text(form(report), encoding="utf-8")
        paths.append(partial.replace(folder / name))
    return tuple(paths)


def as_json(report: Report) -> str:
    """Give the whole report as JSON."""
    told: dict[str, Any] = {
        **asdict(report),
        "verdict": report.verdict,
        "exit_code": report.exit_code,
        "counts": {verdict.value: report.count(verdict) for verdict in Verdict},
    }
    return orjson.dumps(told, option=orjson.OPT_INDENT_2, default=str).decode()


def as_csv(report: Report) -> str:
    """Give one row per finding; the columns are `CSV_COLUMNS`."""
    answers = {answer.system: answer for answer in report.systems}
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(CSV_COLUMNS)
    for found in report.findings:
        answer = answers.get(found.system)
        product, version = (answer.product, answer.version) if answer else ("", "")
        rows.writerow(_cell(value) for value in _row(report, found, product, version))
    return text.getvalue()


def _row(report: Report, found: Finding, product: str, version: str) -> tuple[Any, ...]:
    return (
        report.id,
        found.id,
        report.environment,
        found.system,
        product,
        version,
        found.kind.value,
        found.name,
        found.scenario,
        found.action,
        found.verdict.value,
        is_proven(found),
        found.reason,
        moment(found.started_at),
        f"{found.seconds:.3f}",
        "" if found.recovery_seconds is None else f"{found.recovery_seconds:.3f}",
    )


def _cell(value: Any) -> str:
    """Give text that no spreadsheet reads as a formula: reasons hold what backends said."""
    text = str(value).replace("\n", " ")
    return f"'{text}" if text.startswith(_FORMULA) else text


def is_proven(found: Finding) -> str:
    """Say yes, no, or no and why."""
    if found.verdict is not Verdict.PASSED:
        return "no"
    return f"not proven on a real server: {found.unproven}" if found.unproven else "yes"


def as_junit(report: Report) -> str:
    """Give JUnit XML: one suite per system; findings and missing backends are failures and skips."""
    root = ET.Element("testsuites", name="oncall-agent validate", id=report.id)
    for system in sorted({found.system for found in report.findings}):
        findings = [found for found in report.findings if found.system == system]
        suite = ET.SubElement(root, "testsuite", _suite_counts(system, findings))
        for found in findings:
            case = ET.SubElement(
                suite,
                "testcase",
                {
                    "classname": f"validate.{system}",
                    "name": found.name,
                    "time": f"{found.seconds:.3f}",
                    "id": found.id,
                },
            )
            _ending(case, found)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite_counts(system: str, findings: list[Finding]) -> dict[str, str]:
    bad = sum(found.verdict in (Verdict.FAILED, Verdict.FINDING) for found in findings)
    skipped = sum(found.verdict in (Verdict.SKIPPED, Verdict.MISSING) for found in findings)
    return {
        "name": system,
        "tests": str(len(findings)),
        "failures": str(bad),
        "skipped": str(skipped),
        "time": f"{sum(found.seconds for found in findings):.3f}",
    }


def _ending(case: ET.Element, found: Finding) -> None:
    message = printable(f"{found.verdict.value}: {found.reason}")
    if found.verdict in (Verdict.FAILED, Verdict.FINDING):
        ET.SubElement(case, "failure", message=message, type=found.verdict.value)
    elif found.verdict in (Verdict.SKIPPED, Verdict.MISSING):
        ET.SubElement(case, "skipped", message=message)
    elif found.unproven:
        ET.SubElement(case, "system-out").text = printable(is_proven(found))


def printable(text: str) -> str:
    """Give text without the control characters that XML has no place for."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")


def moment(at: float) -> str:
    """Give RFC 3339 text in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_passed_drills(path: Path) -> frozenset[str]:
    """Give the ids of the drills that passed in a staging report, for a drill on production.

    Raises:
        ValueError: it is no such report, or not one of a staging environment; names the file.
    """
    try:
        told = orjson.loads(path.read_bytes())
        environment, findings = told["environment"], told["findings"]
        passed = {
            found["name"]
            for found in findings
            if found["kind"] == "drill" and found["verdict"] == Verdict.PASSED.value
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a JSON report of validate ({type(error).__name__})") from error
    if environment != "staging":
        raise ValueError(f"{path}: a report of {environment}, not of staging")
    return frozenset(passed)


_FORMS: Mapping[str, Callable[[Report], str]] = {
    "report.json": as_json,
    "real_test_report.csv": as_csv,
    "junit.xml": as_junit,
    "report.html": html,
}
