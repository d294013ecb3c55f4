"""A tiny world for whole-daemon tests: lamps that go out, an executor that lights them, a prober that looks."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import yaml

from oncall_agent import registry
from oncall_agent.contract import (
    ActionSpec,
    Check,
    Executor,
    Prober,
    Reading,
    Receipt,
    RiskClass,
    Signals,
)
from oncall_agent.daemon import Daemon
from oncall_agent.settings.load import load


@dataclass
class World:
    """Which lamps are lit, and what was done to them."""

    lit: dict[str, bool] = field(default_factory=dict)
    effects: list[tuple[str, str, str]] = field(default_factory=list)
    works: set[str] = field(default_factory=lambda: {"lamp.light", "lamp.replace"})
    blind: bool = False
    hold: asyncio.Event | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)


WORLD = World()


class Light(Executor):
    """Lights the lamp; its undo puts it out."""

    spec = ActionSpec(
        id="lamp.light",
        summary="Light the lamp.",
        target_kind="lamp",
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=10.0,
        cooldown_seconds=0.0,
    )

    async def precheck(self, ctx: Any) -> Check:
        return Check(ok=True, facts={"was": WORLD.lit[ctx.target.name]})

    async def execute(self, ctx: Any) -> Receipt:
        WORLD.effects.append((self.spec.id, ctx.target.name, ctx.idempotency_key))
        WORLD.reached.set()
        if WORLD.hold is not None:
            await WORLD.hold.wait()
        if self.spec.id in WORLD.works:
            WORLD.lit[ctx.target.name] = True
        return Receipt(self.spec.id, ctx.clock.now(), {"was": False})

    async def verify(self, ctx: Any, receipt: Receipt) -> Check:
        lit = WORLD.lit[ctx.target.name]
        return Check(ok=lit, reason="lit" if lit else "dark")

    async def rollback(self, ctx: Any, receipt: Receipt) -> Check:
        WORLD.effects.append(("undo", ctx.target.name, ctx.idempotency_key))
        WORLD.lit[ctx.target.name] = bool(receipt.facts.get("was"))
        return Check(ok=True)


class Replace(Light):
    """Replaces the lamp: nothing brings the old one back."""

    spec = ActionSpec(
        id="lamp.replace",
        summary="Replace the lamp.",
        target_kind="lamp",
        risk=RiskClass.R3,
        reversible=False,
        irreversible_reason="the old lamp is gone",
        deadline_seconds=10.0,
        cooldown_seconds=0.0,
    )


class LampProber(Prober):
    """Looks at the lamp."""

    kind: ClassVar[str] = "lamp"

    async def read(self, target: Any, params: Any, **_: Any) -> Reading:
        if WORLD.blind:
            from oncall_agent.errors import TransientError

            raise TransientError("fog")
        return Reading(Signals(up=WORLD.lit[target.name]), {"lit": WORLD.lit[target.name]})


def plugins() -> registry.Plugins:
    installed = registry.find()
    return registry.Plugins(
        actions={
            "lamp.light": Light,
            "lamp.replace": Replace,
            **{name: installed.actions[name] for name in ("escalate.page", "watch.wait")},
        },
        probers={"lamp": LampProber},
        off={},
    )


RUNBOOK = {
    "name": "lamp-out",
    "class": "dark",
    "match": {"alertname": "LampOut"},
    "candidates": [{"action": "lamp.light", "prior": 1.0}],
}


def configuration(folder: Path, **groups: Any) -> dict[str, Any]:
    """Give a whole configuration with three lamps; a group that is given replaces the one here."""
    base: dict[str, Any] = {
        "server": {"port": 0},
        "store": {"url": f"sqlite:///{folder / 'lamp.db'}"},
        "autonomy": {"default": "auto"},
        "policy": {"noise_scale": 0.01},
        "workers": {"retry_delay_seconds": 0, "drain_seconds": 5},
        "backends": {"escalate": {"file": str(folder / "pages.jsonl")}},
        "targets": [
            {
                "name": name,
                "kind": "lamp",
                "service": name,
                "settle_seconds": 0,
                "settle_interval_seconds": 0.01,
                "probes": [{"kind": "lamp"}],
            }
            for name in ("hall", "stairs", "cellar")
        ],
    }
    return {**base, **groups}


def write(folder: Path, runbooks: list[dict[str, Any]] | None = None, **groups: Any) -> Path:
    (folder / "runbooks").mkdir(exist_ok=True)
    (folder / "runbooks" / "lamp.yaml").write_text(yaml.safe_dump(runbooks or [RUNBOOK]))
    file = folder / "oncall-agent.yaml"
    file.write_text(yaml.safe_dump(configuration(folder, **groups)))
    return file


class House:
    """A running daemon over the lamps, spoken to over HTTP as anybody would."""

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession) -> None:
        self.daemon, self.session = daemon, session
        self.world = WORLD

    async def post(self, path: str, body: Any, token: str = "") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.session.post(self.daemon.address + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, token: str = "") -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.session.get(self.daemon.address + path, headers=headers) as answer:
            return await answer.json()

    async def fire(self, lamp: str, *, number: int = 1, status: str = "firing", name: str = "LampOut") -> Any:
        code, told = await self.post(
            "/webhooks/alertmanager", body(lamp, number=number, status=status, name=name)
        )
        assert code == 202, told
        return told["alerts"][0]

    async def ended(self, incident_id: str, state: str, token: str = "") -> dict[str, Any]:
        """Wait until the incident is in a state; gives its whole story."""
        for _ in range(1500):
            detail = await self.get(f"/api/v1/incidents/{incident_id}", token)
            if detail["incident"]["state"] == state:
                return detail
            await asyncio.sleep(0.005)
        raise AssertionError(f"never {state}: {detail['incident']}, {detail['timeline']}")

    def pages(self) -> str:
        file = Path(self.daemon.settings.backends["escalate"]["file"])
        return file.read_text() if file.exists() else ""


def body(lamp: str, *, number: int = 1, status: str = "firing", name: str = "LampOut") -> dict[str, Any]:
    alert = {
        "status": status,
        "labels": {"alertname": name, "service": lamp, "severity": "critical"},
        "annotations": {"summary": f"{lamp} is dark"},
        "startsAt": f"2026-11-21T07:15:{number:02d}.883Z",
        "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else f"2026-11-21T07:16:{number:02d}Z",
        "generatorURL": "",
        "fingerprint": f"{lamp}-{name}",
    }
    return {"version": "4", "status": status, "receiver": "t", "groupKey": "{}", "alerts": [alert]}


@asynccontextmanager
async def house(folder: Path, runbooks: list[dict[str, Any]] | None = None, **groups: Any):
    """Run a daemon over dark lamps."""
    file = write(folder, runbooks, **groups)
    async with Daemon(load(file, {}), plugins=plugins()) as daemon, aiohttp.ClientSession() as session:
        yield House(daemon, session)


def fresh_world() -> World:
    """Put all lamps out and forget what was done."""
    new = World(lit=dict.fromkeys(("hall", "stairs", "cellar"), False))
    WORLD.__dict__.update(new.__dict__)
    return WORLD
