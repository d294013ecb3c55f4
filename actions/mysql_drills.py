"""Faults made on purpose in MySQL and MariaDB: connections of the drill's own, and a table of its own."""

from __future__ import annotations

from collections.abc import Sequence

from actions.mysql_client import Conversation
from actions.mysql_connections import capacity_of
from actions.mysql_sandbox import POLL_SECONDS, YOUNG_SECONDS, MySQLDrill
from actions.mysql_variables import is_value, set_variable, variable_of
from oncall_agent.contract import Check, Drill, DrillSpec, PermanentError, SystemContext, Trial
from oncall_agent.models import JsonObject

_MAX_CONNECTIONS = 500
_SLEEP = "SELECT SLEEP(600)"


class RunawayQuery(MySQLDrill):
    """A query that does not end."""

    spec = DrillSpec(
        id="mysql.runaway_query",
        action="mysql.kill_query",
        scenario="database_timeout_recovery",
        summary="A query of the drill's own connection that sleeps for ten minutes.",
    )

    def params(self) -> JsonObject:
        """Only the query with the drill's mark in it."""
        return {"min_seconds": YOUNG_SECONDS, "hold_seconds": 0.5, "query_contains": self.mark, "max_n": 1}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Start it."""
        await self.busy(ctx, f"{_SLEEP} /* {self.mark} */")
        await self.until_sick(ctx, trial)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether it runs."""
        runs = any(self.mark in one.query and not one.is_idle for one in await self.found(ctx))
        return self.check("the query runs" if runs else "")


class LockBlocker(MySQLDrill):
    """A transaction that holds a row while another connection waits for it."""

    spec = DrillSpec(
        id="mysql.lock_blocker",
        action="mysql.kill_lock_blocker",
        scenario="database_timeout_recovery",
        summary="Two connections of the drill's own and a table of its own: one sits on the row that the other wants.",
        sandbox="named",
        sandbox_keys=("database",),
    )

    @property
    def table(self) -> str:
        """The drill's own table."""
        return f"`{self.sandbox['database']}`.`{self.mark}`"

    def params(self) -> JsonObject:
        """Only the drill's own table."""
        database = str(self.sandbox["database"])
        young = {"min_seconds": YOUNG_SECONDS, "hold_seconds": 0.5}
        return {**young, "database": database, "table": self.mark, "max_n": 1}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Take the row and let another connection wait for it."""
        made = (
            f"CREATE TABLE {self.table} (n INT PRIMARY KEY) ENGINE=InnoDB",
            f"INSERT INTO {self.table} VALUES (1)",
        )
        await self.ask(ctx, *made)
        taken = f"SELECT n FROM {self.table} WHERE n = 1 FOR UPDATE"
        await self.session(ctx, "BEGIN", taken)
        await self.busy(ctx, taken, "SET SESSION innodb_lock_wait_timeout = 600")
        await self.until_sick(ctx, trial)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether a connection waits."""
        waits = [one for one in await self.found(ctx) if self.mark in one.query and not one.is_idle]
        return self.check("a connection waits for a row" if waits else "")

    async def clean_up(self, ctx: SystemContext) -> None:
        """Remove the table."""
        await super().clean_up(ctx)
        if "database" in self.sandbox:
            await self.ask(ctx, f"DROP TABLE IF EXISTS {self.table}")


class ConnectionExhaustion(MySQLDrill):
    """A pool that takes every connection."""

    spec = DrillSpec(
        id="mysql.connection_exhaustion",
        action="mysql.kill_connections",
        scenario="connection_exhaustion",
        summary="Idle connections until nine tenths of max_connections are taken: a server and a user of your choice.",
        sandbox="named",
        sandbox_keys=("host", "port", "user", "password"),
    )

    def params(self) -> JsonObject:
        """End this user's connections down to seven tenths."""
        shares = {"full_share": 0.85, "target_share": 0.7, "min_idle": 0, "max_n": 100}
        users = (str(self.sandbox["user"]),)
        return {"min_seconds": YOUNG_SECONDS, "hold_seconds": 0.5, "users": users, **shares}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Open connections until it is full."""
        for _ in range(_MAX_CONNECTIONS):
            await self.session(ctx)
            if not (await self.symptom(ctx, trial)).ok:
                await self.until_sick(ctx, trial)
                return
        raise PermanentError(
            f"the sandbox takes more than {_MAX_CONNECTIONS} connections: too large for this drill"
        )

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether there is room."""
        used, allowed = await self.watch(ctx, capacity_of)
        is_full = used >= allowed * float(trial.params["full_share"])
        return self.check(f"{used} of {allowed} connections are taken" if is_full else "")


class WrongVariable(MySQLDrill):
    """A variable that somebody set badly."""

    spec = DrillSpec(
        id="mysql.wrong_variable",
        action="mysql.set_global",
        scenario="wrong_variable",
        summary="A global variable of your choice set to a bad value of your choice, on a server of your choice.",
        sandbox="named",
        sandbox_keys=("host", "port", "variable", "bad_value"),
    )

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._before: str | None = None

    def params(self) -> JsonObject:
        """Those of the trial are known only when the variable was read."""
        return {}

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Look up what it is now: to that the action has to bring it back."""
        trial = await super().prepare(ctx)
        name = str(self.sandbox["variable"])
        found = await self.watch(ctx, lambda db: variable_of(db, name))
        if found is None or is_value(found, self.sandbox["bad_value"]):
            raise PermanentError("name a variable that the server knows, and a bad_value that it has not")
        self._before = found.value
        value = float(found.value) if found.is_number else found.value
        return Trial(trial.target, {"name": name, "value": value})

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Set it badly."""
        await self._set(ctx, self.sandbox["bad_value"])
        while (await self.symptom(ctx, trial)).ok and ctx.seconds_left > 0:
            await ctx.clock.sleep(POLL_SECONDS)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether it is as it was."""
        name = str(trial.params["name"])
        found = await self.watch(ctx, lambda db: variable_of(db, name))
        is_well = found is not None and is_value(found, trial.params["value"])
        return self.check("" if is_well else f"{name} is set badly")

    async def clean_up(self, ctx: SystemContext) -> None:
        """Let it be what it was."""
        await super().clean_up(ctx)
        if self._before is not None:
            await self._set(ctx, self._before)

    async def _set(self, ctx: SystemContext, value: float | str) -> None:
        name = str(self.sandbox["variable"])

        def carry_out(db: Conversation) -> None:
            set_variable(db, name, value)

        await self.do(ctx, carry_out)


DRILLS: Sequence[type[Drill]] = (RunawayQuery, LockBlocker, ConnectionExhaustion, WrongVariable)
