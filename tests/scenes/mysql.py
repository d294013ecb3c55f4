"""A database of a MariaDB or MySQL that may be made sick, with the least-privilege account and an application's."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pymysql
from backends.mariadb_server import Connection, Way

from actions.mysql_system import MySQLSystem
from oncall_agent.contract import (
    ActionContext,
    Check,
    Drill,
    Executor,
    Receipt,
    SystemClock,
    SystemContext,
    Target,
    Trial,
)
from oncall_agent.testing import RecordingLog, context_for
from oncall_agent.testing.harness import run_in_thread

PASSWORD = "least-Pr1vilege-pw"
APP_PASSWORD = "app-Pa55"
ACTIONS = tuple(
    f"mysql.{verb}"
    for verb in (
        "kill_query",
        "kill_connections",
        "kill_lock_blocker",
        "restart_replica",
        "set_global",
        "purge_binlogs",
    )
)
VARIABLES = {
    "max_connections": {"minimum": 50, "maximum": 500},
    "connect_timeout": {"minimum": 5, "maximum": 60},
    "max_connect_errors": {"minimum": 10, "maximum": 10_000},
    "slow_launch_time": {"minimum": 1, "maximum": 60},
    "sync_binlog": {"minimum": 0, "maximum": 1000},
}
FAST = {"hold_seconds": 0.2, "within_seconds": 5.0}
SLEEP = "SELECT SLEEP(600)"


@dataclass
class World:
    """One database and the two accounts; the agent's account has exactly the generated grants."""

    product: str
    way: Way
    replica: Way | None
    database: str
    agent: str
    app: str
    opened: list[Any] = field(default_factory=list)

    def settings(self, **changes: Any) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.way.port,
            "user": self.agent,
            "password": "env:TEST_MYSQL_AGENT",
            "product": self.product,
            "variables": VARIABLES,
            **changes,
        }

    def sandbox(self, **changes: Any) -> dict[str, Any]:
        """The application's account, for drills."""
        own = {"host": "127.0.0.1", "port": self.way.port, "database": self.database}
        return {**own, "user": self.app, "password": "env:TEST_MYSQL_APP", **changes}

    @property
    def target(self) -> Target:
        return Target("shop-db", "mysql_server", address={})

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
            run_blocking=run_in_thread,
        )

    def drilling(self, seconds: float = 20.0) -> SystemContext:
        clock = SystemClock()
        return SystemContext(clock, RecordingLog(), clock.monotonic() + seconds, run_in_thread)

    @asynccontextmanager
    async def drill(self, kind: type[Drill], **sandbox: Any) -> AsyncIterator[tuple[Drill, Trial]]:
        """The fault of a drill, made and removed with the application's account."""
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
        params = kind.spec.params.model_validate({**FAST, **trial.params, **changes})
        return context_for(
            params, trial.target, clock=SystemClock(), seconds=30.0, run_blocking=run_in_thread
        )

    def session(self, *statements: str, user: str = "", password: str = APP_PASSWORD) -> Any:
        """A connection of the application."""
        connection = Connection(
            host="127.0.0.1",
            port=self.way.port,
            user=user or self.app,
            password=password,
            database=self.database,
            autocommit=True,
            connect_timeout=10,
            read_timeout=20,
        )
        self.opened.append(connection)
        for statement in statements:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        return connection

    def busy(self, statement: str, **options: Any) -> Busy:
        """A connection that is busy with a statement."""
        running = Busy(self.session(**options), statement)
        self.until(lambda: self.shown(f"ID = {running.id} AND COMMAND = 'Query' AND INFO <> ''"))
        return running

    def shown(self, condition: str) -> list[dict[str, Any]]:
        """The server's threads, as the administrator sees them."""
        view = "information_schema" if self.product == "mariadb" else "performance_schema"
        return self.way.ask(f"SELECT * FROM {view}.processlist WHERE {condition}")

    def until(self, condition: Callable[[], Any], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come about in time"
            time.sleep(0.01)

    def age(self, seconds: float = 0.3) -> None:
        """Let what is there grow older than the tests' `min_seconds`; MySQL counts idle time in whole seconds."""
        began = time.monotonic()
        self.until(lambda: time.monotonic() - began > (seconds if self.product == "mariadb" else 1.1))

    def close(self) -> None:
        # The server goes on with what nobody waits for, and holds its locks.
        for row in self.shown(f"USER IN ('{self.app}', '{self.agent}')"):
            with suppress(pymysql.MySQLError):
                self.way.ask(f"KILL CONNECTION {row['ID']}")
        for connection in self.opened:
            with suppress(pymysql.MySQLError, OSError):
                connection._force_close()


class Busy:
    """A statement that runs in a thread; how it ended."""

    def __init__(self, connection: Any, statement: str) -> None:
        self.id = connection.thread_id()
        self.code = 0
        self._thread = threading.Thread(target=self._run, args=(connection, statement), daemon=True)
        self._thread.start()

    def _run(self, connection: Any, statement: str) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        except pymysql.MySQLError as error:
            self.code = int(error.args[0])
        except (OSError, AttributeError, ValueError):
            self.code = -1

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def ended(self) -> int:
        """Wait for its end; the error's number."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.code


@contextmanager
def world(
    product: str, way: Way, monkeypatch: Any, *, replica: Way | None = None, variables: bool = True
) -> Iterator[World]:
    """Make a database and the two accounts, and remove them."""
    monkeypatch.setenv("TEST_MYSQL_AGENT", PASSWORD)
    monkeypatch.setenv("TEST_MYSQL_APP", APP_PASSWORD)
    mark = uuid.uuid4().hex[:8]
    made = World(product, way, replica, f"test_{mark}", f"agent_{mark}", f"app_{mark}")
    try:
        way.ask(
            f"CREATE DATABASE {made.database}",
            f"CREATE USER {made.app}@'%' IDENTIFIED BY '{APP_PASSWORD}'",
            f"GRANT ALL ON {made.database}.* TO {made.app}@'%'",
        )
        grant(made, ACTIONS)
        yield made
    finally:
        made.close()
        way.ask(
            f"DROP USER IF EXISTS {made.agent}@'%', {made.app}@'%'",
            f"DROP DATABASE IF EXISTS {made.database}",
        )


def grant(made: World, actions: tuple[str, ...]) -> None:
    """Create the agent's account exactly as `actions can-i --grants` says."""
    text = MySQLSystem(made.settings()).grants(actions).text
    text = text.replace("oncall_agent", made.agent).replace("<password>", PASSWORD)
    statements = "\n".join(line for line in text.splitlines() if not line.startswith("--")).split(";\n")
    made.way.ask(*(statement for statement in statements if statement.strip()))


async def healed(executor: Executor, ctx: ActionContext) -> Receipt:
    """Precheck, execute and verify have to succeed."""
    check = await executor.precheck(ctx)
    assert check.ok, check
    receipt = await executor.execute(ctx)
    verified = await executor.verify(ctx, receipt)
    assert verified.ok, verified
    return receipt


async def refusal(executor: Executor, ctx: ActionContext) -> str:
    """The precheck's reason to refuse."""
    check: Check = await executor.precheck(ctx)
    assert not check.ok
    return check.reason


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """A blocking step of a test, beside what the executor does."""
    return await asyncio.to_thread(function, *args)
