"""The HTML report: one self-contained page, charts drawn as SVG, nothing loaded from anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined

from oncall_agent.validation.results import Finding, Kind, Report, Verdict

_WIDTH = 640
_ROW = 28
_VERDICTS = (Verdict.PASSED, Verdict.FINDING, Verdict.MISSING, Verdict.FAILED, Verdict.SKIPPED)


@dataclass(frozen=True, slots=True)
class Bar:
    """One stretch of a bar chart, in pixels."""

    x: float
    y: float
    width: float
    label: str
    style: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart: rows with their labels, and the bars."""

    height: int
    rows: tuple[tuple[str, float], ...]
    bars: tuple[Bar, ...]


def html(report: Report) -> str:
    """Give the page."""
    environment = Environment(
        loader=PackageLoader("oncall_agent.validation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        report=report,
        counts={verdict.value: report.count(verdict) for verdict in _VERDICTS},
        by_system=by_system(report),
        recoveries=recoveries(report),
        scenarios=scenarios(report),
        width=_WIDTH,
        moment=lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    )


def by_system(report: Report) -> Chart:
    """Draw how many checks of each system ended in which way."""
    systems = sorted({found.system for found in report.findings})
    most = max((sum(found.system == name for found in report.findings) for name in systems), default=1)
    bars = []
    for row, system in enumerate(systems):
        x = 0.0
        for verdict in _VERDICTS:
            count = report.count(verdict, system)
            width = _WIDTH * count / most
            if count:
                bars.append(
                    Bar(round(x, 1), row * _ROW, round(width, 1), f"{count} {verdict.value}", verdict.value)
                )
            x += width
    return Chart(
        len(systems) * _ROW, tuple((name, row * _ROW) for row, name in enumerate(systems)), tuple(bars)
    )


def recoveries(report: Report) -> Chart:
    """Draw how long each drill took from the action's start to the symptom's end."""
    drills = [
        (found, found.recovery_seconds) for found in report.findings if found.recovery_seconds is not None
    ]
    longest = max((seconds for _, seconds in drills), default=0.0) or 1.0
    bars = tuple(
        Bar(
            0,
            row * _ROW,
            round(max(2.0, _WIDTH * seconds / longest), 1),
            f"{seconds:.1f} s",
            found.verdict.value,
        )
        for row, (found, seconds) in enumerate(drills)
    )
    rows = tuple((found.name, row * _ROW) for row, (found, _) in enumerate(drills))
    return Chart(len(drills) * _ROW, rows, bars)


def scenarios(report: Report) -> dict[str, list[Finding]]:
    """Give the drills of each failure scenario."""
    grouped: dict[str, list[Finding]] = {}
    for found in report.findings:
        if found.kind is Kind.DRILL:
            grouped.setdefault(found.scenario, []).append(found)
    return dict(sorted(grouped.items()))
