"""What the mongodb actions share: the connections, diagnostics, and when a deployment must not be touched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

from actions.mongodb_client import Mongo, Place
from actions.mongodb_facts import operations_of, server_time_of, status_facts, version_of
from oncall_agent.contract import ActionContext, ActionError, Check, Executor, TransientError
from oncall_agent.models import JsonObject

_MAX_LISTED = 20
_BATCH = 5_000
NO_MONGOD = "no mongod was at hand: contract-tested on a fake that speaks the wire protocol"


class MongoExecutor(Executor):
    """One mongodb action; the subclasses hold the four steps."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.mongo = Mongo(settings)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.mongo.close()

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether every configured deployment (or the target's) has a member that answers."""
        name = ctx.target.address.get("deployment")
        names = [str(name)] if name else list(self.mongo.settings.deployments)
        if not names or any(one not in self.mongo.settings.deployments for one in names):
            return Check(ok=False, reason="no such deployment is configured in backends.mongodb")
        said = [await self._answer(ctx, one) for one in names]
        return Check(ok=all(ok for ok, _ in said), reason="; ".join(text for _, text in said))

    async def _answer(self, ctx: ActionContext, name: str) -> tuple[bool, str]:
        text = ""
        for place in self.mongo.places(name):
            try:
                build = await self.command(ctx, {"buildInfo": 1}, place=place)
            except ActionError as error:
                text = error.message
            else:
                return True, " ".join(version_of(build))
        return False, text

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect how the server is and what has run longest, without the commands' own text."""
        found: dict[str, Any] = {}
        try:
            place = await self.place(ctx)
            found = status_facts(await self.command(ctx, {"serverStatus": 1}, place=place))
            running = sorted(
                operations_of(await self.current(ctx, place)), key=lambda one: one.seconds, reverse=True
            )
            found |= {"member": place.host, "operations": [one.as_facts() for one in running[:_MAX_LISTED]]}
        except ActionError as error:
            found["reason"] = error.message
        return found

    async def command(
        self,
        ctx: ActionContext,
        document: Mapping[str, Any],
        *,
        place: Place | None = None,
        database: str = "admin",
        is_long: bool = False,
    ) -> dict[str, Any]:
        """Run one command inside the attempt's deadline."""
        where = place or await self.place(ctx)
        return await self.mongo.command(
            where, document, seconds=ctx.seconds_left, database=database, is_long=is_long
        )

    async def place(self, ctx: ActionContext) -> Place:
        """Give the member that the target's address names, else the one that takes writes."""
        places = self.mongo.places_of(ctx.target)
        if len(places) == 1:
            return places[0]
        said = "none of its members takes writes"
        for one in places:
            try:
                if (await self.hello(ctx, one)).get("isWritablePrimary"):
                    return one
            except TransientError as error:
                said = error.message
        raise TransientError(f"MongoDB {places[0].name}: {said}")

    async def hello(self, ctx: ActionContext, place: Place) -> dict[str, Any]:
        """Ask a member what it is."""
        return await self.command(ctx, {"hello": 1}, place=place)

    async def current(
        self, ctx: ActionContext, place: Place, *, with_idle: bool = False
    ) -> list[dict[str, Any]]:
        """Give what `$currentOp` lists, bounded."""
        stage = {"$currentOp": {"allUsers": True, "idleSessions": with_idle}}
        pipeline = [stage, {"$limit": _BATCH}]
        document = {"aggregate": 1, "pipeline": pipeline, "cursor": {"batchSize": _BATCH}}
        found: list[dict[str, Any]] = (await self.command(ctx, document, place=place))["cursor"]["firstBatch"]
        return found

    async def since_begun(self, ctx: ActionContext, place: Place) -> float:
        """Give the server's clock at the moment when the attempt began, whatever ours says."""
        now = server_time_of(await self.hello(ctx, place))
        return (ctx.clock.now() if now is None else now) - (ctx.clock.now() - ctx.started_at)

    def objection(self, ctx: ActionContext) -> str:
        """Give why the deployment must not be touched at all, or an empty text; protected always wins."""
        place = self.mongo.places_of(ctx.target)[0]
        if ctx.target.protected or place.deployment.protected:
            return f"MongoDB {place.name} is protected"
        return ""


async def sampled(sample: Callable[[], Awaitable[Check]]) -> Check:
    """Ask once; a server that is away for a moment is a sample that was not ok."""
    try:
        return await sample()
    except TransientError as error:
        return Check(ok=False, reason=error.message)
