"""What the actions on folders share: the list, the thread pool, the deadline, and a record of each attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from actions.fs_quarantine import root_of, space_of
from actions.fs_record import Record
from actions.fs_settings import FilesystemSettings
from oncall_agent.contract import ActionContext, Check, Executor, PermanentError, Target, TransientError
from oncall_agent.models import JsonObject

T = TypeVar("T")
KIND = "directory"
NO_SECRET = {"secrets_redacted": "it is given no secret and says nothing of any file's content"}


class FsExecutor(Executor):
    """An action on one listed folder."""

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self.conf = FilesystemSettings.model_validate(dict(settings))

    def roots(self) -> tuple[str, ...]:
        """Give the folders that this action may work on."""
        return self.conf.roots

    async def ping(self, ctx: ActionContext) -> Check:
        """Say whether the listed folders are there."""
        try:
            missing = await self.bounded(ctx, lambda: [one for one in self.roots() if not _is_folder(one)])
        except TransientError as error:
            return Check(ok=False, reason=error.message)
        reason = f"not there: {', '.join(missing)}"[:300] if missing else f"{len(self.roots())} folders"
        return Check(ok=not missing, reason=reason)

    async def diagnose(self, ctx: ActionContext) -> JsonObject:
        """Collect how full the filesystem is."""
        try:
            found: dict[str, Any] = await self.run(ctx, space_of)
        except (PermanentError, TransientError) as error:
            return {"reason": error.message}
        return found

    async def asked(self, ctx: ActionContext, look: Callable[[str], Check]) -> Check:
        """Give a blocking precheck's answer; what can't be is a refusal, and a protected target always is."""
        if ctx.target.protected:
            return Check(ok=False, reason="the target is protected")
        try:
            return await self.run(ctx, look)
        except PermanentError as error:
            return Check(ok=False, reason=error.message)

    async def run(self, ctx: ActionContext, work: Callable[[str], T]) -> T:
        """Run blocking work on the target's folder inside the deadline.

        Raises:
            TransientError: the filesystem does not answer in time.
            PermanentError: the folder is not listed, or the system refuses.
        """
        return await self.bounded(ctx, lambda: work(root_of(ctx.target, self.roots())))

    async def bounded(self, ctx: ActionContext, work: Callable[[], T]) -> T:
        """Run blocking work inside the deadline; errors as `run`."""
        try:
            async with asyncio.timeout(max(ctx.seconds_left, 0.05)):
                return await ctx.run_blocking(partial(work))
        except TimeoutError:
            raise TransientError("the filesystem does not answer in time") from None
        except OSError as error:
            raise PermanentError(f"the folder can't be worked on: {error.strerror}") from error

    def record(self, ctx: ActionContext, root: str) -> Record:
        """Give the memory of this attempt."""
        base = self.conf.saved_folder or root
        return Record(base, root, ctx.idempotency_key, self.conf.quarantine_seconds)


def _is_folder(path: str) -> bool:
    try:
        root_of(Target("listed", KIND, address={"root": path}), (path,))
    except PermanentError:
        return False
    return True
