"""The composition root: puts one daemon together, starts it, and takes it down in order.

Embeddable: `async with Daemon(loaded) as daemon:` serves until the block ends; port 0 for tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientSession, ClientTimeout, web

from oncall_agent import __version__, sdnotify
from oncall_agent.contract import SCORECARD, ActionSpec, Clock, SystemClock
from oncall_agent.contract.secret import resolve
from oncall_agent.errors import ConfigError, PolicyError
from oncall_agent.loops import every, keep_alive
from oncall_agent.notify import Notifier
from oncall_agent.pipeline import Services
from oncall_agent.pipeline.bundling import Bundling
from oncall_agent.policy.base import Policy
from oncall_agent.policy.linear import LinearThompson
from oncall_agent.pools import Pools
from oncall_agent.probes import Probes
from oncall_agent.registry import Plugins, Registry, find
from oncall_agent.rules.placement import Placement
from oncall_agent.rules.runbooks import ESCALATE
from oncall_agent.service import ActionService, policy_of
from oncall_agent.settings.load import Loaded
from oncall_agent.store import Store, new_id
from oncall_agent.telemetry import log as logging
from oncall_agent.telemetry.metrics import Metrics
from oncall_agent.web.app import build
from oncall_agent.web.front import Front
from oncall_agent.web.parts import Parts

_SHUTDOWN_SECONDS = 2.0


class Daemon:
    """One running first responder."""

    def __init__(self, loaded: Loaded, *, clock: Clock | None = None, plugins: Plugins | None = None) -> None:
        self.loaded, self.settings = loaded, loaded.settings
        self.clock = clock or SystemClock()
        self.metrics = Metrics()
        self.log = logging.logger()
        self.port = 0
        self._plugins = plugins or find(loaded.systems)
        self._stack = AsyncExitStack()
        self._loops: list[asyncio.Task[None]] = []
        self._committed = -1

    @property
    def address(self) -> str:
        """Where the HTTP side listens."""
        host = self.settings.server.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop("closed" if error is None else type(error).__name__)

    async def _start(self) -> None:
        settings = self.settings
        for name, reason in self._plugins.off.items():
            self.log.warning("plugin.refused", plugin=name, reason=reason)
        self.store = await Store.open(
            settings.store,
            clock=self.clock,
            flap=settings.guard.flapping,
            grouping=settings.grouping,
            rate_window_seconds=settings.guard.rate_window_seconds,
        )
        self._stack.push_async_callback(self.store.close)
        if settings.store.url.startswith("sqlite"):
            # An embedded database has one owner: whoever held leases is dead.
            await self.store.release_all(self.clock.now())
        self.registry = await self._stack.enter_async_context(Registry(self._plugins, settings.backends))
        self.services = await self._services()
        notifier = Notifier(
            lambda: self.registry.executors.get(ESCALATE),
            pools=self.services.pools,
            clock=self.clock,
            log=self.log,
        )
        self.service = ActionService(self.services, notifier, worker=f"{socket.gethostname()}:{os.getpid()}")
        self.service.start()
        await self._serve()
        self._spawn_watchers()
        self.log.info(
            "daemon.started",
            version=__version__,
            host=settings.server.host,
            port=self.port,
            autonomy=settings.autonomy.default.value,
            actions=sorted(self.registry.executors),
            store=settings.store.url.partition("://")[0],
        )
        sdnotify.notify("READY=1", f"STATUS=serving on {self.address}")

    async def _services(self) -> Services:
        pools = Pools(self.settings.workers.blocking_threads)
        probes = Probes(self.registry.probers, pools=pools, clock=self.clock, weights=self.settings.health)
        return Services(
            settings=self.settings,
            targets=self.loaded.targets,
            runbooks=self.loaded.runbooks,
            store=self.store,
            registry=self.registry,
            pools=pools,
            probes=probes,
            policy=await self._restored_policy(),
            bundling=Bundling(self.settings.paging.per_minute),
            clock=self.clock,
            metrics=self.metrics,
            log=self.log,
            new_id=new_id,
        )

    async def _restored_policy(self) -> Policy:
        blob, updates = await self.store.load_policy()
        settings = self.settings.policy
        try:
            return policy_of(LinearThompson, blob, updates, settings)
        except PolicyError as error:
            # What was learned can't be read (another features schema, say): the runbooks' own order still can.
            self.log.warning(
                "config.warned", reason=f"starting from the runbooks, the stored policy is off: {error}"
            )
            fresh = LinearThompson(settings, version=await self.store.policy_version())
            await self.store.save_checkpoint(fresh.version, fresh.snapshot(), self.clock.now())
            return fresh

    async def _serve(self) -> None:
        server = self.settings.server
        parts = Parts(
            settings=self.settings,
            store=self.store,
            placement=Placement(self.settings, self.loaded.runbooks),
            clock=self.clock,
            metrics=self.metrics,
            actions=self._actions,
            backends=self._backends,
            readiness=self.service.readiness,
            explain=self.service.explain,
            policy=self._policy,
        )
        runner = web.AppRunner(build(parts), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        try:
            front = await Front.open(runner, server.host, server.port)
        except OSError as error:
            reason = f"can't listen on {server.host}:{server.port}: {error.strerror or error}"
            raise ConfigError(reason, file=str(self.loaded.path), key="server.port") from error
        self._stack.push_async_callback(front.close, _SHUTDOWN_SECONDS)
        self.port = front.port

    def _spawn_watchers(self) -> None:
        period = sdnotify.watchdog_seconds()
        if period is not None:
            self._spawn("watchdog", period / 3, self._pat)
        if self.settings.telemetry.deadman_url is not None:
            self._spawn("deadman", self.settings.telemetry.deadman_interval_seconds, self._beat)

    def _spawn(self, name: str, seconds: float, action: Any) -> None:
        step = every(seconds, action, self.clock)
        guarded = keep_alive(name, step, clock=self.clock, metrics=self.metrics, log=self.log)
        self._loops.append(asyncio.create_task(guarded, name=f"loop-{name}"))

    async def _pat(self) -> None:
        """Tell systemd that the daemon lives, only while the writer moves: a hung store must not look alive."""
        stats = await self.store.stats()
        moves = stats.waiting == 0 or bool(stats.failing_for) or stats.committed != self._committed
        self._committed = stats.committed
        if moves and self.service.readiness().parts["workers"] in ("ok", "stopping"):
            sdnotify.notify("WATCHDOG=1")

    async def _beat(self) -> None:
        """Call the dead-man address while everything works, so that its owner alarms when we fall silent."""
        url = self.settings.telemetry.deadman_url
        if url is None or not self.service.readiness().ok:
            return
        async with (
            ClientSession(timeout=ClientTimeout(total=10)) as session,
            session.get(resolve(url).reveal(), allow_redirects=False) as answer,
        ):
            if answer.status >= 400:  # noqa: PLR2004 - HTTP errors start there
                self.log.warning("heartbeat.failed", error=f"status {answer.status}")

    async def stop(self, reason: str) -> None:
        """Stop claiming, finish what runs, close in the reverse order of opening. Safe to call twice."""
        if not hasattr(self, "service") or getattr(self, "_stopped", False):
            await self._stack.aclose()
            return
        self._stopped = True
        sdnotify.notify("STOPPING=1", f"STATUS={reason}")
        self.log.info("daemon.stopping", reason=reason)
        unfinished = await self.service.stop(self.settings.workers.drain_seconds)
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._stack.aclose()
        self.log.info("daemon.stopped", unfinished=unfinished)

    # --- what the web shows -----------------------------------------------------------------------------------

    def _actions(self) -> list[dict[str, Any]]:
        off = [
            {"id": name, "off": reason}
            for name, reason in sorted(self.registry.off.items())
            if not name.startswith(("probe:", "system:"))
        ]
        return [describe(kind.spec) for _, kind in sorted(self._plugins.actions.items())] + off

    def _backends(self) -> list[dict[str, Any]]:
        now = self.clock.now()
        return [
            {
                "system": backend.system,
                "actions": backend.actions,
                "ok": backend.ok,
                "reason": backend.reason,
                "breaker": backend.breaker.state(now).value,
                "checked_at": backend.checked_at,
            }
            for _, backend in sorted(self.registry.backends.items())
        ]

    def _policy(self) -> dict[str, Any]:
        policy = self.services.policy
        return {"name": policy.name, "version": policy.version, "stage": "active", "modes": {"balanced": 1.0}}


def describe(spec: ActionSpec) -> dict[str, Any]:
    """Tell an action's declaration and its scorecard in JSON-safe form."""
    return {
        "id": spec.id,
        "summary": spec.summary,
        "target_kind": spec.target_kind,
        "risk": spec.risk.value,
        "reversible": spec.reversible,
        "irreversible_reason": spec.irreversible_reason,
        "blast_radius": spec.blast_radius,
        "cooldown_seconds": spec.cooldown_seconds,
        "deadline_seconds": spec.deadline_seconds,
        "family": spec.family,
        "read_only": spec.read_only,
        "params": spec.params.model_json_schema(),
        "scorecard": {rule: spec.exemptions.get(rule, "done") for rule in SCORECARD},
        "unproven": spec.unproven,
    }


async def serve(loaded: Loaded) -> None:
    """Run a daemon until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    reasons: list[str] = []
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        reasons.append(number.name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    async with Daemon(loaded) as daemon:
        await stopping.wait()
        await daemon.stop(reasons[0])


def run(loaded: Loaded) -> None:
    """Run a daemon in this process on uvloop, with its log on standard output."""
    import uvloop  # noqa: PLC0415 - not for the verbs that only read

    # Shorter turns between the writer thread and the event loop keep the tail of the latency short.
    sys.setswitchinterval(0.001)
    sink = logging.configure(loaded.settings.telemetry.level)
    try:
        uvloop.run(serve(loaded))
    finally:
        sink.close()
