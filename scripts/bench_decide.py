"""The decide stage with 12 candidates beside the machine's own limit, in one run.

One incident after another goes through what the pipeline does between a measurement and a choice: context and
features, the guard, the policy (draw, exact propensities, explanation), with a policy that has already learned of
every action. Each part is timed by itself in many short batches. A machine that does other things at the same time
delays some calls, so the table shows the quietest batch and the median batch; `fixed work` is a plain loop that
takes about as long as a choice: what its p99 is above its p50 is the machine, not the program.

    python scripts/bench_decide.py [--batches 40] [--size 500]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from figures import Figure, below, finish, options_of
from rich.console import Console
from rich.table import Table

from oncall_agent.contract import ActionSpec
from oncall_agent.models import (
    Autonomy,
    Candidate,
    Control,
    History,
    Incident,
    IncidentState,
    Measurement,
    Permitted,
    Phase,
    Probe,
    RiskClass,
    Severity,
    Signals,
    Target,
)
from oncall_agent.policy import features
from oncall_agent.policy.base import PolicyUpdate
from oncall_agent.policy.linear import LinearThompson
from oncall_agent.rules import guard
from oncall_agent.settings.model import AutonomySettings, GuardSettings, PolicySettings

NOW = 1_750_000_000.0
ACTIONS = tuple(f"docker.action_{number}" for number in range(10))
LESSONS = 3_000
INCIDENTS = 64
BAR_PART_MS, BAR_STAGE_MS = 0.1, 1.0

SPECS = {
    action: ActionSpec(
        action, "made up", "docker_container", RiskClass.R1, reversible=True, deadline_seconds=60.0
    )
    for action in ACTIONS
}
WEB = Target("web", "docker_container", service="shop", tier=1, probes=(Probe("http"),))
CANDIDATES = (
    *(Candidate(action, "web", prior=0.5 - 0.03 * number) for number, action in enumerate(ACTIONS)),
    Candidate("escalate.page", "web", prior=0.0),
    Candidate("watch.wait", "web", prior=-0.05),
)


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call in the quietest and in the median batch."""

    best_p50: float
    best_p99: float
    median_p50: float
    median_p99: float


def incident(number: int) -> Incident:
    return Incident(
        id=f"i{number}", key="k", alert_class=f"class-{number % 12}", target="web", service="shop",
        severity=list(Severity)[number % 4], state=IncidentState.RUNNING, phase=Phase.NEW, title="WebDown",
        labels={"alertname": "WebDown", "service": "shop"}, opened_at=NOW - 60, updated_at=NOW,
    )  # fmt: skip


def situation(number: int) -> guard.Situation:
    spread = number / INCIDENTS
    signals = Signals(
        up=True, cpu=spread, memory=1 - spread, response_seconds=9 * spread, error_rate=0.2 * spread
    )
    return guard.Situation(
        incident=incident(number), targets={"web": WEB}, specs=SPECS, guard=GuardSettings(),
        autonomy=AutonomySettings(default=Autonomy.AUTO), control=Control(),
        history=History(open_incidents=3, recurrences=1), open_breakers=frozenset(), now=NOW + 997.0 * number,
        measurement=Measurement(NOW, 100 * spread, healthy=False, signals=signals),
    )  # fmt: skip


def context_of(case: guard.Situation) -> features.Context:
    return features.context(case.incident, WEB, case.measurement, case.history, case.now)


def taught(cases: list[guard.Situation]) -> LinearThompson:
    policy, rng = LinearThompson(PolicySettings()), np.random.default_rng(1)
    for version in range(1, LESSONS + 1):
        candidate = CANDIDATES[rng.integers(len(CANDIDATES))]
        vector = features.encode(context_of(cases[version % len(cases)])).tolist()
        reward = float(rng.uniform(-0.3, 0.3))
        policy.update(PolicyUpdate(version, candidate.action, tuple(vector), reward, candidate.prior))
    return policy


def measured(call: Callable[[int], object], batches: int, size: int) -> Timing:
    clock, p50, p99 = time.perf_counter_ns, [], []
    for _ in range(batches):
        taken = []
        for number in range(size):
            start = clock()
            call(number)
            taken.append(clock() - start)
        low, high = np.percentile(taken, [50, 99]) / 1e6
        p50.append(float(low))
        p99.append(float(high))
    return Timing(min(p50), min(p99), float(np.median(p50)), float(np.median(p99)))


def fixed_work(number: int) -> int:
    total = number
    for step in range(2_500):
        total += step
    return total


def parts() -> list[tuple[str, Callable[[int], object], float | None]]:
    """Give name, call and bar of everything that is timed."""
    cases = [situation(number) for number in range(INCIDENTS)]
    contexts = [context_of(case) for case in cases]
    vectors = [features.encode(context) for context in contexts]
    policy = taught(cases)
    allowed = tuple(Permitted(candidate, Autonomy.AUTO) for candidate in CANDIDATES)
    if len(guard.screen(CANDIDATES, cases[0]).allowed) != len(CANDIDATES):
        raise SystemExit("the guard must permit all candidates, else less is measured than is said")

    def decide(number: int) -> object:
        case = cases[number % INCIDENTS]
        vector = features.encode(context_of(case))
        return policy.choose(vector, guard.screen(CANDIDATES, case).allowed, seed=number)

    return [
        ("echo: empty function", lambda _: None, None),
        ("fixed work: plain loop", fixed_work, None),
        ("features.encode", lambda n: features.encode(contexts[n % INCIDENTS]), BAR_PART_MS),
        ("guard.screen", lambda n: guard.screen(CANDIDATES, cases[n % INCIDENTS]), None),
        ("policy.choose", lambda n: policy.choose(vectors[n % INCIDENTS], allowed, seed=n), BAR_PART_MS),
        ("whole decide stage", decide, BAR_STAGE_MS),
    ]


def shown(timings: list[tuple[str, Timing]]) -> Table:
    table = Table(title=f"decide stage, {len(CANDIDATES)} candidates, ms per call")
    for column in ("part", "best p50", "best p99", "median p50", "median p99"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, timing in timings:
        figures = (timing.best_p50, timing.best_p99, timing.median_p50, timing.median_p99)
        table.add_row(name, *(f"{value:.4f}" for value in figures))
    return table


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--size", type=int, default=500, help="calls per batch, at least 100")
    options = parser.parse_args()
    found: list[Figure] = []
    timings: list[tuple[str, Timing]] = []
    for name, call, bar in parts():
        timing = measured(call, options.batches, max(100, options.size))
        timings.append((name, timing))
        if bar is not None:
            found.append(below(f"{name}, p99 of the quietest batch, ms", timing.best_p99, bar, digits=3))
    Console().print(shown(timings))
    return finish(found, options)


if __name__ == "__main__":
    sys.exit(main())
