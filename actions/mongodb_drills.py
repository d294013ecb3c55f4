"""Faults made on purpose on a sandbox: a collection of the drill's own, and connections of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any, ClassVar

from actions.mongodb_client import KIND, Mongo, Place
from actions.mongodb_facts import operations_of, transactions_of
from oncall_agent.contract import (
    Check,
    Drill,
    DrillSpec,
    PermanentError,
    SystemContext,
    Target,
    Trial,
    UnfitSandboxError,
)
from oncall_agent.models import JsonObject

DATABASE = "oncall-agent-drill"
_DOCUMENTS = 300
_CROSSINGS = 3
_LONGEST_MILLISECONDS = 120_000
_ALL: dict[str, Any] = {"allUsers": True, "idleSessions": True}


class MongoDrill(Drill):
    """Makes a collection in the database `oncall-agent-drill` of the first deployment, and removes it.

    Sandbox keys: `deployment` (name), if it is not the first one.
    """

    spec: ClassVar[DrillSpec]

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self.mongo = Mongo(settings)
        # Connections of an application, so that the drill's own questions never wait for them.
        self.application = Mongo(settings)
        self.collection = f"drill_{secrets.token_hex(6)}"
        self._waiting: set[asyncio.Task[None]] = set()

    async def place(self, ctx: SystemContext) -> Place:
        """Give the member of the sandbox's deployment that takes writes."""
        name = self.sandbox.get("deployment") or next(iter(self.mongo.settings.deployments), None)
        if name not in self.mongo.settings.deployments:
            raise PermanentError("name a `deployment` of backends.mongodb as sandbox for mongodb")
        for place in self.mongo.places(str(name)):
            hello = await self.ask(ctx, place, {"hello": 1})
            if hello.get("isWritablePrimary"):
                return place
        raise PermanentError(f"no member of {name} takes writes")

    async def ask(
        self, ctx: SystemContext, place: Place, document: dict[str, Any], database: str = "admin"
    ) -> dict[str, Any]:
        """Run one command."""
        return await self.mongo.command(place, document, seconds=ctx.seconds_left, database=database)

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Make the collection."""
        place = await self.place(ctx)
        documents = [{"_id": number} for number in range(_DOCUMENTS)]
        await self.ask(ctx, place, {"insert": self.collection, "documents": documents}, DATABASE)
        address = {"deployment": place.name, "member": place.host}
        return Trial(Target(f"drill-{place.name}", KIND, address=address), self.params())

    def params(self) -> JsonObject:
        """Give the parameters of the action."""
        return {}

    async def listed(self, ctx: SystemContext) -> list[dict[str, Any]]:
        """Give what runs and what is open."""
        document = {"aggregate": 1, "pipeline": [{"$currentOp": _ALL}], "cursor": {"batchSize": 5_000}}
        found: list[dict[str, Any]] = (await self.ask(ctx, await self.place(ctx), document))["cursor"][
            "firstBatch"
        ]
        return found

    def wait_for(self, call: Any) -> None:
        """Let a call of an application wait for its answer, whatever that is."""

        async def waiting() -> None:
            with contextlib.suppress(Exception):
                await call

        one = asyncio.create_task(waiting())
        self._waiting.add(one)
        one.add_done_callback(self._waiting.discard)

    async def become_sick(self, ctx: SystemContext, trial: Trial) -> None:
        """Wait until the fault is seen."""
        while ctx.seconds_left and (await self.symptom(ctx, trial)).ok:
            await ctx.clock.sleep(0.1)

    async def clean_up(self, ctx: SystemContext) -> None:
        """Close the application's connections, end what still runs on the collection, and drop it."""
        for one in list(self._waiting):
            one.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        await self.application.close()
        try:
            with contextlib.suppress(PermanentError):
                await self._end_operations(ctx)
            with contextlib.suppress(PermanentError):
                await self.ask(ctx, await self.place(ctx), {"drop": self.collection}, DATABASE)
        finally:
            await self.mongo.close()

    async def _end_operations(self, ctx: SystemContext) -> None:
        """A server may go on for a client that is gone, and the collection can't be dropped meanwhile."""
        place, namespace = await self.place(ctx), f"{DATABASE}.{self.collection}"
        for one in operations_of(await self.listed(ctx)):
            if one.namespace == namespace:
                await self.ask(ctx, place, {"killOp": 1, "op": one.id})


class RunawayQuery(MongoDrill):
    """A query that would take hours."""

    spec = DrillSpec(
        id="mongodb.runaway_query",
        action="mongodb.kill_op",
        scenario="database_timeout_recovery",
        summary="A query on a collection of the drill's own joins it with itself until it is ended.",
    )

    def params(self) -> JsonObject:
        """Only the drill's own collection."""
        return {"namespace": f"{DATABASE}.{self.collection}", "min_seconds": 1, "hold_seconds": 0.5}

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Begin it; should nobody end it, the server does after two minutes."""
        place = await self.place(ctx)
        document = {
            "aggregate": self.collection,
            "pipeline": _endless(self.collection),
            "cursor": {},
            "maxTimeMS": _LONGEST_MILLISECONDS,
        }
        self.wait_for(
            self.application.command(place, document, seconds=3_600, database=DATABASE, is_long=True)
        )
        await self.become_sick(ctx, trial)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Well when it does not run."""
        namespace = f"{DATABASE}.{self.collection}"
        found = [
            one
            for one in operations_of(await self.listed(ctx))
            if one.namespace == namespace and one.seconds >= 1
        ]
        return Check(ok=not found, reason=f"it has run for {found[0].seconds} s" if found else "")


class OpenTransaction(MongoDrill):
    """A transaction that its client has forgotten."""

    spec = DrillSpec(
        id="mongodb.open_transaction",
        action="mongodb.kill_open_transactions",
        scenario="database_timeout_recovery",
        summary="A transaction on a collection of the drill's own was begun and is never ended.",
    )

    def __init__(self, settings: JsonObject, sandbox: JsonObject) -> None:
        super().__init__(settings, sandbox)
        self._session: Any = None

    def params(self) -> JsonObject:
        """Only what this program's own connections have left open."""
        return {"application": "oncall-agent", "min_open_seconds": 1, "hold_seconds": 0.5}

    async def prepare(self, ctx: SystemContext) -> Trial:
        """Need a replica set or a router: a single server has no transactions."""
        hello = await self.ask(ctx, await self.place(ctx), {"hello": 1})
        if not hello.get("setName") and hello.get("msg") != "isdbgrid":
            raise UnfitSandboxError("it has no transactions: it is neither a replica set nor a router")
        return await super().prepare(ctx)

    async def inject(self, ctx: SystemContext, trial: Trial) -> None:
        """Begin it, change one document, and go away."""
        place = await self.place(ctx)
        client = self.application.client(place)
        try:
            async with asyncio.timeout(ctx.seconds_left):
                self._session = client.start_session()
                await self._session.start_transaction()
                await client[DATABASE][self.collection].update_one(
                    {"_id": 0}, {"$set": {"open": True}}, session=self._session
                )
        except Exception as error:
            raise PermanentError(f"a transaction can't be begun there: {type(error).__name__}") from error
        await self.become_sick(ctx, trial)

    async def symptom(self, ctx: SystemContext, trial: Trial) -> Check:
        """Well when it is not open."""
        own = self._session and self._session.session_id["id"]
        found = [
            one
            for one in transactions_of(await self.listed(ctx))
            if own is not None and one.session == own and one.open_seconds >= 1
        ]
        return Check(
            ok=not found, reason=f"it has been open for {found[0].open_seconds:.0f} s" if found else ""
        )

    async def clean_up(self, ctx: SystemContext) -> None:
        """Give the session back first."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(Exception):
                await session.end_session()
        await super().clean_up(ctx)


def _endless(collection: str) -> list[dict[str, Any]]:
    """Join the collection with itself again and again: hours of work, and every step can be interrupted."""
    crossed: list[dict[str, Any]] = []
    for number in range(_CROSSINGS):
        crossed += [
            {"$lookup": {"from": collection, "pipeline": [], "as": f"j{number}"}},
            {"$unwind": f"$j{number}"},
        ]
    return [*crossed, {"$group": {"_id": None, "n": {"$sum": 1}}}]


DRILLS: tuple[type[Drill], ...] = (RunawayQuery, OpenTransaction)
