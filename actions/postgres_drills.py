"""Faults made on purpose in PostgreSQL: sessions of the drill's own name, a table and a slot of its own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from actions.postgres_executor import CONNECTIONS
from actions.postgres_parameters import is_value, parameter_of, set_parameter
from actions.postgres_sandbox import MATCH, POLL_SECONDS, YOUNG_SECONDS, PostgresDrill
from oncall_agent.contract import Check, Drill, DrillSpec, PermanentError, SystemContext, Trial
from oncall_agent.models import JsonObject

_MAX_CONNECTIONS = 500
_ROWS = 2_000
_WAL_TURNS = 40


class RunawayQuery(PostgresDrill):
    """A query that does not end."""

    spec = DrillSpec(
        id="postgres.runaway_query",
        action="postgres.cancel_query",
        scenario="database_timeout_recovery",
        summary="A query of the drill's own session that sleeps for ten minutes.",
    )

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Start it."""
        await self.busy(ctx, "SELECT pg_sleep(600)")
        await self.until_sick(ctx)

    def complaint(self, found: JsonObject) -> str:
        """Say whether it still runs."""
        return "the query runs" if found["active"] else ""


class LockBlocker(PostgresDrill):
    """A transaction that holds a lock while another session waits for it."""

    spec = DrillSpec(
        id="postgres.lock_blocker",
        action="postgres.terminate_backend",
        scenario="database_timeout_recovery",
        summary="Two sessions of the drill's own: one sits on an advisory lock that the other waits for.",
    )

    def params(self) -> JsonObject:
        """Only the one that blocks."""
        return {**super().params(), "only_blockers": True}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Take the lock and let another session wait for it."""
        lock = f"SELECT pg_advisory_xact_lock({secrets.randbits(62)})"
        await self.session(ctx, "BEGIN", lock)
        await self.busy(ctx, lock)
        await self.until_sick(ctx)

    def complaint(self, found: JsonObject) -> str:
        """Say whether somebody waits."""
        return "a session waits for a lock" if found["waiting"] else ""


class IdleInTransaction(PostgresDrill):
    """A transaction that was begun and forgotten."""

    spec = DrillSpec(
        id="postgres.idle_in_transaction",
        action="postgres.terminate_backend",
        scenario="database_timeout_recovery",
        summary="A session of the drill's own that begins a transaction and then does nothing.",
    )

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Begin it."""
        await self.session(ctx, "BEGIN", "SELECT 1")
        await self.until_sick(ctx)

    def complaint(self, found: JsonObject) -> str:
        """Say whether it is open."""
        return "a transaction is idle" if found["idle_in_transaction"] else ""


class ConnectionExhaustion(PostgresDrill):
    """A pool that takes every connection."""

    spec = DrillSpec(
        id="postgres.connection_exhaustion",
        action="postgres.reap_idle",
        scenario="connection_exhaustion",
        summary="Idle sessions until nine tenths of the server's connections are taken: a server of your choice.",
        sandbox="named",
        sandbox_keys=("host", "port", "database"),
    )

    def params(self) -> JsonObject:
        """End the drill's own sessions down to seven tenths."""
        shares = {"full_share": 0.85, "target_share": 0.7}
        return {**MATCH, **shares, "applications": (self.name,), "min_idle": 0, "max_n": 100}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Open sessions until it is full."""
        for _ in range(_MAX_CONNECTIONS):
            await self.session(ctx)
            if (await self._share(ctx)) >= trial.params["full_share"]:
                await ctx.clock.sleep(YOUNG_SECONDS)
                return
        raise PermanentError(
            f"the sandbox takes more than {_MAX_CONNECTIONS} connections: too large for this drill"
        )

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether there is room."""
        share = await self._share(ctx)
        is_full = share >= trial.params["full_share"]
        return Check(ok=not is_full, reason=f"{share:.0%} of the connections are taken" if is_full else "")

    async def _share(self, ctx: SystemContext) -> float:
        found = await self.ask(ctx, CONNECTIONS)
        return float(found["used"] / found["allowed"])


class DeadTuples(PostgresDrill):
    """A table full of dead rows."""

    spec = DrillSpec(
        id="postgres.dead_tuples",
        action="postgres.vacuum_analyze",
        scenario="dead_tuples",
        summary="A table of the drill's own, all of whose rows are dead: in a database where the role may make one.",
        sandbox="named",
        sandbox_keys=("database",),
    )

    def params(self) -> JsonObject:
        """Vacuum the drill's own table at full speed."""
        return {"table": f"public.{self.name}", "min_dead_rows": _ROWS // 2, "cost_delay_ms": 0}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Fill the table and change every row; nobody else vacuums it meanwhile."""
        make = f"CREATE TABLE public.{self.name} (n int) WITH (autovacuum_enabled = false)"
        fill = f"INSERT INTO public.{self.name} SELECT generate_series(1, {_ROWS})"
        # What a session did is counted at the latest when it ends.
        await (await self.session(ctx, make, fill, f"UPDATE public.{self.name} SET n = n + 1")).close()
        while (await self.symptom(ctx, trial)).ok and ctx.seconds_left > 0:
            await ctx.clock.sleep(POLL_SECONDS)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Count the dead rows."""
        statement = "SELECT pg_stat_get_dead_tuples(to_regclass($1))::int AS dead"
        dead = (await self.ask(ctx, statement, trial.params["table"])).get("dead") or 0
        return Check(ok=dead < _ROWS // 2, reason="" if dead < _ROWS // 2 else f"{dead} dead rows")

    async def clean_up(self, ctx: SystemContext) -> None:
        """Remove the table."""
        await super().clean_up(ctx)
        await self.ask(ctx, f"DROP TABLE IF EXISTS public.{self.name}")


class InactiveSlot(PostgresDrill):
    """A replication slot that nobody reads and that holds back the log."""

    spec = DrillSpec(
        id="postgres.inactive_slot",
        action="postgres.drop_inactive_slot",
        scenario="inactive_slot",
        summary="A physical slot of the drill's own that holds back a few segments of the log.",
    )

    def params(self) -> JsonObject:
        """Drop the drill's own slot."""
        return {"slot": self.name, "min_seconds": 0, "min_bytes": 1, "within_seconds": 20}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Make the slot and write some log past it."""
        await self.ask(ctx, "SELECT pg_create_physical_replication_slot($1, true)", self.name)
        for _ in range(_WAL_TURNS):
            await self.ask(ctx, "SELECT pg_logical_emit_message(false, 'drill', repeat('x', 65536))")

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether the slot is there."""
        statement = "SELECT count(*)::int AS n FROM pg_replication_slots WHERE slot_name = $1"
        is_there = bool((await self.ask(ctx, statement, self.name))["n"])
        return Check(ok=not is_there, reason="an inactive slot holds back the log" if is_there else "")

    async def clean_up(self, ctx: SystemContext) -> None:
        """Drop the slot."""
        await super().clean_up(ctx)
        statement = (
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1"
        )
        await self.ask(ctx, statement, self.name)


class WrongParameter(PostgresDrill):
    """A parameter that somebody set badly."""

    spec = DrillSpec(
        id="postgres.wrong_parameter",
        action="postgres.set_param",
        scenario="wrong_parameter",
        summary="A parameter of your choice set to a bad value of your choice, on a server of your choice.",
        sandbox="named",
        sandbox_keys=("host", "port", "database", "parameter", "bad_value"),
    )

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._before: JsonObject | None = None

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Look up what it is now: to that the action has to bring it back."""
        trial = await super().prepare(ctx)
        found = await self._parameter(ctx)
        if found is None or is_value(found, self.sandbox["bad_value"]):
            raise PermanentError("name a parameter that the server knows, and a bad_value that it has not")
        self._before = found
        is_number = found["vartype"] in ("integer", "real")
        value = float(found["setting"]) if is_number else found["setting"]
        return Trial(trial.target, {"name": found["name"], "value": value})

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Set it badly."""
        await self._set(ctx, str(self.sandbox["bad_value"]))
        while (await self.symptom(ctx, trial)).ok and ctx.seconds_left > 0:
            await ctx.clock.sleep(POLL_SECONDS)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Say whether it is as it was."""
        found = await self._parameter(ctx)
        is_well = found is not None and is_value(found, trial.params["value"])
        return Check(ok=is_well, reason="" if is_well else f"{trial.params['name']} is set badly")

    async def clean_up(self, ctx: SystemContext) -> None:
        """Let the server's own file say what it said before."""
        await super().clean_up(ctx)
        if self._before is not None:
            await self._set(ctx, self._before["setting"] if self._before["is_auto"] else None)

    async def _parameter(self, ctx: SystemContext) -> JsonObject | None:
        async with self.talk(ctx) as db:
            return await parameter_of(db, str(self.sandbox["parameter"]))

    async def _set(self, ctx: SystemContext, value: str | None) -> None:
        async with self.talk(ctx) as db:
            await set_parameter(db, str(self.sandbox["parameter"]), value)


DRILLS: Sequence[type[Drill]] = (
    RunawayQuery,
    LockBlocker,
    IdleInTransaction,
    ConnectionExhaustion,
    DeadTuples,
    InactiveSlot,
    WrongParameter,
)
