"""The prober that reads the health of a MongoDB deployment."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from actions.mongodb_client import Mongo
from actions.mongodb_facts import is_router, status_facts
from oncall_agent.contract import (
    Clock,
    NoParams,
    PermanentError,
    Prober,
    Reading,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.models import JsonObject


class MongoProber(Prober):
    """Up when a member takes writes (or the one that is named answers); connections in use count as memory."""

    kind = "mongodb"
    params = NoParams

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._mongo = Mongo(settings)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._mongo.close()

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Send hello to each member until one will do, and ask it how it is."""
        end, said = clock.monotonic() + timeout_seconds, "none of its members takes writes"
        try:
            places = self._mongo.places_of(target)
            for place in places:
                left = (end - clock.monotonic()) / 2
                try:
                    began = clock.monotonic()
                    hello = await self._mongo.command(place, {"hello": 1}, seconds=left)
                    took = clock.monotonic() - began
                    if not (hello.get("isWritablePrimary") or is_router(hello) or len(places) == 1):
                        continue
                    status = await self._mongo.command(place, {"serverStatus": 1}, seconds=left)
                except TransientError as error:
                    said = error.message
                else:
                    return Reading(
                        Signals(up=True, response_seconds=took),
                        {"member": place.host, **status_facts(status)},
                    )
        except PermanentError as error:
            raise TransientError(error.message) from error
        return Reading(Signals(up=False), {"reason": said})
