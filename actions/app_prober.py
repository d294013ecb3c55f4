"""The prober of apps: their own status, or what monitoring knows when their domain does not answer."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from actions.app_client import AppClient, address_of, bounded, object_of, signals_of
from actions.app_monitoring import signals_seen
from oncall_agent.contract import (
    ActionError,
    Clock,
    PermanentError,
    Prober,
    Reading,
    Signals,
    Target,
    TransientError,
)
from oncall_agent.contract.executor import RunBlocking
from oncall_agent.contract.http import RefusedError, UnresolvedError
from oncall_agent.models import JsonObject


class AppProber(Prober):
    """Reads `/api/v1/status`: an app that does not answer is down, an unknown host name is blindness.

    With `monitoring`, a domain that does not answer is neither: what monitoring says counts. A host on which nothing
    listens is down whatever monitoring still believes.
    """

    kind = "app"

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._app = AppClient(settings)

    async def __aenter__(self) -> Self:
        await self._app.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._app.http.__aexit__(kind, error, trace)

    async def read(
        self, target: Target, params: Any, *, timeout_seconds: float, clock: Clock, run_blocking: RunBlocking
    ) -> Reading:
        """Read the app's own numbers and how long it took to give them."""
        began = clock.monotonic()
        try:
            answer = await self._app.read(address_of(target).status, self._app.share(timeout_seconds))
        except TransientError as error:
            return await self._without_answer(target, error, timeout_seconds - (clock.monotonic() - began))
        except PermanentError as error:
            raise TransientError(f"the app can't be asked: {error.message}") from error
        try:
            status = object_of(answer.check((200,)))
        except ActionError as error:
            return Reading(Signals(up=False), {"reason": error.message})
        return Reading(signals_of(status, clock.monotonic() - began), bounded(status))

    async def _without_answer(self, target: Target, error: TransientError, seconds: float) -> Reading:
        if not isinstance(error, RefusedError):
            seen = await self._app.seen(target, seconds)
            if seen:
                facts = {**seen, "source": "monitoring", "reason": error.message}
                return Reading(signals_seen(seen), facts)
        if isinstance(error, UnresolvedError):
            raise error
        return Reading(Signals(up=False), {"reason": error.message})
