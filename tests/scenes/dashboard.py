"""A daemon's web side on a real store, with incidents in every shape that the dashboard shows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp.test_utils import TestServer

from oncall_agent.contract import SCORECARD
from oncall_agent.contract.secret import Secret
from oncall_agent.models import (
    Alert,
    AlertStatus,
    Approval,
    Attempt,
    Autonomy,
    Candidate,
    Check,
    Decision,
    EndReason,
    IncidentState,
    Measurement,
    Outcome,
    OutcomeReason,
    OutcomeStatus,
    Permitted,
    Phase,
    PlacedAlert,
    Receipt,
    Refusal,
    RefusalReason,
    Reward,
    RiskClass,
    Severity,
    Target,
)
from oncall_agent.policy import explain, features
from oncall_agent.policy.linear import LinearThompson
from oncall_agent.rules.placement import Placement
from oncall_agent.settings.model import Settings
from oncall_agent.store import Change, Claimed, Finished, Move, Store, TimelineEntry, new_id
from oncall_agent.telemetry.metrics import Metrics
from oncall_agent.testing import FakeClock
from oncall_agent.web.app import build
from oncall_agent.web.parts import Parts

HOSTILE = "<script>window.owned = 1; document.title = 'owned'</script><img src=x onerror='window.owned = 1'>"
TOKENS = {"ana": ("operator", "ana-secret"), "ben": ("viewer", "ben-secret"), "eva": ("admin", "eva-secret")}
ACTIONS = [
    {
        "id": "docker.restart_container",
        "summary": "Restarts a container with a grace time.",
        "risk": "R2",
        "reversible": False,
        "cooldown_seconds": 300.0,
        "deadline_seconds": 60.0,
        "scorecard": dict.fromkeys(SCORECARD, "done") | {"rollback_restores": "a restart can't be undone"},
    },
    {"id": "spark.kill_stage", "off": "pyspark is not installed"},
]
BACKENDS = [
    {"system": "docker", "ok": True, "reason": "the engine answers", "breaker": "closed"},
    {"system": "app", "ok": False, "reason": "connection refused", "breaker": "open"},
]


@dataclass
class Scene:
    """What a test of the dashboard works with."""

    store: Store
    clock: FakeClock
    settings: Settings
    parts: Parts
    server: TestServer

    @property
    def base(self) -> str:
        """Address of the server, without a slash at its end."""
        return str(self.server.make_url("")).rstrip("/")

    async def stop_serving(self) -> int:
        """Let the HTTP side go away, the store stays; gives the port that is free then."""
        port = self.server.port
        assert port is not None
        await self.server.close()
        return port

    async def serve_again(self, port: int) -> None:
        """Bring the HTTP side back at that port."""
        self.server = TestServer(build(self.parts), host="127.0.0.1", port=port)
        await self.server.start_server()

    @property
    def now(self) -> float:
        """The virtual wall clock."""
        return self.clock.now()

    async def alert(self, target: str = "payments-api", **changes: Any) -> str:
        """Accept one alert; gives the id of its incident."""
        name = changes.pop("name", "ContainerRestarting")
        alert = Alert(
            source="alertmanager",
            fingerprint=new_id(),
            status=AlertStatus.FIRING,
            name=name,
            labels={"alertname": name, "container": target},
            annotations={"summary": f"{target} is not well"},
            starts_at=self.now,
            severity=Severity.CRITICAL,
        )
        placed = PlacedAlert(replace(alert, **changes), "crash", target, target, incident_key=new_id())
        [accepted] = await self.store.accept([placed], self.now)
        assert accepted.incident_id is not None
        return accepted.incident_id

    async def claim(self) -> Claimed:
        """Claim the next incident."""
        [claimed] = await self.store.claim("worker-1", limit=1, lease_seconds=30.0, now=self.now)
        return claimed

    async def ask(self, *, risk: RiskClass = RiskClass.R2, needed: int = 1) -> Approval:
        """Decide about the next incident and park it for people."""
        claimed = await self.claim()
        decision, context = decide(claimed, self.now)
        incident = claimed.incident
        approval = Approval(
            id=new_id(),
            incident_id=incident.id,
            decision_id=decision.id,
            action=decision.candidate.action,
            target=incident.target,
            risk=risk,
            asked_at=self.now,
            expires_at=self.now + 900.0,
            needed=needed,
        )
        change = Change(
            incident.id,
            incident.fence,
            self.now,
            decision=decision,
            context=context,
            approval=approval,
            timeline=(TimelineEntry("approval.asked", {"action": approval.action, "risk": risk.value}),),
            move=Move(IncidentState.AWAITING_APPROVAL, run_after=approval.expires_at),
        )
        await self.store.commit(change)
        return approval

    async def heal(self, detail: str = "the container runs and its probe holds") -> str:
        """Carry the next incident through one attempt to its evidence; gives the incident's id."""
        claimed = await self.claim()
        decision, context = decide(claimed, self.now)
        attempt = attempt_of(claimed, decision, self.now)
        incident, fence = claimed.incident, claimed.incident.fence
        sick, well = Measurement(self.now, 12.0, healthy=False), Measurement(self.now, 97.0, healthy=True)
        receipt = Receipt(attempt.action, self.now, {"container": attempt.target, "was": "exited"})
        outcome = Outcome(
            OutcomeStatus.SUCCEEDED,
            OutcomeReason.VERIFIED,
            detail,
            precheck=Check(ok=True, reason="the container is exited"),
            receipt=receipt,
            verification=Check(ok=True, reason="healthy for 30 s"),
            timings={"execute": 0.4},
        )
        reward = Reward(0.81, {"health": 0.85, "time": -0.04})
        await self.store.commit(
            Change(
                incident.id,
                fence,
                self.now,
                decision=decision,
                context=context,
                before=sick,
                begin=attempt,
                move=Move(IncidentState.RUNNING, Phase.ATTEMPTING, keep_lease=True),
            )
        )
        await self.store.commit(
            Change(
                incident.id,
                fence,
                self.now,
                receipt=(attempt.id, receipt),
                outcome=Finished(attempt.id, outcome, reward, sick, well),
                timeline=(TimelineEntry("attempt.finished", {"status": "succeeded", "reason": "verified"}),),
                move=Move(IncidentState.RESOLVED, end_reason=EndReason.FIXED),
            )
        )
        return incident.id


def decide(claimed: Claimed, now: float) -> tuple[Decision, dict[str, Any]]:
    """Choose with the real policy, so that the choice can be computed again."""
    incident = claimed.incident
    target = Target(incident.target, "docker_container", incident.target)
    context = features.context(incident, target, None, claimed.history, now)
    vector = features.encode(context)
    allowed = tuple(
        Permitted(Candidate(action, incident.target, params, prior, "containers"), Autonomy.APPROVE)
        for action, params, prior in (
            ("docker.restart_container", {"timeout_seconds": 10}, 0.6),
            ("docker.update_limits", {"memory_mb": 512}, 0.3),
            ("escalate.page", {}, 0.0),
        )
    )
    policy = LinearThompson(Settings().policy)
    choice = policy.choose(vector, allowed, seed=7)
    refused = Candidate("docker.recreate_with_image", incident.target, {"image": "payments:1.4.1"})
    decision = Decision(
        id=new_id(),
        at=now,
        chosen=allowed[choice.index],
        propensity=choice.propensity,
        mode=choice.mode,
        policy=policy.name,
        policy_version=policy.version,
        seed=7,
        features=tuple(float(value) for value in vector),
        features_schema=features.SCHEMA,
        scored=choice.scored,
        refused=(Refusal(refused, RefusalReason.COOLDOWN, "tried 120 s ago"),),
        explanation=choice.explanation,
    )
    return decision, context.to_json()


def attempt_of(claimed: Claimed, decision: Decision, now: float) -> Attempt:
    """Give the attempt that carries out a decision."""
    candidate = decision.candidate
    return Attempt(
        id=new_id(),
        incident_id=claimed.incident.id,
        decision_id=decision.id,
        number=1,
        action=candidate.action,
        target=candidate.target,
        service=claimed.incident.service,
        params=candidate.params,
        idempotency_key=new_id(),
        fence=claimed.incident.fence,
        started_at=now,
    )


def settings_for(folder: Path, *, tokens: bool, autonomy: str) -> Settings:
    """Give a configuration with a store in `folder`."""
    named = [
        {"name": name, "role": role, "secret": f"env:{name.upper()}"} for name, (role, _) in TOKENS.items()
    ]
    return Settings.model_validate(
        {
            "store": {"url": f"sqlite:///{folder}/scene.db"},
            "server": {"tokens": named if tokens else []},
            "autonomy": {"default": autonomy},
        }
    )


@asynccontextmanager
async def scene(folder: Path, *, tokens: bool = False, autonomy: str = "approve") -> AsyncIterator[Scene]:
    """Serve a dashboard on a free port of loopback until the block ends."""
    settings, clock = settings_for(folder, tokens=tokens, autonomy=autonomy), FakeClock()
    store = await Store.open(settings.store, clock=clock)

    async def explained(incident_id: str) -> dict[str, Any]:
        stored = await store.decision(incident_id)
        assert stored is not None
        found = explain.recompute(stored.decision, stored.context, LinearThompson(settings.policy))
        return {"equal": found.equal, "differences": list(found.differences)}

    parts = Parts(
        settings=settings,
        store=store,
        placement=Placement(settings, ()),
        clock=clock,
        metrics=Metrics(),
        actions=lambda: ACTIONS,
        backends=lambda: BACKENDS,
        readiness=lambda: SimpleNamespace(
            ok=True, parts={"store": "ok", "backend:app": "connection refused"}
        ),
        explain=explained,
        policy=dict,
        secrets=lambda reference: Secret(TOKENS[reference.partition(":")[2].lower()][1]),
    )
    server = TestServer(build(parts), host="127.0.0.1")
    await server.start_server()
    found = Scene(store, clock, settings, parts, server)
    try:
        yield found
    finally:
        await found.server.close()
        await store.close()
