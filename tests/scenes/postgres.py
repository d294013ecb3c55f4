"""A database of the PostgreSQL that may be made sick, with the least-privilege role and an application's role."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from actions.postgres_system import PostgreSQLSystem
from oncall_agent.contract import ActionContext, Drill, Executor, SystemClock, SystemContext, Target, Trial
from oncall_agent.testing import RecordingLog, context_for

PASSWORD = "least-Pr1vilege-pw"
APP_PASSWORD = "app-Pa55"
ACTIONS = tuple(
    f"postgres.{verb}"
    for verb in (
        "cancel_query",
        "terminate_backend",
        "reap_idle",
        "vacuum_analyze",
        "set_param",
        "drop_inactive_slot",
    )
)
PARAMETERS = {
    "work_mem": {"minimum": 1024, "maximum": 65536},
    "maintenance_work_mem": {"minimum": 1024, "maximum": 1048576},
    "log_lock_waits": {"values": ["on", "off"]},
    "max_connections": {"minimum": 10, "maximum": 100},
}
FAST = {"hold_seconds": 0.2, "within_seconds": 2.0}


@dataclass
class World:
    """One database and the two roles; the agent's role has exactly the generated grants."""

    host: str
    port: int
    database: str
    agent: str
    app: str
    admin: asyncpg.Connection
    admin_url: str
    opened: list[asyncpg.Connection] = field(default_factory=list)
    running: list[asyncio.Task[Any]] = field(default_factory=list)

    def settings(self, **changes: Any) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "user": self.agent,
            "password": "env:TEST_POSTGRES_AGENT",
            "database": self.database,
            "tls": "disable",
            "parameters": PARAMETERS,
            "table_owners": [self.app],
            **changes,
        }

    def sandbox(self, **changes: Any) -> dict[str, Any]:
        """The application's role, for drills."""
        own = {"host": self.host, "port": self.port, "database": self.database}
        return {**own, "user": self.app, "password": "env:TEST_POSTGRES_APP", **changes}

    @property
    def target(self) -> Target:
        return Target("shop-db", "postgres_database", address={"database": self.database})

    def attempt(
        self,
        kind: type[Executor],
        *,
        key: str = "",
        seconds: float = 30.0,
        dry_run: bool = False,
        **params: Any,
    ) -> ActionContext:
        return context_for(
            kind.spec.params.model_validate({**FAST, **params}),
            self.target,
            clock=SystemClock(),
            seconds=seconds,
            key=key,
            dry_run=dry_run,
        )

    def elsewhere(self, database: str, kind: type[Executor]) -> ActionContext:
        """An attempt on another database."""
        target = Target("other", "postgres_database", address={"database": database})
        return context_for(kind.spec.params(), target, clock=SystemClock())

    def drilling(self, seconds: float = 20.0) -> SystemContext:
        clock = SystemClock()
        return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds)

    @asynccontextmanager
    async def drill(self, kind: type[Drill], **sandbox: Any) -> AsyncIterator[tuple[Drill, Trial]]:
        """The fault of a drill, made and removed with the application's role."""
        drill = kind(self.settings(), self.sandbox(**sandbox))
        try:
            trial = await drill.prepare(self.drilling())
            assert (await drill.symptom(self.drilling(), trial)).ok
            await drill.inject(self.drilling(), trial)
            assert not (await drill.symptom(self.drilling(), trial)).ok
            yield drill, trial
        finally:
            await drill.clean_up(self.drilling())

    def on(self, trial: Trial, kind: type[Executor], **changes: Any) -> ActionContext:
        """An attempt on a drill's trial."""
        clock = SystemClock()
        params = kind.spec.params.model_validate({**FAST, **trial.params, **changes})
        return context_for(params, trial.target, clock=clock, seconds=30.0)

    async def session(
        self, *statements: str, application: str = "shop", user: str = ""
    ) -> asyncpg.Connection:
        """A connection of the application."""
        connection = await asyncpg.connect(
            host=self.host,
            port=self.port,
            database=self.database,
            user=user or self.app,
            password=APP_PASSWORD,
            ssl=False,
            server_settings={"application_name": application},
        )
        self.opened.append(connection)
        for statement in statements:
            await connection.execute(statement)
        return connection

    async def busy(self, statement: str, **options: Any) -> asyncio.Task[Any]:
        """A connection that is busy with a statement; the task ends as the statement does."""
        connection = await self.session(**options)
        running = asyncio.create_task(connection.execute(statement))
        self.running.append(running)
        await self.aged("active", "pid = $1", connection.get_server_pid())
        return running

    async def aged(self, state: str, condition: str = "true", *values: Any, count: int = 1) -> None:
        """Wait until so many sessions have been in a state for longer than the tests' `min_seconds`."""
        old = f"state = '{state}' AND clock_timestamp() - state_change > '0.3 s' AND datname = current_database()"

        async def is_so() -> bool:
            return await self.count(f"{old} AND {condition}", *values) >= count

        await self.until(is_so)

    async def count(self, condition: str, *values: Any) -> int:
        text = f"SELECT count(*) FROM pg_stat_activity WHERE {condition} AND pid <> pg_backend_pid()"
        return int(await self.admin.fetchval(text, *values))

    async def until(self, condition: Callable[[], Awaitable[Any]], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.01)

    async def reconnect(self) -> None:
        """Get the administrator's connection back after the server started over."""
        self.admin.terminate()
        self.admin = await asyncpg.connect(self.admin_url, database=self.database, ssl=False)

    async def close(self) -> None:
        for running in self.running:
            running.cancel()
        for connection in self.opened:
            connection.terminate()
        # The server goes on with what nobody waits for, and holds its locks.
        for role in (self.app, self.agent):
            end = "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE usename = $1"
            await self.admin.execute(end.replace("$1", f"'{role}'"))
        await asyncio.gather(*self.running, return_exceptions=True)


@asynccontextmanager
async def world(admin_url: str, database: str, monkeypatch: Any) -> AsyncIterator[World]:
    """Make the two roles in a database, and remove them."""
    monkeypatch.setenv("TEST_POSTGRES_AGENT", PASSWORD)
    monkeypatch.setenv("TEST_POSTGRES_APP", APP_PASSWORD)
    parts, mark = urlsplit(admin_url), uuid.uuid4().hex[:8]
    limits = {"lock_timeout": "5000", "statement_timeout": "10000"}
    admin = await asyncpg.connect(admin_url, database=database, ssl=False, server_settings=limits)
    host, port = str(parts.hostname), int(parts.port or 0)
    made = World(host, port, database, f"agent_{mark}", f"app_{mark}", admin, admin_url)
    try:
        await admin.execute(f"CREATE ROLE {made.app} LOGIN PASSWORD '{APP_PASSWORD}' REPLICATION")
        await admin.execute(f"GRANT ALL ON SCHEMA public TO {made.app}")
        await grant(made, ACTIONS)
        yield made
    finally:
        await made.close()
        for role in (made.agent, made.app):
            if await made.admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
                await drop(made, role)
        await made.admin.close()


@asynccontextmanager
async def alone(admin_url: str) -> AsyncIterator[None]:
    """Nobody else changes what all databases share: two grants at once make the server give up one."""
    connection = await asyncpg.connect(admin_url, ssl=False)
    try:
        await connection.execute("SELECT pg_advisory_lock(4711)")
        yield
    finally:
        await connection.close()


async def drop(made: World, role: str) -> None:
    """Remove a role and all that it was granted."""
    async with alone(made.admin_url):
        await made.admin.execute(f"DROP OWNED BY {role} CASCADE")
        await made.admin.execute(f"DROP ROLE {role}")


async def grant(made: World, actions: tuple[str, ...]) -> None:
    """Create the agent's role exactly as `actions can-i --grants` says."""
    text = PostgreSQLSystem(made.settings()).grants(actions).text
    async with alone(made.admin_url):
        await made.admin.execute(text.replace("oncall_agent", made.agent).replace("<password>", PASSWORD))
