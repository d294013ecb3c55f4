"""From alert to verified recovery, by fault class, through the whole daemon.

Every drill of a configuration is carried out whose sandbox is named and whose action needs no two people: the sandbox
is well, the fault is made and seen, an alert about it is posted to a daemon as an operator runs it (autonomy auto, its
runbook offers the drill's action beside waiting and paging), and the time is taken until the daemon says that the
incident is resolved, which it does on evidence only. Then the drill itself is asked whether the sandbox is well.
Without --config a patient app of this machine is broken in its three ways.

    python scripts/bench_recovery.py [--config oncall-agent.yaml] [--rounds 5] [--only 'redis.*']
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

import running
import yaml
from figures import Figure, finish, options_of
from load import share

from oncall_agent.contract import Drill, SystemClock, SystemContext, Trial
from oncall_agent.errors import OncallAgentError
from oncall_agent.models import RiskClass
from oncall_agent.pools import Pools
from oncall_agent.registry import Plugins, find
from oncall_agent.settings.load import Loaded, load
from oncall_agent.testing import RecordingLog
from oncall_agent.validation.compose import Options, plans_of

POLL_SECONDS = 0.02
SYMPTOM_SECONDS = 30.0
CLEAN_UP_SECONDS = 60.0
LONGEST_SECONDS_PER_DRILL = 300.0
NAME = "sandbox"
FAILED = "FAILED"


@dataclass
class Course:
    """What the rounds of one drill came to: seconds of those that recovered, else why there are none."""

    spec: Any
    seconds: list[float] = field(default_factory=list)
    reason: str = ""

    def figure(self) -> Figure:
        name = f"{self.spec.id} ({self.spec.scenario})"
        if not self.seconds:
            has_failed = self.reason.startswith(FAILED)
            value = self.reason if has_failed else f"not run: {self.reason}"
            return Figure(name, value[:90], "recovered" if has_failed else "", not has_failed, exact=True)
        found = sorted(self.seconds)
        value = (
            f"{fmean(found):.1f} / {share(found, 0.5):.1f} / {share(found, 0.95):.1f} ({len(self.seconds)})"
        )
        return Figure(name, value, "recovered", verdict=not self.reason, exact=True)


class NotWellError(Exception):
    """A round did not end as it has to."""


@contextmanager
def patient() -> Iterator[dict[str, str]]:
    """Run an app that can be made ill; gives its two addresses."""
    command = ("-m", "oncall_agent.demo.patient", "--name", NAME)
    process = running.spawn(*command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    try:
        told = json.loads(process.stdout.readline())  # type: ignore[union-attr]
        yield {"url": told["url"], "control_url": told["control_url"]}
    finally:
        running.stop(process)


def own_configuration(folder: Path, app: dict[str, str]) -> Path:
    """Write the configuration that is used when none is given."""
    (folder / "runbooks").mkdir()
    file = folder / "own.yaml"
    sandboxes = {"environment": "staging", "sandboxes": {"app": app}}
    file.write_text(yaml.safe_dump({"backends": {"app": {}}, "validation": sandboxes}))
    return file


def daemon_configuration(folder: Path, loaded: Loaded, drill: Drill, trial: Trial) -> Path:
    """Write the configuration of a daemon that looks after this sandbox, with the drill's action to offer."""
    candidate = {"action": drill.spec.action, "params": dict(trial.params), "prior": 1.0}
    runbook = {"name": "drill", "class": "bench", "match": {"alertname": "Drill"}, "candidates": [candidate]}
    target = {
        "name": NAME,
        "kind": trial.target.kind,
        "service": NAME,
        "settle_seconds": 0,
        "address": dict(trial.target.address),
    }
    config = {
        "store": {"url": f"sqlite:///{folder / 'bench.db'}"},
        "autonomy": {"default": "auto"},
        "policy": {"noise_scale": 0.01},
        # How much an attempt may touch is not what is measured.
        "guard": {"max_instances": 10_000},
        "telemetry": {"level": "warning"},
        "backends": {**loaded.settings.backends, "escalate": {"file": str(folder / "pages.jsonl")}},
        "targets": [target],
    }
    (folder / "runbooks").mkdir()
    (folder / "runbooks" / "drill.yaml").write_text(yaml.safe_dump([runbook]))
    file = folder / "oncall-agent.yaml"
    file.write_text(json.dumps(config))
    return file


def alert() -> dict[str, Any]:
    """Give the webhook of one alert about the sandbox."""
    one = {
        "status": "firing",
        "labels": {"alertname": "Drill", "service": NAME, "severity": "critical"},
        "annotations": {"summary": "the sandbox is sick"},
        "startsAt": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "1",
    }
    return {"version": "4", "status": "firing", "receiver": "b", "groupKey": "{}", "alerts": [one]}


async def recovered(daemon: running.Daemon, within_seconds: float) -> float:
    """Post the alert and give the seconds until its incident is resolved."""
    begun = time.monotonic()
    await asyncio.to_thread(running.post, daemon.port, "/webhooks/alertmanager", alert())
    while True:
        (incident,) = (await asyncio.to_thread(daemon.read, "/api/v1/incidents?limit=1"))["items"]
        if incident["state"] == "resolved":
            return time.monotonic() - begun
        if incident["state"] in ("escalated", "dead_lettered", "awaiting_approval"):
            raise NotWellError(f"the incident is {incident['state']}: {incident.get('end_reason')}")
        if time.monotonic() - begun > within_seconds:
            raise NotWellError(f"the incident is still {incident['state']} after {within_seconds:g} s")
        await asyncio.sleep(POLL_SECONDS)


async def symptom(drill: Drill, ctx: SystemContext, trial: Trial, *, well: bool) -> None:
    """Wait until the sandbox is well, or sick."""
    end = time.monotonic() + SYMPTOM_SECONDS
    while (check := await drill.symptom(ctx, trial)).ok is not well:
        if time.monotonic() > end:
            raise NotWellError(f"the sandbox is not {'well' if well else 'sick'}: {check.reason}")
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def prepared(drill: Drill, pools: Pools, seconds: float) -> AsyncIterator[tuple[SystemContext, Trial]]:
    """Give a sandbox that is well; it is removed at the end, whatever happens."""
    clock = SystemClock()

    def context(seconds: float) -> SystemContext:
        run = pools.of(drill.spec.system).run
        return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds, run)

    ctx = context(seconds)
    try:
        yield ctx, await drill.prepare(ctx)
    finally:
        await drill.clean_up(context(CLEAN_UP_SECONDS))


async def one_round(kind: type[Drill], loaded: Loaded, pools: Pools, within_seconds: float) -> float:
    """Break the sandbox once and give the seconds from the alert to the verified recovery."""
    system, settings = kind.spec.system, loaded.settings
    drill = kind(settings.backends.get(system, {}), settings.validation.sandboxes.get(system, {}))
    seconds = kind.spec.deadline_seconds + within_seconds
    with running.folder() as folder:
        async with prepared(drill, pools, seconds) as (ctx, trial):
            await symptom(drill, ctx, trial, well=True)
            with running.daemon(daemon_configuration(folder, loaded, drill, trial)) as daemon:
                await drill.inject(ctx, trial)
                await symptom(drill, ctx, trial, well=False)
                found = await recovered(daemon, within_seconds)
                await symptom(drill, ctx, trial, well=True)
    return found


async def course(
    kind: type[Drill], refusal: str, loaded: Loaded, plugins: Plugins, rounds: int, pools: Pools
) -> Course:
    """Carry out the rounds of one drill; what is not there is said, what does not recover has failed."""
    action, found = plugins.actions.get(kind.spec.action), Course(kind.spec, reason=refusal)
    if refusal or action is None:
        found.reason = refusal or "its action is not installed"
        return found
    if action.spec.risk is RiskClass.R3:
        found.reason = "two people have to agree to its action"
        return found
    end = time.monotonic() + LONGEST_SECONDS_PER_DRILL
    for _ in range(rounds):
        try:
            found.seconds.append(await one_round(kind, loaded, pools, action.spec.deadline_seconds + 30.0))
        except NotWellError as error:
            found.reason = f"{FAILED}: {error}"
        except OncallAgentError as error:
            found.reason = str(error) if not found.seconds else f"{FAILED}: {error}"
        if found.reason or time.monotonic() > end:
            break
    print(f"{kind.spec.id}: {[round(one, 2) for one in found.seconds]} {found.reason}", flush=True)
    return found


async def measure(file: Path, rounds: int, only: str) -> list[Figure]:
    """Carry out what the configuration permits."""
    loaded, plugins = load(file), find()
    pools = Pools(loaded.settings.workers.blocking_threads)
    plans = plans_of(loaded, plugins, Options(), time.time())
    drills = [one for plan in plans for one in plan.drills if fnmatchcase(one.kind.spec.id, only)]
    courses = [await course(one.kind, one.refusal, loaded, plugins, rounds, pools) for one in drills]
    head = Figure("alert to verified recovery, seconds", "mean / p50 / p95 (n)")
    return [head, *(one.figure() for one in courses)]


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument(
        "--config", type=Path, help="whose drills are carried out; its environment is staging"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="*", help="a pattern of drills' ids")
    options = parser.parse_args()
    with running.folder() as folder, patient() as app:
        file = options.config or own_configuration(folder, app)
        figures = asyncio.run(measure(file, options.rounds, options.only))
    return finish(figures, options)


if __name__ == "__main__":
    sys.exit(main())
